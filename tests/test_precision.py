"""bfloat16 where the settings choose it.

Every model's loss and gradients stay close to float32, exponents and logarithms are never taken in half precision, and
excitation backprop does not change by a bit.
"""

from functools import partial

import pytest
import torch
from small_models import CAPTIONERS, CASES, FEATURES, TOKENS, clip_network, descriptors, drawn, mean_pool
from test_fake_device import made, numbers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cgsaliency.core.contracts import Descriptors
from cgsaliency.core.explanation import peak
from cgsaliency.core.geometry import Grid, View
from cgsaliency.core.run import mixed_precision, set_precision
from cgsaliency.evaluate.faithfulness import ask_descriptors
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.excitation import excitation
from cgsaliency.explain.frames import eb_r
from cgsaliency.explain.left_out import left_out
from cgsaliency.explain.methods import METHODS, explained_by, fitting
from cgsaliency.explain.recurrent import evidence_in_time
from cgsaliency.explain.word_gradient import integrated_gradients, word_gradient
from cgsaliency.explain.words import eb_r_caption, eb_r_words, evidence_at_mean, owed_to
from cgsaliency.models.action import ActionRecogniser
from cgsaliency.models.areas import area_captioner
from cgsaliency.models.colours import paints_of, scenes
from cgsaliency.models.decode import beam_search
from cgsaliency.models.mean_pool import scene_captioner

CPU = torch.device("cpu")
LEARN = {name: case for name, case in CASES.items() if case.learns}
LOOSE = {"ToyNet": 0.8}  # batch norm over two images magnifies what rounding changed


@pytest.fixture(autouse=True)
def as_before():
    yield
    set_precision("float32")


def trained(case, precision: str) -> tuple[Tensor, list[Tensor]]:
    "The loss, and the gradients of the parameters."
    model = made(case.make).train()
    set_precision(precision)
    torch.manual_seed(1)
    with mixed_precision(CPU):
        value = case.loss(model, case.batch())
    value.backward()
    return value.detach(), [one.grad for one in model.parameters() if one.grad is not None]


@pytest.mark.parametrize("name", LEARN)
def test_losses_and_gradients_are_near_those_of_float32(name):
    exact, there = trained(LEARN[name], "float32")
    value, found = trained(LEARN[name], "bf16")
    assert value.dtype == torch.float32 and torch.isfinite(value) and len(found) == len(there)
    assert abs(value - exact) < 0.005 * abs(exact), (float(value), float(exact))
    assert all(torch.isfinite(one).all() and one.dtype == torch.float32 for one in found)
    one, other = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in (found, there))
    assert torch.cosine_similarity(one, other, 0) > LOOSE.get(name, 0.98)


class Halves(TorchDispatchMode):
    "Collects the operations that are given numbers of half precision."

    def __init__(self):
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(
            isinstance(one, Tensor) and one.dtype in (torch.bfloat16, torch.float16)
            for one in tree_leaves((args, kwargs or {}))
        ):
            self.found.add(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


FRAGILE = {
    "_log_softmax",
    "nll_loss_forward",
    "exp",
    "exp_",
    "log",
    "logsumexp",
    "cumsum",
    "norm",
    "linalg_vector_norm",
    "roi_pool",
}  # eight bits are too few, or there is no such kernel


@pytest.mark.parametrize("name", LEARN)
def test_exponents_and_logarithms_are_taken_in_float32(name):
    set_precision("bf16")
    model = made(LEARN[name].make).train()
    with Halves() as halves:
        with mixed_precision(CPU):
            value = LEARN[name].loss(model, LEARN[name].batch())
        value.backward()
    assert halves.found & {"mm", "addmm", "convolution", "bmm", "matmul", "mkldnn_rnn_layer"}, (
        "nothing was computed in half precision"
    )
    assert not halves.found & FRAGILE, halves.found & FRAGILE


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.seen() is not None and name != "Together"]
)
def test_captioners_speak_in_half_precision(name):
    "Log-probabilities of the same words are near, and in float32; a search, which may differ in near ties, ends."
    model, seen = made(CASES[name].make).eval(), CASES[name].seen()

    def logs() -> Tensor:
        with torch.no_grad(), mixed_precision(CPU):
            state, word, found = model.begin(*(seen if isinstance(seen, tuple) else (seen,))), None, []
            for k in range(4):
                said, state = model.advance(state, word)
                word = torch.full((len(said),), k + 1)
                found.append(said)
            return torch.stack(found)

    exact = logs()
    set_precision("bf16")
    with Halves() as halves:
        found = logs()
    assert found.dtype == torch.float32 and (found - exact).abs().max() < 0.05 and not halves.found & FRAGILE, (
        halves.found & FRAGILE
    )
    with mixed_precision(CPU):
        assert torch.isfinite(beam_search(model, seen, 3, 6)[1]).all()


