"""Soft attention: its protocols, its explanations against loops, both searches, and supervised attention."""

from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch

from cgsaliency.core.errors import InputError
from cgsaliency.core.explanation import load_explanation, save_explanation
from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.protocols import AttentionCaptioner, Captioner, Descriptors
from cgsaliency.core.records import Caption, Phrase, Sample
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.explain.attention import attention
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.cgvs_video import spacetime
from cgsaliency.models.base import load_captioner
from cgsaliency.models.decode import beam_search, greedy_search
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention, attention_loss, attention_targets
from cgsaliency.train.captioner import encode_captions, train_captioner
from cgsaliency.train.loop import TrainConfig

COLORS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}
SIDE = 4
CAPTION = "a red ball and a blue ball".split()
VOCABULARY = Vocabulary.from_captions([CAPTION, ["green"]])


@pytest.fixture
def captioner() -> SoftAttention:
    torch.manual_seed(0)
    return SoftAttention(VOCABULARY, feature_dim=6, word_dim=12, hidden_dim=24, attention_dim=16, max_words=8).eval()


def descriptors(num_frames: int = 1) -> Descriptors:
    features = 3 * torch.randn(num_frames * SIDE * SIDE, 6, generator=torch.Generator().manual_seed(1))
    return Descriptors(
        features,
        CellGrid.uniform(SIDE, SIDE, 40, 40),
        ImageCrop.full(40, 40, 40),
        tuple(float(k) for k in range(num_frames)),
    )


