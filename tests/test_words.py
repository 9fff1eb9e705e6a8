"""Excitation backprop for the words of a caption across modules: captioners of one's own, networks as torchvision has them, and what randomised weights do to every explainer of words."""
import copy, shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
import torchvision
from faults import refused, spoil
from scipy.stats import spearmanr
from torch import Tensor, nn

from cgsaliency.core.contracts import Descriptors, Pooling, Unrolled
from cgsaliency.core.geometry import Grid, View
from cgsaliency.data.text import Vocabulary
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.excitation import follow
from cgsaliency.explain.recurrent import READINGS
from cgsaliency.explain.word_gradient import FORMS, integrated_gradients, word_gradient
from cgsaliency.explain.words import eb_r_caption, eb_r_words, evidence_at_mean
from cgsaliency.models.captioning import captions_of, load_captioner, target_words, train_captioner
from cgsaliency.models.colours import THINGS, cells_of, paints_of, scenes
from cgsaliency.models.fit import Recipe
from cgsaliency.models.mean_pool import MeanPool, scene_captioner
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention

WORDS = "a man in red shirt plays guitar on stage with his dog".split()
VOCABULARY = Vocabulary.of([WORDS])
TOKENS = ["A", "man", "strums", "in", "red", ","]      # two of which nobody here knows
KNOWN = [0, 1, 3, 4]
ROWS, COLUMNS, FEATURES = 2, 4, 6


class Own:
    "A captioner of one's own that inherits nothing: a GRU that reads the word before and sees the mean at every step."
    vocabulary = VOCABULARY

    def __init__(self, hidden: int = 9):
        draw = lambda *shape: torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) / 2
        self.embedded, self.into, self.back, self.sees, self.speaks = draw(len(VOCABULARY), 4), draw(3 * hidden, 4), draw(3 * hidden, hidden), draw(3 * hidden, FEATURES), draw(len(VOCABULARY), hidden)

    def encode_words(self, tokens, cut=False): return VOCABULARY.encode(tokens)
    def readout(self): return self.speaks

    def unroll(self, values, words):
        mean, steps = values.mean(1), []
        x, h = self.embedded[nn.functional.pad(words[:, :-1], (1, 0))].transpose(0, 1), values.new_zeros(len(values), self.back.shape[1])
        for read in x:
            (r, z, n), (r_back, z_back, u) = (read @ self.into.T + mean @ self.sees.T).chunk(3, -1), (h @ self.back.T).chunk(3, -1)
            r, z = (r + r_back).sigmoid(), (z + z_back).sigmoid()
            n = (n + r * u).relu()
            h = (1 - z) * n + z * h
            steps.append((h, {"r": r, "z": z, "n": n, "u": u}))
        return Unrolled("gru", "relu", x, torch.stack([h for h, _ in steps]), {name: torch.stack([gates[name] for _, gates in steps]) for name in "rznu"}, self.into, self.back, mean, self.sees),

    def log_probs(self, values, words): return (self.unroll(values, words)[-1].outputs.transpose(0, 1) @ self.speaks.T).log_softmax(-1)


def mean_pool(features: int = FEATURES) -> MeanPool:
    torch.manual_seed(0)
    model = MeanPool(VOCABULARY, features, words=8, hidden=24, max_words=8, dropout=0.5)
    for parameter in model.parameters(): parameter.data.mul_(4)       # far enough from zero for words to matter
    return model.eval()


def film(frames: int) -> Descriptors:
    values = 2 * torch.rand(frames * ROWS * COLUMNS, FEATURES, generator=torch.Generator().manual_seed(1))
    return Descriptors(values, Grid.even(ROWS, COLUMNS, 40, 80), View.whole(80, 40, 40), tuple(k / 2 for k in range(frames)))


KINDS, LONG = pytest.mark.parametrize("make", [mean_pool, Own]), pytest.mark.parametrize("frames", [1, 5])
READ, CONTRAST = pytest.mark.parametrize("reading", READINGS), pytest.mark.parametrize("contrast", [False, True])


def near(one: Tensor, other: Tensor, within: float = 1e-5) -> bool: return one.shape == other.shape and bool((one - other).abs().max() <= within * other.abs().max())


