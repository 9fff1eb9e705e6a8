"""Models and explainers on a GPU against the CPU: `python -m pytest -m gpu`, or `benchmarks/gpu.py --only tests`.

Without a GPU every test is skipped; with CGSALIENCY_DEVICE=cpu they compare the CPU with itself, which shows only
that they run. Models are those of small_models.py, explainers those of explainer_cases.py. Products are computed in
full float32; sums have another order on a GPU, so that results differ in the last places.
"""

import copy
import os

import pytest
import torch
from torch import Tensor, nn

from cgsaliency.core.runtime import (
    batch_byte_budget,
    default_device,
    device_of,
    full_precision,
    mixed_precision,
    seed_everything,
    set_precision,
    to_device,
)
from cgsaliency.explain.excitation import excitation_backprop
from cgsaliency.explain.excitation_rnn import temporal_evidence
from cgsaliency.features.frame_extractor import extract_layer_features
from cgsaliency.models.base import load_captioner
from cgsaliency.models.cnn_lstm import ActionLSTM
from cgsaliency.models.decode import beam_search
from cgsaliency.models.mean_pool import MeanPoolCaptioner
from cgsaliency.models.s2vt import S2VT
from cgsaliency.train.captioner import train_captioner
from cgsaliency.train.loop import TrainConfig
from explainer_cases import EXPLAINER_CASES, tensors_of
from small_models import CASES, Case, clip_network, random_tensor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        default_device().type != "cuda" and "CGSALIENCY_DEVICE" not in os.environ, reason="there is no CUDA device"
    ),
]
DEVICE = default_device()
CAPTIONER_NAMES = [name for name, case in CASES.items() if case.inputs() is not None]
TRAINABLE_NAMES = [name for name, case in CASES.items() if case.trainable]


@pytest.fixture(autouse=True)
def full_float32():
    "Begin and end each test with products in full float32."
    set_precision("float32")
    yield
    set_precision("float32")


def make_without_dropout(case: Case, seed: int = 0) -> nn.Module:
    "Return the model without dropout, whose random numbers differ between devices."
    torch.manual_seed(seed)
    model = case.make()
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, nn.RNNBase):
            layer.dropout = 0.0
    return model


