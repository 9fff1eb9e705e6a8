"""Training and explaining in bfloat16: losses and gradients are near those of float32, exponents and logarithms are
computed in float32, and excitation backprop does not change at all.
"""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.protocols import Descriptors
from cgsaliency.core.runtime import mixed_precision, set_precision
from cgsaliency.evaluate.faithfulness import descriptor_scorer
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.cnn_rnn import eb_r
from cgsaliency.explain.excitation import excitation_backprop
from cgsaliency.explain.excitation_captions import context_evidence, eb_r_caption, eb_r_words, log_prob_gain
from cgsaliency.explain.excitation_rnn import temporal_evidence
from cgsaliency.explain.leave_one_out import leave_one_out
from cgsaliency.explain.registry import EXPLAINERS, compatible_explainers, explain
from cgsaliency.explain.word_gradient import integrated_gradients, word_gradient
from cgsaliency.models.areas_of_attention import toy_area_captioner
from cgsaliency.models.cnn_lstm import ActionLSTM
from cgsaliency.models.decode import beam_search
from cgsaliency.models.mean_pool import toy_mean_pool_captioner
from cgsaliency.toy.color_models import color_scenes, reference_color_scores
from explainer_cases import build, tensors_of
from small_models import CAPTIONERS, CASES, FEATURES, TOKENS, clip_network, descriptors, mean_pool, random_tensor

CPU = torch.device("cpu")
TRAINABLE = {name: case for name, case in CASES.items() if case.trainable}
MIN_SIMILARITY = {"ToyNet": 0.8}  # batch norm over two images magnifies rounding errors


@pytest.fixture(autouse=True)
def reset_precision():
    yield
    set_precision("float32")


def training_step(case, precision: str) -> tuple[Tensor, list[Tensor]]:
    "Return the loss and the gradients of the parameters."
    model = build(case.make).train()
    set_precision(precision)
    torch.manual_seed(1)
    with mixed_precision(CPU):
        loss = case.loss(model, case.batch())
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("name", TRAINABLE)
def test_losses_and_gradients_are_near_those_of_float32(name):
    expected_loss, expected_gradients = training_step(TRAINABLE[name], "float32")
    loss, gradients = training_step(TRAINABLE[name], "bf16")
    assert loss.dtype == torch.float32 and torch.isfinite(loss) and len(gradients) == len(expected_gradients)
    assert abs(loss - expected_loss) < 0.005 * abs(expected_loss), (float(loss), float(expected_loss))
    assert all(torch.isfinite(gradient).all() and gradient.dtype == torch.float32 for gradient in gradients)
    gradient, expected_vector = (
        torch.cat([gradient_.flatten() for gradient_ in gradients]) for gradients in (gradients, expected_gradients)
    )
    assert torch.cosine_similarity(gradient, expected_vector, 0) > MIN_SIMILARITY.get(name, 0.98)


class HalfPrecisionOps(TorchDispatchMode):
    "Collect the names of operations with inputs in half precision."

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(
            isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
            for value in tree_leaves((args, kwargs or {}))
        ):
            self.names.add(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


FLOAT32_OPS = {
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
}  # half precision is too coarse, or has no kernel


@pytest.mark.parametrize("name", TRAINABLE)
def test_exponents_and_logarithms_are_computed_in_float32(name):
    set_precision("bf16")
    model = build(TRAINABLE[name].make).train()
    with HalfPrecisionOps() as half_ops:
        with mixed_precision(CPU):
            value = TRAINABLE[name].loss(model, TRAINABLE[name].batch())
        value.backward()
    assert half_ops.names & {
        "mm",
        "addmm",
        "convolution",
        "bmm",
        "matmul",
        "mkldnn_rnn_layer",
    }, "nothing was computed in half precision"
    assert not half_ops.names & FLOAT32_OPS, half_ops.names & FLOAT32_OPS


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.inputs() is not None and name != "Ensemble"]
)
def test_captioners_decode_in_half_precision(name):
    "Log-probabilities of the same words are near those of float32; a search may differ in near ties, but ends."
    model, inputs = build(CASES[name].make).eval(), CASES[name].inputs()

    def compute_log_probs() -> Tensor:
        with torch.no_grad(), mixed_precision(CPU):
            state, word, log_probs = model.init_state(*(inputs if isinstance(inputs, tuple) else (inputs,))), None, []
            for k in range(4):
                step_log_probs, state = model.step(state, word)
                word = torch.full((len(step_log_probs),), k + 1)
                log_probs.append(step_log_probs)
            return torch.stack(log_probs)

    expected = compute_log_probs()
    set_precision("bf16")
    with HalfPrecisionOps() as half_ops:
        log_probs = compute_log_probs()
    assert (
        log_probs.dtype == torch.float32
        and (log_probs - expected).abs().max() < 0.05
        and not half_ops.names & FLOAT32_OPS
    ), half_ops.names & FLOAT32_OPS
    with mixed_precision(CPU):
        assert torch.isfinite(beam_search(model, inputs, 3, 6)[1]).all()