@KINDS
@LONG
@READ
@CONTRAST
def test_what_holds_whatever_the_captioner(make, frames, reading, contrast):
    captioner, clip = make(), film(frames)
    assert isinstance(captioner, Pooling)
    explain = partial(eb_r_words, captioner, tokens=TOKENS, contrast=contrast, reading=reading)
    found = explain(clip)
    maps = found.saliency
    assert (found.targets, found.times, found.grid, found.method, found.settings) == (tuple(TOKENS), clip.times, clip.grid, "cEB-R" if contrast else "EB-R", {"reading": reading})
    assert maps.shape == (6, frames, ROWS, COLUMNS) and maps[[2, 5]].eq(0).all() and maps[KNOWN].flatten(1).abs().amax(1).min() > 0
    assert torch.allclose(maps[KNOWN].sum((1, 2, 3)), torch.full((4,), 0.0 if contrast else 1.0), atol=1e-5)
    assert contrast or (make is Own and reading == "code") or (maps >= 0).all()                         # what moves a GRU's update gate may be below zero
    assert torch.equal(maps, explain(clip).saliency)                                                    # the same bits, again and from the same weights
    assert torch.equal(maps, eb_r_words(make(), clip, TOKENS, None, contrast, reading).saliency)
    for k in KNOWN:
        assert near(eb_r_words(captioner, clip, TOKENS, [slice(k, k + 1)], contrast, reading).saliency[0], maps[k]), k            # words abreast, and one by one
        assert near(eb_r_words(captioner, clip, TOKENS[:k + 1], None, contrast, reading).saliency[k], maps[k]), k                # what is said later does not matter
    order = torch.randperm(len(clip), generator=torch.Generator().manual_seed(2))
    shuffled = explain(replace(clip, values=clip.values[order])).saliency.flatten(1)
    assert near(shuffled, maps.flatten(1)[:, order])                                                    # nor does the order of what the mean is of
    doubled = explain(replace(clip, values=clip.values.repeat(2, 1), times=tuple(map(float, range(2 * frames))))).saliency
    assert near(doubled, maps.repeat(1, 2, 1, 1) / 2)
    dark = explain(replace(clip, values=torch.cat([clip.values, torch.zeros_like(clip.values)]), times=tuple(map(float, range(2 * frames))))).saliency
    assert dark[:, frames:].eq(0).all()                                                                  # where nothing responds, nothing speaks


@KINDS
@READ
def test_a_phrase_is_a_mixture_of_its_words(make, reading):
    captioner, clip = make(), film(2)
    words = eb_r_words(captioner, clip, TOKENS, contrast=False, reading=reading).saliency.flatten(1)
    phrase, whole, same = eb_r_words(captioner, clip, TOKENS, [slice(0, 2), slice(None), slice(-3, -2)], False, reading).saliency.flatten(1)
    share = (phrase - words[0]) @ (words[1] - words[0]) / (words[1] - words[0]).square().sum()
    assert (0 < share < 1 or (make is Own and reading == "code")) and near(phrase, words[0] + share * (words[1] - words[0])) and near(same, words[3])
    assert near(whole, torch.linalg.lstsq(words[KNOWN].T.double(), whole[:, None].double()).solution[:, 0].float() @ words[KNOWN], 1e-4)


def network() -> nn.Module:
    "Up to a map of six channels, '4', and on to a vector of six features, '8'."
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, FEATURES, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(FEATURES * 16, FEATURES), nn.ReLU()).eval()


PICTURES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@KINDS
@pytest.mark.parametrize("source, at", [("4", "4"), ("4", "1"), ("8", "1"), ("8", "")])
def test_chunks_make_no_difference(make, source, at):
    captioner, seeing = make(), network()
    explain = partial(eb_r_caption, seeing, source, captioner, PICTURES, TOKENS, at)
    whole = explain()
    assert whole.saliency.shape[:2] == (6, 5) and whole.settings == {"at": at, "source": source, "reading": "code"}
    for together, kept in [(1, 256), (2, 256), (2, 0), (16, 4)]: assert near(explain(together=together, kept=kept).saliency, whole.saliency), (together, kept)
    assert torch.equal(explain(together=2, kept=0).saliency, explain(together=2, kept=0).saliency)
    for k in KNOWN: assert near(explain([slice(k, k + 1)]).saliency[0], whole.saliency[k]), k
    one = eb_r_caption(seeing, source, captioner, PICTURES[:1], TOKENS, at, times=[2.5])
    assert one.times == (2.5,) and one.saliency.shape[1] == 1


