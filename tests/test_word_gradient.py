"""Gradients of a sentence's words across modules: films, what a user may hand them by mistake, and everything as it was afterwards."""
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from cgsaliency.core.contracts import Captioner, Descriptors
from cgsaliency.core.errors import BadInput
from cgsaliency.core.explanation import load_explanation, save_explanation
from cgsaliency.core.geometry import Grid, View
from cgsaliency.data.text import Vocabulary
from cgsaliency.explain.word_gradient import FORMS, integrated_gradients, seen_in_passes, word_derivatives, word_gradient
from cgsaliency.models.s2vt import S2VT, scan_order
from cgsaliency.models.soft_attention import SoftAttention

WORDS = "a man in red shirt plays guitar on stage with his dog".split()
SENTENCE = "A man in a red shirt".split()
VOCABULARY = Vocabulary.of([WORDS])
FRAMES, ROWS, COLUMNS = 3, 2, 4


class Bag(nn.Module):
    "A captioner of one's own that inherits nothing: words before do not matter, and a batch norm that learns while it trains."
    vocabulary = VOCABULARY

    def __init__(self):
        super().__init__()
        self.norm, self.scores = nn.BatchNorm1d(6), nn.Linear(6, len(VOCABULARY))

    def encode_words(self, tokens, cut=False): return VOCABULARY.encode(tokens)

    def log_probs(self, values, words):
        return self.scores(torch.tanh(self.norm(values.transpose(1, 2))).mean(2)).log_softmax(-1)[:, None].expand(-1, words.shape[1], -1)


def s2vt() -> S2VT: return S2VT(VOCABULARY, features=6, embedding=16, words=8, hidden=24, max_words=6, order=scan_order(ROWS * FRAMES, COLUMNS, "snake").tolist())
def soft_attention() -> SoftAttention: return SoftAttention(VOCABULARY, features=6, words=12, hidden=24, attending=16, max_words=6)


KINDS = pytest.mark.parametrize("make", [s2vt, soft_attention, Bag])
METHODS = {**{form: partial(word_gradient, form=form) for form in FORMS}, "integrated gradients": integrated_gradients}
ALL = pytest.mark.parametrize("explain", METHODS.values(), ids=METHODS)


def made(make):
    torch.manual_seed(0)
    return make()


@pytest.fixture
def clip() -> Descriptors:
    values = 2 * torch.randn(FRAMES * ROWS * COLUMNS, 6, generator=torch.Generator().manual_seed(1))
    return Descriptors(values, Grid.even(ROWS, COLUMNS, 40, 80), View.whole(80, 40, 40), tuple(float(k) for k in range(FRAMES)))


def loop(captioner, values, tokens):
    "K × m × D and log p, K: a word at a time, a plain backward pass each."
    words, positions = captioner.encode_words(tokens)
    found, log_p = torch.zeros(len(tokens), *values.shape, dtype=values.dtype), torch.zeros(len(tokens), dtype=values.dtype)
    for t, (word, position) in enumerate(zip(words, positions)):
        inside = values.clone().requires_grad_()
        own = captioner.log_probs(inside[None], words[None])[0, t, word]
        found[position], log_p[position] = torch.autograd.grad(own, inside)[0], own.detach()
    return found, log_p


def near(one, other): return (one - other).abs().max() <= 1e-5 * other.abs().max()


@KINDS
@pytest.mark.parametrize("together", [1, 4, 16])
def test_a_film_by_the_obvious_loop(make, clip, together):
    captioner = made(make).eval()
    assert isinstance(captioner, Captioner)
    tokens = ["a", "zebra", "man", ",", "in", "red"]
    slow, _ = loop(captioner, clip.values, tokens)
    assert slow[[0, 2, 4, 5]].flatten(1).abs().amax(1).min() > 0
    found = word_derivatives(captioner, clip, tokens, together=together)
    assert near(found, slow) and found[[1, 3]].eq(0).all()
    weights = slow.mean(1, keepdim=True)
    expected = {"gradient": slow.abs().amax(2), "gradient x input": (slow * clip.values).sum(2), "Grad-CAM": (weights * clip.values).sum(2).clamp(min=0)}
    for form, maps in expected.items():
        explanation = word_gradient(captioner, clip, tokens, form, together=together)
        assert near(explanation.saliency, maps.view(6, FRAMES, ROWS, COLUMNS)), form
        assert (explanation.method, explanation.targets, explanation.times, explanation.grid) == (form, tuple(tokens), clip.times, clip.grid)


