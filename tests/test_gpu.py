"""Models and explainers on a real GPU against the CPU: `python -m pytest -m gpu tests/test_gpu.py`, or
`benchmarks/gpu.py --only tests`.

Without a GPU every test is skipped; with CGSALIENCY_DEVICE=cpu they compare the CPU with itself, which shows only
that they run. Models are those of small_models.py, explainers those of test_fake_device.py. Float32 is compared with
all its bits; sums come in another order on a GPU, so that numbers differ by some units of the last place.
"""

import copy, os

import pytest
import torch
from small_models import CASES, Case, clip_network, drawn
from test_fake_device import EXPLAINERS, numbers
from torch import Tensor, nn

from cgsaliency.core.run import (
    best_device,
    device_of,
    free_bytes,
    full_precision,
    mixed_precision,
    seed_everything,
    set_precision,
    to_device,
)
from cgsaliency.explain.excitation import excitation
from cgsaliency.explain.recurrent import evidence_in_time
from cgsaliency.models.action import ActionRecogniser, features_of
from cgsaliency.models.captioning import load_captioner, train_captioner
from cgsaliency.models.decode import beam_search
from cgsaliency.models.fit import Recipe
from cgsaliency.models.mean_pool import MeanPool
from cgsaliency.models.s2vt import S2VT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        best_device().type != "cuda" and "CGSALIENCY_DEVICE" not in os.environ, reason="there is no CUDA device"
    ),
]
DEVICE = best_device()
SPEAKERS = [name for name, case in CASES.items() if case.seen() is not None]
LEARNERS = [name for name, case in CASES.items() if case.learns]


@pytest.fixture(autouse=True)
def float32():
    "Each test begins and ends with all bits of float32."
    set_precision("float32")
    yield
    set_precision("float32")


def model_of(case: Case, seed: int = 0) -> nn.Module:
    "The model without dropout, whose random numbers are others on another device."
    torch.manual_seed(seed)
    model = case.make()
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, nn.RNNBase):
            layer.dropout = 0.0
    return model


def learned(case: Case, model: nn.Module, device: torch.device) -> tuple[float, dict[str, Tensor]]:
    "The loss of a batch, and the derivatives by all parameters."
    model = model.to(device).train(case.learns)
    batch = to_device(case.batch(), device)
    with mixed_precision(device):
        value = case.loss(model, batch)
    if case.learns:
        value.backward()
    return float(value.detach()), {
        name: part.grad.detach().float().cpu() for name, part in model.named_parameters() if part.grad is not None
    }


def away(ours: Tensor, theirs: Tensor) -> float:
    "The largest difference, as a share of the largest number; without one, where numbers are not finite."
    assert ours.shape == theirs.shape and ours.isfinite().all() and theirs.isfinite().all()
    return (
        float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max().clamp_min(1e-12))
        if theirs.numel()
        else 0.0
    )


# Equal to the CPU


@pytest.mark.parametrize("name", CASES)
def test_a_training_step_is_that_of_the_cpu(name):
    case = CASES[name]
    model = model_of(case)
    there = copy.deepcopy(model)
    expected, slopes = learned(case, model, torch.device("cpu"))
    found, own = learned(case, there, DEVICE)
    assert device_of(there).type == DEVICE.type and own.keys() == slopes.keys()
    assert abs(found - expected) <= 1e-4 * abs(expected)
    largest = max((float(one.abs().max()) for one in slopes.values()), default=1.0)
    assert all(float((own[part] - slopes[part]).abs().max()) <= 1e-3 * largest for part in slopes)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_an_explanation_is_that_of_the_cpu(name):
    ask = EXPLAINERS[name][1]
    expected, found = (numbers(ask(device)) for device in ("cpu", DEVICE.type))
    assert len(found) == len(expected) > 0 and all(away(ours, theirs) <= 1e-3 for ours, theirs in zip(found, expected))


@pytest.mark.parametrize("name", SPEAKERS)
def test_captions_are_those_of_the_cpu(name):
    model, seen = model_of(CASES[name]).eval(), CASES[name].seen()
    seen = (seen, seen) if name == "Together" else seen
    for beam in (1, 3):
        expected = beam_search(model.cpu(), seen, beam, 6)
        found = beam_search(model.to(DEVICE), to_device(seen, DEVICE), beam, 6)
        assert found[0] == expected[0] and away(found[1].cpu(), expected[1]) <= 1e-4


def test_features_of_frames_are_those_of_the_cpu():
    network, source, _, film = clip_network()
    expected = features_of(network, film, source)
    found = features_of(network.to(DEVICE), film, source)
    assert all(ours.device.type == "cpu" and away(ours, theirs) <= 1e-4 for ours, theirs in zip(found, expected))