# --- explanations -----------------------------------------------------------------------------------------------------


def float32_explainers() -> dict:
    "Return explainers that always compute in float32."
    network, start_layer, target_layer, video = clip_network()
    captioner, recognizer = build(mean_pool).eval(), build(partial(ActionLSTM, ("a", "b", "c"), FEATURES, 5)).eval()
    inputs, features = descriptors(2), random_tensor(2, 4, FEATURES)
    return {
        "EB": lambda: excitation_backprop(network, video, {"a": 0, "c": 2}, target_layer),
        "cEB": lambda: excitation_backprop(network, video, {"a": 0, "c": 2}, target_layer, "top"),
        "EB-R and cEB-R of classes": lambda: [
            eb_r(network, start_layer, recognizer, video, {"a": 0}, target_layer, contrastive)
            for contrastive in (True, False)
        ],
        "temporal evidence": lambda: [
            temporal_evidence(recognizer, features, 1, variant=variant) for variant in ("code", "paper")
        ],
        "EB-R and cEB-R of words": lambda: [
            eb_r_words(captioner, inputs, TOKENS, contrastive=contrastive, variant=variant)
            for contrastive in (True, False)
            for variant in ("code", "paper")
        ],
        "context evidence": lambda: context_evidence(captioner, inputs.features, TOKENS),
        "cEB-R of a caption": lambda: eb_r_caption(network, start_layer, captioner, video, TOKENS, target_layer),
        "leave one out": lambda: leave_one_out(captioner, inputs, TOKENS),
        "log-probability gain": lambda: log_prob_gain(captioner, inputs.features, inputs.features[:1], TOKENS),
        "faithfulness": lambda: [
            descriptor_scorer(captioner, inputs, TOKENS, baseline)(random_tensor(9, len(inputs)) > 0.5)
            for baseline in (None, random_tensor(FEATURES))
        ],
        "gradients of words": lambda: [
            word_gradient(captioner, inputs, TOKENS),
            integrated_gradients(captioner, inputs, TOKENS, steps=3),
        ],
    }


@pytest.mark.parametrize(
    "name",
    (
        "EB",
        "cEB",
        "EB-R and cEB-R of classes",
        "temporal evidence",
        "EB-R and cEB-R of words",
        "context evidence",
        "cEB-R of a caption",
        "leave one out",
        "log-probability gain",
        "faithfulness",
        "gradients of words",
    ),
)
def test_excitation_backprop_and_differences_are_computed_in_float32(name):
    explain = float32_explainers()[name]
    expected = tensors_of(explain())
    set_precision("bf16")
    assert all(
        torch.equal(tensor, expected_tensor)
        for tensor, expected_tensor in zip(tensors_of(explain()), expected, strict=True)
    )
    with mixed_precision(CPU):
        tensors = tensors_of(explain())  # also where a notebook sets mixed precision for all cells
    assert all(torch.equal(tensor, expected_tensor) for tensor, expected_tensor in zip(tensors, expected, strict=True))


@pytest.mark.parametrize("make", CAPTIONERS.values(), ids=CAPTIONERS)
@pytest.mark.parametrize("name", EXPLAINERS)
def test_explainers_are_finite_in_half_precision(make, name):
    captioner = build(make).eval()
    if name not in compatible_explainers(captioner):
        pytest.skip("this explainer does not support this captioner")
    expected = explain(name, captioner, descriptors(), TOKENS)
    set_precision("bf16")
    explanation = explain(name, captioner, descriptors(), TOKENS)
    assert explanation.saliency.dtype == expected.saliency.dtype and torch.isfinite(explanation.saliency).all()
    assert (explanation.saliency - expected.saliency).abs().max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("make", (toy_mean_pool_captioner, toy_area_captioner))
def test_cgvs_in_half_precision_has_the_peaks_of_float32(make):
    "Saliency of a trained captioner differs by less than 1/20 of its range, and at least 9 of 10 peaks are the same."
    captioner = make()
    images, captions = color_scenes(12, seed=1)
    num_same = num_total = 0
    for image, tokens in zip(images, captions):
        inputs = Descriptors(
            reference_color_scores(image).flatten(0, 1), CellGrid.uniform(8, 8, 160, 160), ImageCrop.full(160, 160, 160)
        )
        set_precision("float32")
        expected = cgvs(captioner, inputs, list(tokens))
        set_precision("bf16")
        explanation = cgvs(captioner, inputs, list(tokens))
        value_range = expected.saliency.amax() - expected.saliency.amin()
        assert (explanation.saliency - expected.saliency).abs().max() < 0.05 * value_range
        for word in (1, 3):
            num_total += 1
            num_same += expected.peak(word).value - float(
                expected.saliency[word].flatten()[explanation.saliency[word].argmax()]
            ) < 0.01 * float(value_range)
    assert num_same >= 0.9 * num_total, (num_same, num_total)