@KINDS
def test_integrated_gradients_are_complete(make, clip):
    captioner, clip = made(make).double().eval(), replace(clip, values=clip.values.double())
    for baseline in None, clip.values.mean(0):
        start = torch.zeros_like(clip.values) if baseline is None else baseline.expand_as(clip.values)
        change = loop(captioner, clip.values, SENTENCE)[1] - loop(captioner, start, SENTENCE)[1]
        errors = [(integrated_gradients(captioner, clip, SENTENCE, baseline, steps).saliency.sum((1, 2, 3)) - change).abs().max() for steps in (16, 64, 256)]
        assert errors[1] < errors[0] / 6 and errors[2] < errors[1] / 10 and errors[2] < 1e-3 * change.abs().max(), errors


def test_a_baseline_that_is_what_is_there_leaves_nothing(clip):
    same = replace(clip, values=clip.values[:1].expand(len(clip), -1))
    assert integrated_gradients(made(s2vt), same, SENTENCE, clip.values[0]).saliency.eq(0).all()


@KINDS
@ALL
def test_everything_is_as_it_was(make, explain, clip):
    captioner = made(make).train()
    next(captioner.parameters()).requires_grad_(False)
    for parameter in captioner.parameters(): parameter.grad = torch.full_like(parameter, 7.0)
    before, frozen, given = {name: value.clone() for name, value in captioner.state_dict().items()}, [one.requires_grad for one in captioner.parameters()], clip.values.clone()
    quick, random = torch.backends.cudnn.enabled, torch.get_rng_state()
    explain(captioner, clip, SENTENCE)
    with pytest.raises(BadInput): explain(captioner, replace(clip, values=clip.values * torch.nan), SENTENCE)
    with pytest.raises(BadInput): explain(captioner, clip, ["zebra"])
    assert all(part.training for part in captioner.modules()) and torch.backends.cudnn.enabled == quick and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in captioner.state_dict().items())
    assert [one.requires_grad for one in captioner.parameters()] == frozen and all(one.grad.eq(7).all() for one in captioner.parameters())
    assert torch.equal(clip.values, given) and not clip.values.requires_grad


@KINDS
@ALL
def test_whatever_the_caller_switched_off(make, explain, clip):
    captioner, plain = made(make), None
    for off in torch.enable_grad, torch.no_grad, torch.inference_mode:
        with off():
            inside = replace(clip, values=clip.values * 1)    # made in there, too
            maps = explain(captioner, inside, SENTENCE).saliency
        plain = maps if plain is None else plain
        assert torch.equal(maps, plain) and not maps.requires_grad and maps.device.type == "cpu" and not maps.is_inference()
    watched = replace(clip, values=clip.values.clone().requires_grad_())
    assert torch.equal(explain(captioner, watched, SENTENCE).saliency, plain) and watched.values.grad is None


@ALL
def test_it_can_be_kept(explain, clip, tmp_path):
    explanation = explain(made(s2vt), clip, SENTENCE)
    again = load_explanation(save_explanation(explanation, tmp_path / "word.safetensors"))
    assert torch.equal(again.saliency, explanation.saliency) and again.settings == explanation.settings


@ALL
def test_on_another_device(explain, clip):
    if not torch.cuda.is_available(): pytest.skip("no GPU here")
    for make in s2vt, soft_attention:
        captioner = made(make).eval()
        here = explain(captioner, clip, SENTENCE).saliency
        there = explain(captioner.cuda(), replace(clip, values=clip.values.cuda()), SENTENCE).saliency
        assert there.device.type == "cpu" and (here - there).abs().max() <= 1e-3 * here.abs().max()