# --- explanations -----------------------------------------------------------------------------------------------------


def exact_ones() -> dict:
    "Explainers whose numbers are float32 with all bits, whatever was chosen."
    network, source, at, film = clip_network()
    captioner, recogniser = made(mean_pool).eval(), made(partial(ActionRecogniser, ("a", "b", "c"), FEATURES, 5)).eval()
    seen, values = descriptors(2), drawn(2, 4, FEATURES)
    return {
        "EB": lambda: excitation(network, film, {"a": 0, "c": 2}, at),
        "cEB": lambda: excitation(network, film, {"a": 0, "c": 2}, at, "top"),
        "EB-R and cEB-R of classes": lambda: [
            eb_r(network, source, recogniser, film, {"a": 0}, at, contrast) for contrast in (True, False)
        ],
        "evidence in time": lambda: [
            evidence_in_time(recogniser, values, 1, reading=reading) for reading in ("code", "paper")
        ],
        "EB-R and cEB-R of words": lambda: [
            eb_r_words(captioner, seen, TOKENS, contrast=contrast, reading=reading)
            for contrast in (True, False)
            for reading in ("code", "paper")
        ],
        "evidence at the mean": lambda: evidence_at_mean(captioner, seen.values, TOKENS),
        "cEB-R of a caption": lambda: eb_r_caption(network, source, captioner, film, TOKENS, at),
        "what is lost without a cell": lambda: left_out(captioner, seen, TOKENS),
        "what is owed": lambda: owed_to(captioner, seen.values, seen.values[:1], TOKENS),
        "faithfulness": lambda: [
            ask_descriptors(captioner, seen, TOKENS, baseline)(drawn(9, len(seen)) > 0.5)
            for baseline in (None, drawn(FEATURES))
        ],
        "gradients of words": lambda: [
            word_gradient(captioner, seen, TOKENS),
            integrated_gradients(captioner, seen, TOKENS, steps=3),
        ],
    }


@pytest.mark.parametrize(
    "name",
    (
        "EB",
        "cEB",
        "EB-R and cEB-R of classes",
        "evidence in time",
        "EB-R and cEB-R of words",
        "evidence at the mean",
        "cEB-R of a caption",
        "what is lost without a cell",
        "what is owed",
        "faithfulness",
        "gradients of words",
    ),
)
def test_excitation_backprop_and_small_differences_do_not_change_by_a_bit(name):
    explain = exact_ones()[name]
    expected = numbers(explain())
    set_precision("bf16")
    assert all(torch.equal(one, other) for one, other in zip(numbers(explain()), expected, strict=True))
    with mixed_precision(CPU):
        found = numbers(explain())  # also where a notebook has chosen it for all that it does
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("make", CAPTIONERS.values(), ids=CAPTIONERS)
@pytest.mark.parametrize("name", METHODS)
def test_methods_are_finite_in_half_precision(make, name):
    captioner = made(make).eval()
    if name not in fitting(captioner):
        pytest.skip("asks for more than this captioner has")
    exact = explained_by(name, captioner, descriptors(), TOKENS)
    set_precision("bf16")
    found = explained_by(name, captioner, descriptors(), TOKENS)
    assert found.saliency.dtype == exact.saliency.dtype and torch.isfinite(found.saliency).all()
    assert (found.saliency - exact.saliency).abs().max() < 0.05


@pytest.mark.parametrize("make", (scene_captioner, area_captioner))
def test_cgvs_in_half_precision_points_where_that_of_float32_does(make):
    "Saliency by a trained captioner differs by less than 1/20 of its range; at least 9 of 10 peaks are the same."
    captioner = make()
    images, said = scenes(12, seed=1)
    same = total = 0
    for image, tokens in zip(images, said):
        seen = Descriptors(paints_of(image).flatten(0, 1), Grid.even(8, 8, 160, 160), View.whole(160, 160, 160))
        set_precision("float32")
        exact = cgvs(captioner, seen, list(tokens))
        set_precision("bf16")
        found = cgvs(captioner, seen, list(tokens))
        reach = exact.saliency.amax() - exact.saliency.amin()
        assert (found.saliency - exact.saliency).abs().max() < 0.05 * reach
        for word in (1, 3):
            total += 1
            same += peak(exact, word).value - float(
                exact.saliency[word].flatten()[found.saliency[word].argmax()]
            ) < 0.01 * float(reach)
    assert same >= 0.9 * total, (same, total)