# A training to its end


def taught(folder, kind=S2VT, **sizes) -> tuple[nn.Module, list[dict]]:
    "A captioner that has learned for two epochs, and its history."
    from small_models import CELLS, FEATURES, VOCABULARY, captions

    return train_captioner(
        kind,
        folder,
        VOCABULARY,
        {"features": FEATURES, "words": 6, "hidden": 10, "max_words": 8, **sizes},
        drawn(8, CELLS, FEATURES),
        captions(8),
        Recipe(epochs=2, batch_size=4),
        progress=False,
    )


def test_a_captioner_learns_and_is_loaded_there(tmp_path):
    model, history = taught(tmp_path / "own", embedding=8)
    assert device_of(model).type == DEVICE.type and len(history) == 2 and history[1]["loss"] < history[0]["loss"] + 0.5
    again = load_captioner(S2VT, tmp_path / "own")
    assert device_of(again).type == DEVICE.type
    assert all(
        torch.equal(ours.cpu(), theirs.cpu())
        for ours, theirs in zip(again.state_dict().values(), model.state_dict().values())
    )


def test_a_training_that_stands_there_goes_on(tmp_path):
    first, history = taught(tmp_path / "own", MeanPool)
    second, again = taught(tmp_path / "own", MeanPool)
    assert history == again and all(
        torch.equal(ours, theirs) for ours, theirs in zip(first.state_dict().values(), second.state_dict().values())
    )


# The same again


@pytest.mark.parametrize("name", LEARNERS)
def test_a_training_step_is_the_same_again(name):
    seed_everything(0)
    try:
        one, other = (learned(CASES[name], model_of(CASES[name]), DEVICE) for _ in range(2))
    finally:
        torch.set_deterministic_debug_mode("default")
    assert one[0] == other[0] and all(torch.equal(one[1][part], other[1][part]) for part in one[1])


@pytest.mark.parametrize("name", ("cgvs of S2VT", "excitation, top", "eb_r, lstm, True, -1", "eb_r_words, True, code"))
def test_an_explanation_is_the_same_again(name):
    seed_everything(0)
    try:
        one, other = (numbers(EXPLAINERS[name][1](DEVICE.type)) for _ in range(2))
    finally:
        torch.set_deterministic_debug_mode("default")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(one, other))


# Precision


@pytest.mark.parametrize("precision, share", (("tf32", 0.01), ("bf16", 0.05)))
@pytest.mark.parametrize("name", LEARNERS)
def test_a_training_step_in_less_precision_is_near(name, precision, share):
    expected, _ = learned(CASES[name], model_of(CASES[name]), DEVICE)
    set_precision(precision)
    found, slopes = learned(CASES[name], model_of(CASES[name]), DEVICE)
    assert abs(found - expected) <= share * abs(expected) and all(one.isfinite().all() for one in slopes.values())


def test_less_precision_makes_a_difference_where_it_should():
    one = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    exact = one @ one
    set_precision("bf16")
    with mixed_precision(DEVICE):
        rounded = one @ one
    assert rounded.dtype == torch.bfloat16 and 0 < away(rounded.float().cpu(), exact.cpu()) < 0.05
    with mixed_precision(DEVICE), full_precision(DEVICE):
        assert torch.equal(one @ one, exact)


def test_excitation_backprop_keeps_all_bits():
    network, _, at, film = clip_network()
    recogniser, values = ActionRecogniser(("a", "b"), 6, 5).eval().to(DEVICE), drawn(2, 4, 6)
    network = network.to(DEVICE)

    def maps() -> list[Tensor]:
        return [excitation(network, film, {"a": 0}, at, contrast).saliency for contrast in (None, "top")] + [
            evidence_in_time(recogniser, values, 1).cpu()
        ]

    expected = maps()
    for precision in ("tf32", "bf16"):
        set_precision(precision)
        with mixed_precision(DEVICE):
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(maps(), expected))


# The device itself


def test_the_device_says_what_is_free():
    before = free_bytes(DEVICE)
    assert before > 0
    if DEVICE.type == "cuda":
        held = torch.empty(2**28, device=DEVICE)  # 1 GiB, of which half counts
        assert before - free_bytes(DEVICE) >= 2**28
        del held


def test_convolutions_take_images_in_both_orders():
    network, _, _, film = clip_network()
    network, film = network.to(DEVICE), film.to(DEVICE)
    with torch.inference_mode():
        plain, last = (
            network(film),
            network.to(memory_format=torch.channels_last)(film.contiguous(memory_format=torch.channels_last)),
        )
    assert away(last.cpu(), plain.cpu()) <= 1e-4
