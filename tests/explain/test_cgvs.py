"""CGVS against loops over descriptors and words, and its errors."""

import pytest
import torch
from safetensors.torch import save_file

from cgsaliency.core.errors import InputError
from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.io import write_json
from cgsaliency.core.protocols import Captioner, Descriptors
from cgsaliency.data.vocabulary import Vocabulary, save_vocabulary
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.models.base import load_captioner
from cgsaliency.models.s2vt import S2VT, scan_order

MODEL_KWARGS = {"feature_dim": 32, "embed_dim": 24, "word_dim": 12, "hidden_dim": 40, "max_words": 6}
WORDS = "a man in red shirt plays guitar on stage with his dog".split()
CAPTION = "A man in a red shirt".split()


@pytest.fixture
def captioner() -> S2VT:
    torch.manual_seed(0)
    return S2VT(
        Vocabulary.from_captions([WORDS]), **MODEL_KWARGS, scan_indices=scan_order(8, 8, "snake").tolist()
    ).eval()


@pytest.fixture
def descriptors() -> Descriptors:
    return Descriptors(
        torch.rand(64, 32, generator=torch.Generator().manual_seed(1)),
        CellGrid.uniform(8, 8, 224, 224),
        ImageCrop.full(500, 375, 224),
    )


def reference_losses(captioner, descriptors, tokens, loss):
    "Compute Loss(t, i) as in the paper: one descriptor at a time, one word after the other, with the full softmax."
    words = [captioner.vocabulary.index[token.lower()] for token in tokens]

    def steps(values):
        state, distributions = captioner.init_state(values[None]), []
        h, c = state.h[None], state.c[None]
        for t in range(len(words)):
            inputs = captioner.decoder_inputs(torch.tensor([words[: t + 1]]))[:, -1:]
            output, (h, c) = captioner.lstm(inputs, (h, c))
            distributions.append(captioner.to_logits(output[0, 0]).softmax(0))
        return torch.stack(distributions)

    p = steps(descriptors.features)
    losses = []
    for i in range(len(descriptors)):
        q = steps(descriptors.features[i : i + 1])
        losses.append(
            torch.stack(
                [
                    -q[t, word].log() if loss == "nll" else (p[t] * (p[t] / q[t]).log()).sum()
                    for t, word in enumerate(words)
                ]
            )
        )
    return torch.stack(losses, 1)


@pytest.mark.parametrize("loss", ["nll", "kl"])
@pytest.mark.parametrize("batch_size", [None, 7, 1])
def test_cgvs_equals_a_loop_over_descriptors(captioner, descriptors, loss, batch_size):
    assert isinstance(captioner, Captioner)
    explanation = cgvs(captioner, descriptors, CAPTION, loss=loss, batch_size=batch_size)
    with torch.no_grad():
        expected = reference_losses(captioner, descriptors, CAPTION, loss)
    assert (explanation.saliency.flatten(1) + expected).abs().max() < 1e-5
    phrase = -expected[3:6].sum(0)
    expected_map = (phrase - phrase.min()) / (phrase.max() - phrase.min())
    assert (explanation.merge(slice(3, 6)).min_max().saliency.flatten() - expected_map).abs().max() < 1e-4


def test_cgvs_is_deterministic_and_restores_training_mode(captioner, descriptors):
    captioner.train()
    before = {name: value.clone() for name, value in captioner.state_dict().items()}
    first, second = (cgvs(captioner, descriptors, CAPTION).saliency for _ in range(2))
    assert torch.equal(first, second) and captioner.training
    assert all(torch.equal(value, before[name]) for name, value in captioner.state_dict().items())


@pytest.mark.parametrize(
    "tokens, message",
    [
        ([], "is empty"),
        (["."], "none of its words"),
        ("Zebras gallop !".split(), "none of its words"),
        ("a man in a red shirt plays guitar".split(), "8 words; this captioner allows 6"),
    ],
)
def test_captions_that_cannot_be_explained_are_rejected(captioner, descriptors, tokens, message):
    with pytest.raises(InputError) as error:
        cgvs(captioner, descriptors, tokens)
    assert message in str(error.value), error.value


def test_long_captions_are_truncated_and_unknown_words_get_flat_maps(captioner, descriptors):
    explanation = cgvs(captioner, descriptors, "a zebra man in a red shirt plays guitar".split(), truncate=True)
    flat = [values.max() == values.min() for values in explanation.saliency]
    assert [bool(is_flat) for is_flat in flat] == [False, True, False, False, False, False, False, True, True]


def test_unknown_losses_are_rejected(captioner, descriptors):
    with pytest.raises(InputError, match="'words'.*Choose 'nll' or 'kl'"):
        cgvs(captioner, descriptors, CAPTION, loss="words")


def test_descriptors_of_another_backbone_are_rejected(captioner):
    with pytest.raises(InputError, match="have 16 features; this captioner was made for 32"):
        cgvs(
            captioner,
            Descriptors(torch.rand(64, 16), CellGrid.uniform(8, 8, 224, 224), ImageCrop.full(500, 375, 224)),
            CAPTION,
        )


def test_weights_of_another_architecture_and_broken_folders_are_reported(captioner, tmp_path):
    def write_model(model_kwargs=MODEL_KWARGS, weights=None):
        weights = captioner.state_dict() if weights is None else weights
        write_json(tmp_path / "model_kwargs.json", {**model_kwargs, "scan_indices": scan_order(8, 8, "snake").tolist()})
        save_vocabulary(captioner.vocabulary, tmp_path / "vocabulary.json")
        save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "best.safetensors")

    write_model()
    load_captioner(S2VT, tmp_path)
    for arguments, message in [
        ({"model_kwargs": {**MODEL_KWARGS, "hidden_dim": 41}}, "of another shape"),
        ({"weights": {"conv.weight": torch.zeros(1)}}, "unexpected, such as conv.weight"),
    ]:
        write_model(**arguments)
        with pytest.raises(InputError, match=message):
            load_captioner(S2VT, tmp_path)
    write_model()
    content = (tmp_path / "best.safetensors").read_bytes()
    (tmp_path / "best.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        load_captioner(S2VT, tmp_path)
    write_model()
    (tmp_path / "model_kwargs.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_captioner(S2VT, tmp_path)
    (tmp_path / "vocabulary.json").unlink()
    write_model()
    (tmp_path / "vocabulary.json").unlink()
    with pytest.raises(InputError, match="is not there"):
        load_captioner(S2VT, tmp_path)