@READ
def test_a_map_of_the_network_gives_what_its_cells_give(reading):
    seeing = network()
    with torch.no_grad(): cells = seeing[:5](PICTURES)
    clip = Descriptors(cells.flatten(2).transpose(1, 2).flatten(0, 1), Grid.even(8, 8, 16, 16), View.whole(16, 16, 16), tuple(map(float, range(5))))
    assert near(eb_r_caption(seeing, "4", mean_pool(), PICTURES, TOKENS, "4", reading=reading).saliency, eb_r_words(mean_pool(), clip, TOKENS, reading=reading).saliency)


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.vgg11().eval()


FC7, FRAMES = "classifier.4", torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))


@READ
def test_evidence_is_kept_down_a_network_of_torchvision(vgg, reading):
    captioner = mean_pool(4096)
    for at, cells in (("features.17", 4), ("features.9", 16)):
        for contrast in (False, True):
            maps = eb_r_caption(vgg, FC7, captioner, FRAMES, TOKENS, at, contrast=contrast, reading=reading).saliency
            assert maps.shape == (6, 2, cells, cells) and maps[[2, 5]].eq(0).all() and maps[KNOWN].flatten(1).abs().amax(1).min() > 0
            assert torch.allclose(maps[KNOWN].sum((1, 2, 3)), torch.full((4,), 0.0 if contrast else 1.0), atol=1e-4), (at, contrast)


def test_what_a_network_drops_is_missing(vgg):
    lossy, captioner = copy.deepcopy(vgg), mean_pool(4096)
    upwards = nn.Sequential(lossy.features, lossy.avgpool, nn.Flatten(), lossy.classifier[:5])
    with torch.no_grad():
        lossy.classifier[0].bias[::2] = upwards[:3](FRAMES).matmul(lossy.classifier[0].weight.T).relu().mean()       # these respond by their bias alone: nothing below excites them
        lossy.classifier[0].weight[::2] = 0
        seen = upwards(FRAMES)
    evidence = evidence_at_mean(captioner, seen, TOKENS, contrast=False)[1]
    followed = follow(lossy, FRAMES, ["features.17"], FC7)
    at_cells = followed.evidence(torch.where(seen > 0, evidence * seen / seen.sum(0), 0.0), ["features.17"])["features.17"]
    maps = eb_r_caption(lossy, FC7, captioner, FRAMES, TOKENS, "features.17", contrast=False).saliency[1]
    assert near(maps, at_cells.sum(1), 1e-4) and 0.1 < followed.run.lost["classifier.0"] < 0.9
    assert abs(float(maps.sum()) + sum(followed.run.lost.values()) - 1) < 1e-4


def state_of(*modules: nn.Module) -> tuple:
    return torch.get_rng_state().tolist(), torch.is_grad_enabled(), [([part.training for part in module.modules()], [len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks) for part in module.modules()],
            [(parameter.requires_grad, parameter.tolist(), None if parameter.grad is None else parameter.grad.tolist()) for parameter in module.parameters()]) for module in modules]


def test_everything_is_as_it_was():
    captioner, seeing, clip = mean_pool().train(), network().train(), film(2)
    captioner.first.eval(); captioner.to_words.weight.requires_grad_(False); seeing[0].bias.requires_grad_(False)
    for parameter in (*captioner.parameters(), *seeing.parameters()): parameter.grad = torch.full_like(parameter, 7.0)
    before, values, pictures = state_of(captioner, seeing), clip.values.clone(), PICTURES.clone()
    asked = [lambda: eb_r_words(captioner, clip, TOKENS).saliency, lambda: eb_r_caption(seeing, "8", captioner, PICTURES, TOKENS, "1").saliency]
    first = [ask() for ask in asked]
    assert not any(maps.requires_grad for maps in first)
    refused(lambda: eb_r_words(captioner, clip, TOKENS, reading="mine"), "there is no 'mine'")
    refused(lambda: eb_r_caption(seeing, "8", captioner, PICTURES, ["strums"], "1"), "none of its words")
    assert state_of(captioner, seeing) == before and torch.equal(clip.values, values) and torch.equal(PICTURES, pictures)
    with torch.no_grad(): quiet = [ask() for ask in asked]
    with torch.inference_mode(): inferred = [ask() for ask in asked]
    captioner.eval(), seeing.eval()
    for maps, *others in zip(first, quiet, inferred, [ask() for ask in asked]): assert all(torch.equal(maps, other) for other in others)        # dropout takes no part


@pytest.fixture(scope="module")
def captioner() -> MeanPool: return scene_captioner()


