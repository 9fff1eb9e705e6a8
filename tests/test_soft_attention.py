"""Soft attention across modules: on the contracts, in every explainer and decoder, and taught where to look."""
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch

from cgsaliency.core.contracts import Attentive, Captioner, Descriptors
from cgsaliency.core.errors import BadInput
from cgsaliency.core.explanation import distribution, load_explanation, merged, save_explanation
from cgsaliency.core.geometry import Grid, View
from cgsaliency.core.records import Phrase, Record, Sentence
from cgsaliency.data.text import Vocabulary
from cgsaliency.explain.attention import attention
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.spacetime import spacetime
from cgsaliency.models.captioning import load_captioner, target_words, train_captioner
from cgsaliency.models.decode import beam_search, greedy
from cgsaliency.models.fit import Recipe
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention, attention_loss, attention_targets

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}
SIDE = 4
SENTENCE = "a red ball and a blue ball".split()
VOCABULARY = Vocabulary.of([SENTENCE, ["green"]])


@pytest.fixture
def captioner() -> SoftAttention:
    torch.manual_seed(0)
    return SoftAttention(VOCABULARY, features=6, words=12, hidden=24, attending=16, max_words=8).eval()


def descriptors(frames: int = 1) -> Descriptors:
    values = 3 * torch.randn(frames * SIDE * SIDE, 6, generator=torch.Generator().manual_seed(1))
    return Descriptors(values, Grid.even(SIDE, SIDE, 40, 40), View.whole(40, 40, 40), tuple(float(k) for k in range(frames)))