@ALL
@pytest.mark.parametrize("tokens, says", [([], "is empty"), (["."], "none of its words"), ("a man in red shirt plays guitar".split(), "7 words; this captioner allows 6")])
def test_a_sentence_that_cannot_be_explained_is_refused(explain, clip, tokens, says):
    with pytest.raises(BadInput, match=says): explain(made(s2vt), clip, tokens)


@ALL
def test_a_long_sentence_may_be_cut(explain, clip):
    maps = explain(made(s2vt), clip, "a man in red shirt plays guitar".split(), cut=True).saliency
    assert maps[6].eq(0).all() and maps[:6].flatten(1).abs().sum() > 0


@ALL
def test_descriptors_that_cannot_be_explained_are_refused(explain, clip):
    for broken in torch.nan, torch.inf:
        holed = replace(clip, values=clip.values.clone())
        holed.values[1 * ROWS * COLUMNS + 1 * COLUMNS + 2, 3] = broken
        with pytest.raises(BadInput, match="descriptor of frame 1, row 1, column 2: has features that are not finite"): explain(made(s2vt), holed, SENTENCE)
    with pytest.raises(BadInput, match="have 5 features; this captioner was made for 6"): explain(made(s2vt), replace(clip, values=clip.values[:, :5]), SENTENCE)


class Deaf(Bag):
    def log_probs(self, values, words): return super().log_probs(values.detach(), words)

class Shut(Bag):
    @torch.no_grad()
    def log_probs(self, values, words): return super().log_probs(values, words)

class Sure(Bag):
    def log_probs(self, values, words):
        log_p = super().log_probs(values, words)
        return torch.where(torch.arange(len(VOCABULARY)) == VOCABULARY.index["red"], -torch.inf, log_p)

class Steep(Bag):
    def log_probs(self, values, words): return super().log_probs(values, words) + (values.flatten(1).sum(1) * 0).sqrt()[:, None, None]


@ALL
def test_a_captioner_without_derivatives_is_refused(explain, clip):
    for kind in Deaf, Shut:
        with pytest.raises(BadInput, match=f"{kind.__name__}: gives log-probabilities that have no derivative by the descriptors"): explain(made(kind), clip, SENTENCE)
    with pytest.raises(BadInput, match="word 'red': has log p = -inf"): explain(made(Sure), clip, SENTENCE)
    with pytest.raises(BadInput, match="Steep: gives log-probabilities whose derivatives are not finite"): explain(made(Steep), clip, SENTENCE)


@pytest.mark.parametrize("use, says", [
    (lambda *of: word_gradient(*of, "saliency"), "there is no 'saliency'. Choose 'gradient', 'gradient x input', 'Grad-CAM'"),
    (lambda *of: word_gradient(*of, together=0), "together: is 0; expected 1 or more"),
    (lambda *of: integrated_gradients(*of, steps=0), "steps: is 0; expected 1 or more"),
    (lambda *of: integrated_gradients(*of, baseline=torch.zeros(2, 6)), "expected 6 finite features"),
    (lambda *of: integrated_gradients(*of, baseline=torch.full((6,), torch.nan)), "6 numbers that are not finite"),
])
def test_what_else_is_refused(clip, use, says):
    with pytest.raises(BadInput) as error: use(made(s2vt), clip, SENTENCE)
    assert says in str(error.value), error.value


def test_batches_are_as_small_as_asked(clip):
    sizes = []
    class Counted(Bag):
        def log_probs(self, values, words):
            sizes.append(len(values))
            return super().log_probs(values, words)
    word_derivatives(made(Counted), clip, SENTENCE, together=4)
    integrated_gradients(made(Counted), clip, SENTENCE, steps=3, together=5)
    assert sizes == [4, 2, 5, 5, 5, 3]
    assert seen_in_passes(made(Bag), clip, SENTENCE, lambda derivative: derivative.norm(dim=(1, 2))).shape == (6,)