def scenery(count: int, seed: int, noise: float = 0.0) -> list[tuple[Tensor, Descriptors, tuple[str, ...]]]:
    pictures, said = scenes(count, seed)
    seen = paints_of(pictures + noise * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(seed)))
    return [(picture, replace(cells_of(picture), values=values.flatten(0, 1)), sentence) for picture, values, sentence in zip(pictures, seen, said)]


def test_captions_generated_and_forced(captioner):
    shown, hits = scenery(30, 3), []
    spoken = captions_of(captioner, [str(k) for k in range(30)], torch.stack([clip.values for _, clip, _ in shown]), beam=2)
    for k, (picture, clip, sentence) in enumerate(shown):
        generated = spoken[str(k)].split()
        own, forced = eb_r_words(captioner, clip, generated), eb_r_words(captioner, clip, sentence)
        if tuple(generated) == sentence: assert torch.equal(own.saliency, forced.saliency)
        hits.append(bool((picture.view(-1, 3)[forced.saliency[1].argmax()] == torch.tensor(THINGS[sentence[1]])).all()))
        wrong = eb_r_words(captioner, clip, ["a", next(thing for thing in THINGS if thing != sentence[1]), *sentence[2:]])
        assert torch.isfinite(wrong.saliency).all() and torch.equal(wrong.saliency[0], forced.saliency[0]) and not torch.allclose(wrong.saliency[1], forced.saliency[1], atol=1e-4)
    assert sum(hits) >= 28 and sum(spoken[str(k)].split() == list(sentence) for k, (_, _, sentence) in enumerate(shown)) >= 27


# With the most that the mean rank correlation may be. Without contrast, evidence of a trained and of a random readout lie near each other: all that responds excites some of a word's weights.
EXPLAINERS = {"cgvs": (cgvs, 0.5), "integrated gradients": (partial(integrated_gradients, steps=8), 0.5), **{form: (partial(word_gradient, form=form), 0.5) for form in FORMS if form != "gradient"},
              **{f"{'cEB-R' if contrast else 'EB-R'}, {reading}": (partial(eb_r_words, contrast=contrast, reading=reading), 0.5 if contrast else 0.9) for contrast in (False, True) for reading in READINGS}}


def test_the_derivative_by_parts_of_a_mean_is_the_same_for_each(captioner):
    _, clip, sentence = scenery(1, 4)[0]
    maps = word_gradient(captioner, clip, sentence, "gradient").saliency.flatten(1)
    assert (maps > 0).all() and (maps - maps[:, :1]).abs().max() == 0           # why 'gradient' is not among those below