@torch.no_grad()
def reference_steps(
    captioner: SoftAttention, features: torch.Tensor, token_ids: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    "Return softmax, n × V, and attention weights, n × m, before each word, one step after the other."
    state, weights, softmax = captioner.init_state(features[None]), [], []
    for t in range(len(token_ids)):
        embedded = torch.zeros(1, 12) if t == 0 else captioner.embed_word(torch.tensor(token_ids[t - 1 : t]))
        state, context, step_weights = captioner.lstm_step(state, embedded)
        softmax.append(captioner.output(state.h, context, embedded)[0].softmax(0))
        weights.append(step_weights[0])
    return torch.stack(softmax), torch.stack(weights)


def test_soft_attention_is_an_attention_captioner_and_s2vt_is_not(captioner):
    assert isinstance(captioner, Captioner) and isinstance(captioner, AttentionCaptioner)
    without_attention = S2VT(VOCABULARY, feature_dim=6, embed_dim=8, word_dim=8, hidden_dim=8)
    assert isinstance(without_attention, Captioner) and not isinstance(without_attention, AttentionCaptioner)


@pytest.mark.parametrize("num_frames", [1, 3])
def test_attention_weights_as_an_explanation(captioner, tmp_path, num_frames):
    inputs = descriptors(num_frames)
    explanation = attention(captioner, inputs, ["Look", *CAPTION, "!"])
    sums = explanation.saliency.sum((1, 2, 3))
    assert (
        torch.allclose(sums[1:-1], torch.ones(7), atol=1e-6)
        and sums[[0, -1]].eq(0).all()
        and explanation.saliency.min() >= 0
    )
    token_ids = captioner.encode_words(CAPTION)[0].tolist()
    assert (
        explanation.saliency[1:-1].flatten(1) - reference_steps(captioner, inputs.features, token_ids)[1]
    ).abs().max() < 1e-6
    assert explanation.is_density and explanation.saliency[1:-1].flatten(1).std(1).min() > 1e-3
    loaded = load_explanation(save_explanation(explanation, tmp_path / "attention.safetensors"))
    assert (
        loaded.is_density
        and torch.equal(loaded.saliency, explanation.saliency)
        and (loaded.targets, loaded.times, loaded.method) == (explanation.targets, explanation.times, "attention")
    )
    for density in (explanation, loaded):  # a density is not scaled before it is summed
        assert torch.allclose(density.as_distribution().saliency[1:-1], explanation.saliency[1:-1], atol=1e-6)
        assert torch.allclose(
            density.merge(slice(1, 4)).as_distribution().saliency[0], explanation.saliency[1:4].mean(0), atol=1e-6
        )
    cgvs_maps = cgvs(captioner, inputs, CAPTION)
    assert (
        not cgvs_maps.is_density
        and not load_explanation(save_explanation(cgvs_maps, tmp_path / "cgvs.safetensors")).is_density
    )


@pytest.mark.parametrize("loss", ["nll", "kl"])
def test_cgvs_and_spacetime_equal_loops(captioner, loss):
    inputs = descriptors()
    token_ids = captioner.encode_words(CAPTION)[0].tolist()
    p, _ = reference_steps(captioner, inputs.features, token_ids)
    expected = []
    for feature in inputs.features:
        q, weights = reference_steps(captioner, feature[None], token_ids)
        assert weights.eq(1).all()  # with one descriptor its weight is 1
        expected.append(
            torch.stack(
                [
                    -q[t, word].log() if loss == "nll" else (p[t] * (p[t] / q[t]).log()).sum()
                    for t, word in enumerate(token_ids)
                ]
            )
        )
    for batch_size in (None, 1, 5):
        assert (
            cgvs(captioner, inputs, CAPTION, loss=loss, batch_size=batch_size).saliency.flatten(1)
            + torch.stack(expected, 1)
        ).abs().max() < 1e-5
    video = descriptors(3)
    explanation = spacetime(captioner, video, CAPTION, loss)
    if loss == "nll":
        assert torch.allclose(explanation.spatial.saliency, cgvs(captioner, video, CAPTION).saliency, atol=1e-5)
    assert torch.allclose(
        explanation.joint.saliency, explanation.spatial.saliency + explanation.temporal.saliency, atol=1e-6
    )


def test_greedy_and_beam_search_return_the_log_probability_of_their_captions(captioner):
    features = torch.stack([descriptors().features, -descriptors().features])
    captioner.train()
    greedy, greedy_log_probs = greedy_search(captioner, features)
    beam_captions, beam_log_probs = beam_search(captioner, features, beam=4, max_words=6)
    assert captioner.training
    captioner.eval()
    for feature, caption, log_prob in zip(features, greedy, greedy_log_probs):
        token_ids, total = [], 0.0
        while not token_ids or token_ids[-1]:
            # the last step does not depend on its own word
            softmax, _ = reference_steps(captioner, feature, [*token_ids, 0])
            token_ids.append(int(softmax[-1].argmax()) if len(token_ids) < 24 else 0)
            total += softmax[-1, token_ids[-1]].log().item()
        assert caption == token_ids[:-1] and log_prob.item() == pytest.approx(total, abs=1e-4)
    for feature, caption, log_prob in zip(features, beam_captions, beam_log_probs):
        softmax, _ = reference_steps(captioner, feature, [*caption, 0])
        assert len(caption) <= 6 and log_prob.item() == pytest.approx(
            sum(softmax[t, word].log().item() for t, word in enumerate([*caption, 0])), abs=1e-4
        )
    greedy_scores = beam_search(captioner, features, beam=1, max_words=6)[1]
    assert (beam_log_probs >= greedy_scores - 1e-5).all()  # the wider search finds nothing worse here


@pytest.mark.parametrize("explain", [attention, cgvs])
def test_wrong_captions_and_descriptors_are_rejected(captioner, explain):
    for tokens, message in [
        ([], "is empty"),
        (["zebra"], "none of its words"),
        (["ball"] * 9, "has 9 words; this captioner allows 8"),
    ]:
        with pytest.raises(InputError, match=message):
            explain(captioner, descriptors(), tokens)
    assert explain(captioner, descriptors(), ["ball"] * 9, truncate=True).saliency[8].eq(0).all()
    with pytest.raises(InputError, match="have 5 features; this captioner was made for 6"):
        explain(
            captioner,
            Descriptors(torch.rand(16, 5), CellGrid.uniform(SIDE, SIDE, 40, 40), ImageCrop.full(40, 40, 40)),
            CAPTION,
        )


# Supervised attention


def colored_cells(count: int) -> tuple[list[Sample], torch.Tensor]:
    """Return samples with two colored cells in noise, whose captions have phrases with these cells as boxes, and their
    descriptors."""
    rng, noise = Random("balls"), torch.Generator().manual_seed(2)
    samples, features = [], 0.1 * torch.randn(count, SIDE * SIDE, 6, generator=noise)
    for k in range(count):
        names, cells, phrases = rng.sample(list(COLORS), 2), rng.sample(range(SIDE * SIDE), 2), []
        for index, (name, cell) in enumerate(zip(names, cells)):
            features[k, cell, :3] += torch.tensor(COLORS[name])
            y, x = divmod(cell, SIDE)
            phrases.append(
                Phrase(
                    4 * index,
                    4 * index + 3,
                    str(index + 1),
                    ("other",),
                    ((10.0 * x, 10.0 * y, 10.0 * x + 10, 10.0 * y + 10),),
                )
            )
        samples.append(
            Sample(
                str(k),
                Path(f"{k}.jpg"),
                40,
                40,
                (Caption(("a", names[0], "ball", "and", "a", names[1], "ball"), tuple(phrases)),),
            )
        )
    return samples, features


@pytest.mark.slow
def test_supervision_moves_attention_into_the_boxes(tmp_path):
    samples, features = colored_cells(160)
    model_kwargs = {"feature_dim": 6, "word_dim": 12, "hidden_dim": 24, "attention_dim": 16, "max_words": 8}
    captions = encode_captions(samples, VOCABULARY, 8, 1)
    maps = attention_targets(samples, [ImageCrop.full(40, 40, 40)] * len(samples), VOCABULARY, SIDE, SIDE, 8, 1)
    train, val = slice(0, 120), slice(120, 160)
    batch = (features[val], captions[val], maps[val].float())

    def evaluate(model) -> tuple[float, float]:
        "Return the supervised term, nats a word, and the share of attention in the boxes, on validation samples."
        with torch.no_grad():
            loss_term = (
                attention_loss(model, batch, supervision_weight=1.0).item() - attention_loss(model, batch).item()
            )
            weights, in_boxes = model.attention(features[val], captions[val, 0, :7]), maps[val, 0, :7].gt(0)
        return loss_term, (weights * in_boxes).sum(-1)[in_boxes.any(-1)].mean().item()

    def train_model(weight: float):
        loss = partial(attention_loss, supervision_weight=weight)
        return train_captioner(
            SoftAttention,
            tmp_path / str(weight),
            VOCABULARY,
            model_kwargs,
            features[train],
            captions[train],
            TrainConfig(epochs=10, batch_size=20, learning_rate=0.01),
            loss,
            (maps[train],),
            settings={"supervision_weight": weight},
            progress=False,
        )[0].cpu()

    torch.manual_seed(0)
    initial_term, _ = evaluate(SoftAttention(VOCABULARY, **model_kwargs).eval())
    (term_without, share_without), (term_with, share_with) = (evaluate(train_model(weight)) for weight in (0.0, 1.0))
    assert (
        term_with < 0.7 * initial_term
        and term_with < term_without
        and share_with > share_without + 0.15
        and share_without < 0.4
    ), (
        initial_term,
        term_without,
        term_with,
        share_without,
        share_with,
    )
    model = load_captioner(SoftAttention, tmp_path / "1.0")
    assert evaluate(model) == pytest.approx((term_with, share_with), abs=1e-5)
    sample, inputs = (
        samples[val][0],
        Descriptors(features[val][0], CellGrid.uniform(SIDE, SIDE, 40, 40), ImageCrop.full(40, 40, 40)),
    )
    explanation = attention(model, inputs, sample.captions[0].tokens)
    assert torch.allclose(
        explanation.saliency.flatten(1), model.attention(features[val][:1], captions[val][:1, 0, :7])[0], atol=1e-6
    )
    with pytest.raises(InputError):
        load_captioner(S2VT, tmp_path / "1.0")