@torch.no_grad()
def steps(captioner: SoftAttention, values: torch.Tensor, words: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    "The softmax, n × V, and the weights, n × m, before each word, said one by one."
    state, weights, softmax = captioner.begin(values[None]), [], []
    for t in range(len(words)):
        embedded = torch.zeros(1, 12) if t == 0 else captioner.embed_word(torch.tensor(words[t - 1:t]))
        state, context, own = captioner.step(state, embedded)
        softmax.append(captioner.output(state[0], context, embedded)[0].softmax(0))
        weights.append(own[0])
    return torch.stack(softmax), torch.stack(weights)


def test_it_is_a_captioner_with_attention_and_s2vt_is_not(captioner):
    assert isinstance(captioner, Captioner) and isinstance(captioner, Attentive)
    plain = S2VT(VOCABULARY, features=6, embedding=8, words=8, hidden=8)
    assert isinstance(plain, Captioner) and not isinstance(plain, Attentive)


@pytest.mark.parametrize("frames", [1, 3])
def test_its_weights_as_an_explanation(captioner, tmp_path, frames):
    seen = descriptors(frames)
    explanation = attention(captioner, seen, ["Look", *SENTENCE, "!"])
    sums = explanation.saliency.sum((1, 2, 3))
    assert torch.allclose(sums[1:-1], torch.ones(7), atol=1e-6) and sums[[0, -1]].eq(0).all() and explanation.saliency.min() >= 0
    words = captioner.encode_words(SENTENCE)[0].tolist()
    assert (explanation.saliency[1:-1].flatten(1) - steps(captioner, seen.values, words)[1]).abs().max() < 1e-6
    assert explanation.measure and explanation.saliency[1:-1].flatten(1).std(1).min() > 1e-3
    again = load_explanation(save_explanation(explanation, tmp_path / "attention.safetensors"))
    assert again.measure and torch.equal(again.saliency, explanation.saliency) and (again.targets, again.times, again.method) == (explanation.targets, explanation.times, "attention")
    for one in (explanation, again):    # shares stay shares: they are not stretched before they are summed up
        assert torch.allclose(distribution(one).saliency[1:-1], explanation.saliency[1:-1], atol=1e-6)
        assert torch.allclose(distribution(merged(one, slice(1, 4))).saliency[0], explanation.saliency[1:4].mean(0), atol=1e-6)
    asked = cgvs(captioner, seen, SENTENCE)
    assert not asked.measure and not load_explanation(save_explanation(asked, tmp_path / "cgvs.safetensors")).measure


@pytest.mark.parametrize("form", ["word", "divergence"])
def test_cgvs_can_be_asked_about_it_too(captioner, form):
    seen = descriptors()
    words = captioner.encode_words(SENTENCE)[0].tolist()
    p, _ = steps(captioner, seen.values, words)
    expected = []
    for value in seen.values:
        q, weights = steps(captioner, value[None], words)
        assert weights.eq(1).all()                                 # of one descriptor there is nothing to choose
        expected.append(torch.stack([-q[t, word].log() if form == "word" else (p[t] * (p[t] / q[t]).log()).sum() for t, word in enumerate(words)]))
    for passes in (None, 1, 5):
        assert (cgvs(captioner, seen, SENTENCE, form=form, passes=passes).saliency.flatten(1) + torch.stack(expected, 1)).abs().max() < 1e-5
    film = descriptors(3)
    found = spacetime(captioner, film, SENTENCE, form)
    if form == "word": assert torch.allclose(found.space.saliency, cgvs(captioner, film, SENTENCE).saliency, atol=1e-5)
    assert torch.allclose(found.both.saliency, found.space.saliency + found.time.saliency, atol=1e-6)


def test_both_searches_speak_with_it(captioner):
    values = torch.stack([descriptors().values, -descriptors().values])
    captioner.train()
    said, logs = greedy(captioner, values)
    beams, better = beam_search(captioner, values, beam=4, max_words=6)
    assert captioner.training
    captioner.eval()
    for value, sentence, log in zip(values, said, logs):
        words, total = [], 0.0
        while not words or words[-1]:
            softmax, _ = steps(captioner, value, [*words, 0])       # the last step does not depend on what is said there
            words.append(int(softmax[-1].argmax()) if len(words) < 24 else 0)
            total += softmax[-1, words[-1]].log().item()
        assert sentence == words[:-1] and log.item() == pytest.approx(total, abs=1e-4)
    for value, sentence, log in zip(values, beams, better):
        softmax, _ = steps(captioner, value, [*sentence, 0])
        assert len(sentence) <= 6 and log.item() == pytest.approx(sum(softmax[t, word].log().item() for t, word in enumerate([*sentence, 0])), abs=1e-4)
    short = beam_search(captioner, values, beam=1, max_words=6)[1]
    assert (better >= short - 1e-5).all()                           # a wider search found nothing worse here


@pytest.mark.parametrize("ask", [attention, cgvs])
def test_what_it_cannot_take_is_refused(captioner, ask):
    for tokens, says in [([], "is empty"), (["zebra"], "none of its words"), (["ball"] * 9, "has 9 words; this captioner allows 8")]:
        with pytest.raises(BadInput, match=says): ask(captioner, descriptors(), tokens)
    assert ask(captioner, descriptors(), ["ball"] * 9, cut=True).saliency[8].eq(0).all()
    with pytest.raises(BadInput, match="have 5 features; this captioner was made for 6"):
        ask(captioner, Descriptors(torch.rand(16, 5), Grid.even(SIDE, SIDE, 40, 40), View.whole(40, 40, 40)), SENTENCE)


# Taught where to look

def drawn(count: int) -> tuple[list[Record], torch.Tensor]:
    "Pictures of two coloured cells, in noise, with a sentence whose phrases have these cells as boxes; their descriptors."
    chance, noise = Random("balls"), torch.Generator().manual_seed(2)
    records, values = [], 0.1 * torch.randn(count, SIDE * SIDE, 6, generator=noise)
    for k in range(count):
        names, cells, phrases = chance.sample(list(COLOURS), 2), chance.sample(range(SIDE * SIDE), 2), []
        for number, (name, cell) in enumerate(zip(names, cells)):
            values[k, cell, :3] += torch.tensor(COLOURS[name])
            y, x = divmod(cell, SIDE)
            phrases.append(Phrase(4 * number, 4 * number + 3, str(number + 1), ("other",), ((10.0 * x, 10.0 * y, 10.0 * x + 10, 10.0 * y + 10),)))
        records.append(Record(str(k), Path(f"{k}.jpg"), 40, 40, (Sentence(("a", names[0], "ball", "and", "a", names[1], "ball"), tuple(phrases)),)))
    return records, values


def test_maps_teach_it_where_to_look(tmp_path):
    records, values = drawn(160)
    sizes = {"features": 6, "words": 12, "hidden": 24, "attending": 16, "max_words": 8}
    captions = target_words(records, VOCABULARY, 8, 1)
    maps = attention_targets(records, [View.whole(40, 40, 40)] * len(records), VOCABULARY, SIDE, SIDE, 8, 1)
    shown, held = slice(0, 120), slice(120, 160)
    batch = (values[held], captions[held], maps[held].float())

    def measured(model) -> tuple[float, float]:
        "The supervised term, nats a word, and the share of the attention that lies in the boxes, on pictures it has not seen."
        with torch.no_grad():
            term = attention_loss(model, batch, supervised=1.0).item() - attention_loss(model, batch).item()
            weights, marked = model.attention(values[held], captions[held, 0, :7]), maps[held, 0, :7].gt(0)
        return term, (weights * marked).sum(-1)[marked.any(-1)].mean().item()

    def taught(weight: float):
        loss = partial(attention_loss, supervised=weight)
        return train_captioner(SoftAttention, tmp_path / str(weight), VOCABULARY, sizes, values[shown], captions[shown], Recipe(epochs=10, batch_size=20, learning_rate=0.01), loss,
                               (maps[shown],), settings={"supervised": weight}, progress=False)[0].cpu()

    torch.manual_seed(0)
    before, _ = measured(SoftAttention(VOCABULARY, **sizes).eval())
    (free, inside), (told, more) = (measured(taught(weight)) for weight in (0.0, 1.0))
    assert told < 0.7 * before and told < free and more > inside + 0.15 and inside < 0.4, (before, free, told, inside, more)
    model = load_captioner(SoftAttention, tmp_path / "1.0")
    assert measured(model) == pytest.approx((told, more), abs=1e-5)
    record, seen = records[held][0], Descriptors(values[held][0], Grid.even(SIDE, SIDE, 40, 40), View.whole(40, 40, 40))
    explanation = attention(model, seen, record.sentences[0].tokens)
    assert torch.allclose(explanation.saliency.flatten(1), model.attention(values[held][:1], captions[held][:1, 0, :7])[0], atol=1e-6)
    with pytest.raises(BadInput): load_captioner(S2VT, tmp_path / "1.0")