@pytest.mark.parametrize("explain, most", EXPLAINERS.values(), ids=EXPLAINERS)
def test_randomised_weights_change_the_maps(captioner, explain, most):
    "The readout is drawn anew, with the spread it had (Adebayo et al. 2018); an explainer that shows the same has not looked at the model."
    shown, weight = scenery(6, 4, noise=0.05), captioner.to_words.weight.detach()
    def correlations(other: MeanPool) -> list[float]:
        pairs = [(one, two) for _, clip, sentence in shown for one, two in zip(explain(captioner, clip, sentence).saliency.flatten(1), explain(other, clip, sentence).saliency.flatten(1)) if one.std() > 0 and two.std() > 0]
        return [float(spearmanr(one, two).statistic) for one, two in pairs]
    same, drawn = correlations(copy.deepcopy(captioner)), []
    for seed in range(5):
        other = copy.deepcopy(captioner)
        other.to_words.weight.data.copy_(weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
        drawn += correlations(other)
    assert len(same) == 24 and min(same) > 1 - 1e-12 and len(drawn) > 40, (len(same), min(same), len(drawn))
    mean = sum(drawn) / len(drawn)
    assert mean < most, f"mean rank correlation of {mean:.3f} between {len(drawn)} maps and those of readouts of random weights"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner") / "it"
    pictures, said = scenes(8)
    vocabulary = Vocabulary.of(said)
    captions = torch.stack([nn.functional.pad(vocabulary.encode(sentence)[0], (0, 1)) for sentence in said])[:, None]
    sizes = {"features": 7, "words": 4, "hidden": 6, "max_words": 6}
    model, _ = train_captioner(MeanPool, folder, vocabulary, sizes, paints_of(pictures).flatten(1, 2), captions, Recipe(epochs=1, batch_size=4), progress=False)
    return folder, model


@pytest.fixture
def saved(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "captioner")


def test_a_saved_captioner_explains_as_before(trained, saved):
    _, clip, sentence = scenery(1, 5)[0]
    assert torch.equal(eb_r_words(load_captioner(MeanPool, saved), clip, sentence).saliency, eb_r_words(trained[1].cpu(), clip, sentence).saliency)
    refused(lambda: load_captioner(S2VT, saved), "these are not weights of this S2VT")
    refused(lambda: load_captioner(SoftAttention, saved), "these are not weights of this SoftAttention")


@pytest.mark.parametrize("name, damage, says", [
    ("sizes.json", lambda whole: whole[:-3], "not whole JSON"),
    ("sizes.json", lambda whole: b'{"features": 7, "hiden": 6}', "are not sizes of MeanPool"),
    ("sizes.json", lambda whole: b"[7, 4, 6]", "are not sizes of MeanPool"),
    ("sizes.json", lambda whole: whole.replace(b'"hidden": 6', b'"hidden": "six"'), "are not sizes of MeanPool"),
    ("sizes.json", lambda whole: whole.replace(b'"hidden": 6', b'"hidden": -6'), "are not sizes of MeanPool"),
    ("sizes.json", lambda whole: whole.replace(b'"hidden": 6', b'"hidden": 0'), "are not sizes of MeanPool"),
    ("sizes.json", lambda whole: None, "is not there"),
    ("best.safetensors", lambda whole: whole[:len(whole) // 2], "not a whole safetensors file"),
    ("best.safetensors", lambda whole: whole[:5], "not a whole safetensors file"),
    ("best.safetensors", lambda whole: None, "there are no such weights"),
    ("vocabulary.json", lambda whole: b"{}", "is not a vocabulary"),
    ("vocabulary.json", lambda whole: None, "is not there"),
])
def test_a_damaged_captioner_is_refused(saved, name, damage, says):
    spoil(saved / name, damage((saved / name).read_bytes()))
    assert name in refused(lambda: load_captioner(MeanPool, saved), says).where


def test_sizes_that_are_not_the_weights_are_refused(saved):
    spoil(saved / "sizes.json", (saved / "sizes.json").read_text().replace('"hidden": 6', '"hidden": 5'))
    refused(lambda: load_captioner(MeanPool, saved), "of another shape, such as")


@pytest.mark.parametrize("use, says", [
    (lambda captioner, clip: eb_r_words(captioner, clip, TOKENS, reading="mine"), "there is no 'mine'"),
    (lambda captioner, clip: eb_r_words(captioner, replace(clip, values=clip.values.log().log()), TOKENS), "features that are not finite"),
    (lambda captioner, clip: eb_r_words(captioner, replace(clip, values=clip.values[:, :5]), TOKENS), "this captioner was made for 6"),
    (lambda captioner, clip: eb_r_words(captioner, clip, ["strums", ","]), "none of its words"),
    (lambda captioner, clip: eb_r_words(captioner, clip, []), "is empty"),
    (lambda captioner, clip: eb_r_words(captioner, clip, WORDS), "has 12 words; this captioner allows 8"),
    (lambda captioner, clip: eb_r_words(captioner, clip, TOKENS, [slice(2, 2)]), "phrase 2:2"),
    (lambda captioner, clip: eb_r_words(captioner, clip, TOKENS, [slice(0, 2), slice(4, 7)]), "phrase 4:7"),
    (lambda captioner, clip: eb_r_words(captioner, clip, TOKENS, [slice(-9, 2)]), "phrase -9:2"),
    (lambda captioner, clip: eb_r_caption(network(), "8", captioner, PICTURES, TOKENS, "33"), "has no layer '33'"),
    (lambda captioner, clip: eb_r_caption(network(), "1", captioner, PICTURES, TOKENS, "1"), "have 5 features; this captioner was made for 6"),
    (lambda captioner, clip: eb_r_caption(network(), "4", captioner, PICTURES, TOKENS, "6"), "layer 6: nothing is handed down to it"),
    (lambda captioner, clip: eb_r_caption(network(), "8", captioner, PICTURES / 0, TOKENS, "1"), "not finite"),
    (lambda captioner, clip: eb_r_caption(network(), "8", captioner, PICTURES, TOKENS, "1", times=[1.0]), "expected targets × frames × rows × columns = (6, 1, 16, 16)"),
])
def test_what_is_refused(use, says): refused(lambda: use(mean_pool(), film(2)), says)
