"""CGVS across modules: the batch against the obvious loop, and what a user may hand it by mistake."""
import torch
import pytest
from safetensors.torch import save_file

from cgsaliency.core.artefacts import write_json
from cgsaliency.core.contracts import Captioner, Descriptors
from cgsaliency.core.errors import BadInput
from cgsaliency.core.explanation import merged, scaled
from cgsaliency.core.geometry import Grid, View
from cgsaliency.data.text import Vocabulary, save_vocabulary
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.models.captioning import load_captioner
from cgsaliency.models.s2vt import S2VT, scan_order

SIZES = {"features": 32, "embedding": 24, "words": 12, "hidden": 40, "max_words": 6}
WORDS = "a man in red shirt plays guitar on stage with his dog".split()
SENTENCE = "A man in a red shirt".split()


@pytest.fixture
def captioner() -> S2VT:
    torch.manual_seed(0)
    return S2VT(Vocabulary.of([WORDS]), **SIZES, order=scan_order(8, 8, "snake").tolist()).eval()


@pytest.fixture
def descriptors() -> Descriptors:
    return Descriptors(torch.rand(64, 32, generator=torch.Generator().manual_seed(1)), Grid.even(8, 8, 224, 224), View.whole(500, 375, 224))


def loop(captioner, descriptors, tokens, form):
    "Loss(t, i) as the paper writes it: one descriptor at a time, one word after the other, the whole softmax."
    words = [captioner.vocabulary.index[token.lower()] for token in tokens]
    def steps(values):
        distributions, (h, c) = [], [part[None] for part in captioner.begin(values[None])]
        for t in range(len(words)):
            inputs = captioner.speaking_inputs(torch.tensor([words[:t + 1]]))[:, -1:]
            output, (h, c) = captioner.lstm(inputs, (h, c))
            distributions.append(captioner.to_words(output[0, 0]).softmax(0))
        return torch.stack(distributions)
    p = steps(descriptors.values)
    losses = []
    for i in range(len(descriptors)):
        q = steps(descriptors.values[i:i + 1])
        losses.append(torch.stack([-q[t, word].log() if form == "word" else (p[t] * (p[t] / q[t]).log()).sum() for t, word in enumerate(words)]))
    return torch.stack(losses, 1)


@pytest.mark.parametrize("form", ["word", "divergence"])
@pytest.mark.parametrize("passes", [None, 7, 1])
def test_the_batch_is_the_obvious_loop(captioner, descriptors, form, passes):
    assert isinstance(captioner, Captioner)
    explanation = cgvs(captioner, descriptors, SENTENCE, form=form, passes=passes)
    with torch.no_grad(): expected = loop(captioner, descriptors, SENTENCE, form)
    assert (explanation.saliency.flatten(1) + expected).abs().max() < 1e-5
    phrase = -expected[3:6].sum(0)
    expected_map = (phrase - phrase.min()) / (phrase.max() - phrase.min())
    assert (scaled(merged(explanation, slice(3, 6))).saliency.flatten() - expected_map).abs().max() < 1e-4


def test_the_same_again_and_the_model_as_it_was(captioner, descriptors):
    captioner.train()
    before = {name: value.clone() for name, value in captioner.state_dict().items()}
    one, other = (cgvs(captioner, descriptors, SENTENCE).saliency for _ in range(2))
    assert torch.equal(one, other) and captioner.training
    assert all(torch.equal(value, before[name]) for name, value in captioner.state_dict().items())


@pytest.mark.parametrize("tokens, says", [
    ([], "is empty"),
    (["."], "none of its words"),
    ("Zebras gallop !".split(), "none of its words"),
    ("a man in a red shirt plays guitar".split(), "8 words; this captioner allows 6"),
])
def test_a_sentence_that_cannot_be_explained_is_refused(captioner, descriptors, tokens, says):
    with pytest.raises(BadInput) as error: cgvs(captioner, descriptors, tokens)
    assert says in str(error.value), error.value


def test_a_long_sentence_may_be_cut_and_unknown_words_stay_flat(captioner, descriptors):
    explanation = cgvs(captioner, descriptors, "a zebra man in a red shirt plays guitar".split(), cut=True)
    flat = [values.max() == values.min() for values in explanation.saliency]
    assert [bool(one) for one in flat] == [False, True, False, False, False, False, False, True, True]


def test_a_form_that_does_not_exist(captioner, descriptors):
    with pytest.raises(BadInput, match="'words'.*Choose 'word' or 'divergence'"): cgvs(captioner, descriptors, SENTENCE, form="words")


def test_descriptors_of_another_backbone_are_refused(captioner):
    with pytest.raises(BadInput, match="have 16 features; this captioner was made for 32"):
        cgvs(captioner, Descriptors(torch.rand(64, 16), Grid.even(8, 8, 224, 224), View.whole(500, 375, 224)), SENTENCE)


def test_weights_of_another_architecture_and_broken_folders_are_refused(captioner, tmp_path):
    def written(sizes=SIZES, weights=captioner.state_dict()):
        write_json(tmp_path / "sizes.json", {**sizes, "order": scan_order(8, 8, "snake").tolist()})
        save_vocabulary(captioner.vocabulary, tmp_path / "vocabulary.json")
        save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "best.safetensors")
    written()
    load_captioner(S2VT, tmp_path)
    for fault, says in [({"sizes": {**SIZES, "hidden": 41}}, "of another shape"), ({"weights": {"conv.weight": torch.zeros(1)}}, "not its own, such as conv.weight")]:
        written(**fault)
        with pytest.raises(BadInput, match=says): load_captioner(S2VT, tmp_path)
    written()
    whole = (tmp_path / "best.safetensors").read_bytes()
    (tmp_path / "best.safetensors").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(BadInput, match="not a whole safetensors file"): load_captioner(S2VT, tmp_path)
    written()
    (tmp_path / "sizes.json").write_text("{")
    with pytest.raises(BadInput, match="not whole JSON"): load_captioner(S2VT, tmp_path)
    (tmp_path / "vocabulary.json").unlink()
    written()
    (tmp_path / "vocabulary.json").unlink()
    with pytest.raises(BadInput, match="is not there"): load_captioner(S2VT, tmp_path)