def training_step(case: Case, model: nn.Module, device: torch.device) -> tuple[float, dict[str, Tensor]]:
    "Return the loss of a batch and the gradients of all parameters."
    model = model.to(device).train(case.trainable)
    batch = to_device(case.batch(), device)
    with mixed_precision(device):
        loss = case.loss(model, batch)
    if case.trainable:
        loss.backward()
    return float(loss.detach()), {
        name: parameter.grad.detach().float().cpu()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def relative_difference(values: Tensor, expected: Tensor) -> float:
    "Return the largest difference, relative to the largest value. Assert that all values are finite."
    assert values.shape == expected.shape and values.isfinite().all() and expected.isfinite().all()
    return (
        float((values.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-12))
        if expected.numel()
        else 0.0
    )


# Equal to the CPU


@pytest.mark.parametrize("name", CASES)
def test_training_step_equals_that_of_the_cpu(name):
    case = CASES[name]
    model = make_without_dropout(case)
    copied = copy.deepcopy(model)
    expected_loss, expected_gradients = training_step(case, model, torch.device("cpu"))
    loss, gradients = training_step(case, copied, DEVICE)
    assert device_of(copied).type == DEVICE.type and gradients.keys() == expected_gradients.keys()
    assert abs(loss - expected_loss) <= 1e-4 * abs(expected_loss)
    largest = max((float(gradient.abs().max()) for gradient in expected_gradients.values()), default=1.0)
    assert all(
        float((gradients[name_] - expected_gradients[name_]).abs().max()) <= 1e-3 * largest
        for name_ in expected_gradients
    )


@pytest.mark.parametrize("name", EXPLAINER_CASES)
def test_explanations_equal_those_of_the_cpu(name):
    run = EXPLAINER_CASES[name][1]
    expected, tensors = (tensors_of(run(device)) for device in ("cpu", DEVICE.type))
    assert len(tensors) == len(expected) > 0 and all(
        relative_difference(values, expected_values) <= 1e-3 for values, expected_values in zip(tensors, expected)
    )


@pytest.mark.parametrize("name", CAPTIONER_NAMES)
def test_captions_equal_those_of_the_cpu(name):
    model, inputs = make_without_dropout(CASES[name]).eval(), CASES[name].inputs()
    inputs = (inputs, inputs) if name == "Ensemble" else inputs
    for beam in (1, 3):
        expected = beam_search(model.cpu(), inputs, beam, 6)
        searched = beam_search(model.to(DEVICE), to_device(inputs, DEVICE), beam, 6)
        assert searched[0] == expected[0] and relative_difference(searched[1].cpu(), expected[1]) <= 1e-4


def test_features_of_frames_equal_those_of_the_cpu():
    network, start_layer, _, video = clip_network()
    expected = extract_layer_features(network, video, start_layer)
    features = extract_layer_features(network.to(DEVICE), video, start_layer)
    assert all(
        values.device.type == "cpu" and relative_difference(values, expected_values) <= 1e-4
        for values, expected_values in zip(features, expected)
    )


# A training to its end


def train_small(folder, kind=S2VT, **model_kwargs) -> tuple[nn.Module, list[dict]]:
    "Train a captioner for two epochs, and return it with its history."
    from small_models import CELLS, FEATURES, VOCABULARY, random_captions

    return train_captioner(
        kind,
        folder,
        VOCABULARY,
        {"feature_dim": FEATURES, "word_dim": 6, "hidden_dim": 10, "max_words": 8, **model_kwargs},
        random_tensor(8, CELLS, FEATURES),
        random_captions(8),
        TrainConfig(epochs=2, batch_size=4),
        progress=False,
    )


def test_a_captioner_is_trained_and_loaded_on_the_device(tmp_path):
    model, history = train_small(tmp_path / "model", embed_dim=8)
    assert device_of(model).type == DEVICE.type and len(history) == 2 and history[1]["loss"] < history[0]["loss"] + 0.5
    loaded = load_captioner(S2VT, tmp_path / "model")
    assert device_of(loaded).type == DEVICE.type
    assert all(
        torch.equal(value.cpu(), expected.cpu())
        for value, expected in zip(loaded.state_dict().values(), model.state_dict().values())
    )


def test_a_finished_training_is_loaded_again(tmp_path):
    first, history = train_small(tmp_path / "model", MeanPoolCaptioner)
    second, same_history = train_small(tmp_path / "model", MeanPoolCaptioner)
    assert history == same_history and all(
        torch.equal(value, expected)
        for value, expected in zip(first.state_dict().values(), second.state_dict().values())
    )


# The same again


@pytest.mark.parametrize("name", TRAINABLE_NAMES)
def test_training_step_is_deterministic(name):
    seed_everything(0)
    try:
        first, second = (training_step(CASES[name], make_without_dropout(CASES[name]), DEVICE) for _ in range(2))
    finally:
        torch.set_deterministic_debug_mode("default")
    assert first[0] == second[0] and all(torch.equal(first[1][name_], second[1][name_]) for name_ in first[1])


@pytest.mark.parametrize("name", ("cgvs of S2VT", "excitation, top", "eb_r, lstm, True, -1", "eb_r_words, True, code"))
def test_explanations_are_deterministic(name):
    seed_everything(0)
    try:
        first, second = (tensors_of(EXPLAINER_CASES[name][1](DEVICE.type)) for _ in range(2))
    finally:
        torch.set_deterministic_debug_mode("default")
    assert all(torch.equal(value, expected) for value, expected in zip(first, second))


# Precision


@pytest.mark.parametrize("precision, tolerance", (("tf32", 0.01), ("bf16", 0.05)))
@pytest.mark.parametrize("name", TRAINABLE_NAMES)
def test_training_step_in_lower_precision_is_near_float32(name, precision, tolerance):
    expected, _ = training_step(CASES[name], make_without_dropout(CASES[name]), DEVICE)
    set_precision(precision)
    loss, gradients = training_step(CASES[name], make_without_dropout(CASES[name]), DEVICE)
    assert abs(loss - expected) <= tolerance * abs(expected) and all(
        gradient.isfinite().all() for gradient in gradients.values()
    )


def test_lower_precision_changes_products_only_where_it_is_set():
    matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    exact = matrix @ matrix
    set_precision("bf16")
    with mixed_precision(DEVICE):
        rounded = matrix @ matrix
    assert rounded.dtype == torch.bfloat16 and 0 < relative_difference(rounded.float().cpu(), exact.cpu()) < 0.05
    with mixed_precision(DEVICE), full_precision(DEVICE):
        assert torch.equal(matrix @ matrix, exact)


def test_excitation_backprop_is_computed_in_float32():
    network, _, target_layer, video = clip_network()
    recognizer, features = ActionLSTM(("a", "b"), 6, 5).eval().to(DEVICE), random_tensor(2, 4, 6)
    network = network.to(DEVICE)

    def maps() -> list[Tensor]:
        return [
            excitation_backprop(network, video, {"a": 0}, target_layer, contrast).saliency for contrast in (None, "top")
        ] + [temporal_evidence(recognizer, features, 1).cpu()]

    expected = maps()
    for precision in ("tf32", "bf16"):
        set_precision(precision)
        with mixed_precision(DEVICE):
            assert all(torch.equal(value, expected_value) for value, expected_value in zip(maps(), expected))


# The device itself


def test_the_batch_budget_follows_free_memory():
    budget = batch_byte_budget(DEVICE)
    assert budget > 0
    if DEVICE.type == "cuda":
        allocated = torch.empty(2**28, device=DEVICE)  # 1 GiB; the budget is half of the free memory
        assert budget - batch_byte_budget(DEVICE) >= 2**28
        del allocated


def test_convolutions_accept_both_memory_formats():
    network, _, _, video = clip_network()
    network, video = network.to(DEVICE), video.to(DEVICE)
    with torch.inference_mode():
        contiguous, channels_last = (
            network(video),
            network.to(memory_format=torch.channels_last)(video.contiguous(memory_format=torch.channels_last)),
        )
    assert relative_difference(channels_last.cpu(), contiguous.cpu()) <= 1e-4
