"""Gradients of the words of a caption: against a loop over words, errors, and the state of model and inputs."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from cgsaliency.core.errors import InputError
from cgsaliency.core.explanation import load_explanation, save_explanation
from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.protocols import Captioner, Descriptors
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.explain.word_gradient import (
    GRADIENT_METHODS,
    batched_word_gradients,
    integrated_gradients,
    word_derivatives,
    word_gradient,
)
from cgsaliency.models.s2vt import S2VT, scan_order
from cgsaliency.models.soft_attention import SoftAttention

WORDS = "a man in red shirt plays guitar on stage with his dog".split()
CAPTION = "A man in a red shirt".split()
VOCABULARY = Vocabulary.from_captions([WORDS])
FRAMES, ROWS, COLUMNS = 3, 2, 4


class BagCaptioner(nn.Module):
    "A custom captioner without a base class: previous words are ignored, and a batch norm has running statistics."

    vocabulary = VOCABULARY

    def __init__(self):
        super().__init__()
        self.norm, self.scores = nn.BatchNorm1d(6), nn.Linear(6, len(VOCABULARY))

    def encode_words(self, tokens, truncate=False):
        return VOCABULARY.encode(tokens)

    def log_probs(self, features, token_ids):
        return (
            self.scores(torch.tanh(self.norm(features.transpose(1, 2))).mean(2))
            .log_softmax(-1)[:, None]
            .expand(-1, token_ids.shape[1], -1)
        )


def s2vt() -> S2VT:
    return S2VT(
        VOCABULARY,
        feature_dim=6,
        embed_dim=16,
        word_dim=8,
        hidden_dim=24,
        max_words=6,
        scan_indices=scan_order(ROWS * FRAMES, COLUMNS, "snake").tolist(),
    )


def soft_attention() -> SoftAttention:
    return SoftAttention(VOCABULARY, feature_dim=6, word_dim=12, hidden_dim=24, attention_dim=16, max_words=6)


each_captioner = pytest.mark.parametrize("make", [s2vt, soft_attention, BagCaptioner])
EXPLAIN_FUNCTIONS = {
    **{form: partial(word_gradient, method=form) for form in GRADIENT_METHODS},
    "integrated gradients": integrated_gradients,
}
each_method = pytest.mark.parametrize("explain", EXPLAIN_FUNCTIONS.values(), ids=EXPLAIN_FUNCTIONS)


def build(make):
    torch.manual_seed(0)
    return make()


@pytest.fixture
def descriptors() -> Descriptors:
    values = 2 * torch.randn(FRAMES * ROWS * COLUMNS, 6, generator=torch.Generator().manual_seed(1))
    return Descriptors(
        values,
        CellGrid.uniform(ROWS, COLUMNS, 40, 80),
        ImageCrop.full(80, 40, 40),
        tuple(float(k) for k in range(FRAMES)),
    )


def reference_gradients(captioner, features, tokens):
    "Return gradients, K × m × D, and log p, K: one backward pass for each word."
    token_ids, positions = captioner.encode_words(tokens)
    gradients, log_p = (
        torch.zeros(len(tokens), *features.shape, dtype=features.dtype),
        torch.zeros(len(tokens), dtype=features.dtype),
    )
    for t, (word, position) in enumerate(zip(token_ids, positions)):
        inputs = features.clone().requires_grad_()
        word_log_prob = captioner.log_probs(inputs[None], token_ids[None])[0, t, word]
        gradients[position], log_p[position] = torch.autograd.grad(word_log_prob, inputs)[0], word_log_prob.detach()
    return gradients, log_p


def is_close(values, expected):
    return (values - expected).abs().max() <= 1e-5 * expected.abs().max()


@each_captioner
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_gradients_of_a_video_equal_a_loop_over_words(make, descriptors, batch_size):
    captioner = build(make).eval()
    assert isinstance(captioner, Captioner)
    tokens = ["a", "zebra", "man", ",", "in", "red"]
    expected, _ = reference_gradients(captioner, descriptors.features, tokens)
    assert expected[[0, 2, 4, 5]].flatten(1).abs().amax(1).min() > 0
    gradients = word_derivatives(captioner, descriptors, tokens, batch_size=batch_size)
    assert is_close(gradients, expected) and gradients[[1, 3]].eq(0).all()
    weights = expected.mean(1, keepdim=True)
    expected_by_method = {
        "gradient": expected.abs().amax(2),
        "gradient x input": (expected * descriptors.features).sum(2),
        "Grad-CAM": (weights * descriptors.features).sum(2).clamp(min=0),
    }
    for method, expected_maps in expected_by_method.items():
        explanation = word_gradient(captioner, descriptors, tokens, method, batch_size=batch_size)
        assert is_close(explanation.saliency, expected_maps.view(6, FRAMES, ROWS, COLUMNS)), method
        assert (explanation.method, explanation.targets, explanation.times, explanation.grid) == (
            method,
            tuple(tokens),
            descriptors.times,
            descriptors.grid,
        )


@each_captioner
def test_integrated_gradients_satisfy_completeness(make, descriptors):
    captioner, descriptors = build(make).double().eval(), replace(descriptors, features=descriptors.features.double())
    for baseline in None, descriptors.features.mean(0):
        start = torch.zeros_like(descriptors.features) if baseline is None else baseline.expand_as(descriptors.features)
        expected = (
            reference_gradients(captioner, descriptors.features, CAPTION)[1]
            - reference_gradients(captioner, start, CAPTION)[1]
        )
        errors = [
            (integrated_gradients(captioner, descriptors, CAPTION, baseline, steps).saliency.sum((1, 2, 3)) - expected)
            .abs()
            .max()
            for steps in (16, 64, 256)
        ]
        assert errors[1] < errors[0] / 6 and errors[2] < errors[1] / 10 and errors[2] < 1e-3 * expected.abs().max(), (
            errors
        )


def test_a_baseline_equal_to_the_input_gives_zero_maps(descriptors):
    constant = replace(descriptors, features=descriptors.features[:1].expand(len(descriptors), -1))
    assert integrated_gradients(build(s2vt), constant, CAPTION, descriptors.features[0]).saliency.eq(0).all()


@each_captioner
@each_method
def test_state_of_model_and_inputs_is_restored(make, explain, descriptors):
    captioner = build(make).train()
    next(captioner.parameters()).requires_grad_(False)
    for parameter in captioner.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    state, requires_grad, features = (
        {name: value.clone() for name, value in captioner.state_dict().items()},
        [parameter_.requires_grad for parameter_ in captioner.parameters()],
        descriptors.features.clone(),
    )
    cudnn_enabled, rng_state = torch.backends.cudnn.enabled, torch.get_rng_state()
    explain(captioner, descriptors, CAPTION)
    with pytest.raises(InputError):
        explain(captioner, replace(descriptors, features=descriptors.features * torch.nan), CAPTION)
    with pytest.raises(InputError):
        explain(captioner, descriptors, ["zebra"])
    assert (
        all(module.training for module in captioner.modules())
        and torch.backends.cudnn.enabled == cudnn_enabled
        and torch.equal(torch.get_rng_state(), rng_state)
    )
    assert all(torch.equal(value, state[name]) for name, value in captioner.state_dict().items())
    assert [parameter_.requires_grad for parameter_ in captioner.parameters()] == requires_grad and all(
        parameter_.grad.eq(7).all() for parameter_ in captioner.parameters()
    )
    assert torch.equal(descriptors.features, features) and not descriptors.features.requires_grad


@each_captioner
@each_method
def test_maps_do_not_depend_on_the_grad_mode_of_the_caller(make, explain, descriptors):
    captioner, expected = build(make), None
    for grad_mode in torch.enable_grad, torch.no_grad, torch.inference_mode:
        with grad_mode():
            inputs = replace(descriptors, features=descriptors.features * 1)  # made in this mode, too
            maps = explain(captioner, inputs, CAPTION).saliency
        expected = maps if expected is None else expected
        assert (
            torch.equal(maps, expected)
            and not maps.requires_grad
            and maps.device.type == "cpu"
            and not maps.is_inference()
        )
    inputs_with_grad = replace(descriptors, features=descriptors.features.clone().requires_grad_())
    assert (
        torch.equal(explain(captioner, inputs_with_grad, CAPTION).saliency, expected)
        and inputs_with_grad.features.grad is None
    )


@each_method
def test_explanations_can_be_saved_and_loaded(explain, descriptors, tmp_path):
    explanation = explain(build(s2vt), descriptors, CAPTION)
    loaded = load_explanation(save_explanation(explanation, tmp_path / "word.safetensors"))
    assert torch.equal(loaded.saliency, explanation.saliency) and loaded.settings == explanation.settings


@each_method
def test_maps_on_a_gpu_equal_those_on_the_cpu(explain, descriptors):
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    for make in s2vt, soft_attention:
        captioner = build(make).eval()
        on_cpu = explain(captioner, descriptors, CAPTION).saliency
        on_gpu = explain(captioner.cuda(), replace(descriptors, features=descriptors.features.cuda()), CAPTION).saliency
        assert on_gpu.device.type == "cpu" and (on_cpu - on_gpu).abs().max() <= 1e-3 * on_cpu.abs().max()


@each_method
@pytest.mark.parametrize(
    "tokens, message",
    [
        ([], "is empty"),
        (["."], "none of its words"),
        ("a man in red shirt plays guitar".split(), "7 words; this captioner allows 6"),
    ],
)
def test_captions_that_cannot_be_explained_are_rejected(explain, descriptors, tokens, message):
    with pytest.raises(InputError, match=message):
        explain(build(s2vt), descriptors, tokens)


@each_method
def test_long_captions_are_truncated(explain, descriptors):
    maps = explain(build(s2vt), descriptors, "a man in red shirt plays guitar".split(), truncate=True).saliency
    assert maps[6].eq(0).all() and maps[:6].flatten(1).abs().sum() > 0


@each_method
def test_wrong_descriptors_are_rejected(explain, descriptors):
    for value in torch.nan, torch.inf:
        damaged = replace(descriptors, features=descriptors.features.clone())
        damaged.features[1 * ROWS * COLUMNS + 1 * COLUMNS + 2, 3] = value
        with pytest.raises(
            InputError, match="descriptor of frame 1, row 1, column 2: has features that are not finite"
        ):
            explain(build(s2vt), damaged, CAPTION)
    with pytest.raises(InputError, match="have 5 features; this captioner was made for 6"):
        explain(build(s2vt), replace(descriptors, features=descriptors.features[:, :5]), CAPTION)


class DetachedCaptioner(BagCaptioner):
    def log_probs(self, features, token_ids):
        return super().log_probs(features.detach(), token_ids)


class NoGradCaptioner(BagCaptioner):
    @torch.no_grad()
    def log_probs(self, features, token_ids):
        return super().log_probs(features, token_ids)


class CertainCaptioner(BagCaptioner):
    def log_probs(self, features, token_ids):
        log_p = super().log_probs(features, token_ids)
        return torch.where(torch.arange(len(VOCABULARY)) == VOCABULARY.index["red"], -torch.inf, log_p)


class SteepCaptioner(BagCaptioner):
    def log_probs(self, features, token_ids):
        return super().log_probs(features, token_ids) + (features.flatten(1).sum(1) * 0).sqrt()[:, None, None]


@each_method
def test_captioners_without_usable_derivatives_are_rejected(explain, descriptors):
    for captioner_class in DetachedCaptioner, NoGradCaptioner:
        with pytest.raises(
            InputError,
            match=f"{captioner_class.__name__}: gives log-probabilities that have no derivative by the descriptors",
        ):
            explain(build(captioner_class), descriptors, CAPTION)
    with pytest.raises(InputError, match="word 'red': has log p = -inf"):
        explain(build(CertainCaptioner), descriptors, CAPTION)
    with pytest.raises(InputError, match="SteepCaptioner: gives log-probabilities whose derivatives are not finite"):
        explain(build(SteepCaptioner), descriptors, CAPTION)


@pytest.mark.parametrize(
    "explain, message",
    [
        (
            lambda *arguments: word_gradient(*arguments, "saliency"),
            "there is no 'saliency'. Choose 'gradient', 'gradient x input', 'Grad-CAM'",
        ),
        (lambda *arguments: word_gradient(*arguments, batch_size=0), "batch_size: is 0; expected 1 or more"),
        (lambda *arguments: integrated_gradients(*arguments, steps=0), "steps: is 0; expected 1 or more"),
        (lambda *arguments: integrated_gradients(*arguments, baseline=torch.zeros(2, 6)), "expected 6 finite features"),
        (
            lambda *arguments: integrated_gradients(*arguments, baseline=torch.full((6,), torch.nan)),
            "6 numbers that are not finite",
        ),
    ],
)
def test_wrong_arguments_are_rejected(descriptors, explain, message):
    with pytest.raises(InputError) as error:
        explain(build(s2vt), descriptors, CAPTION)
    assert message in str(error.value), error.value


def test_batch_sizes_are_respected(descriptors):
    sizes = []

    class CountingCaptioner(BagCaptioner):
        def log_probs(self, features, token_ids):
            sizes.append(len(features))
            return super().log_probs(features, token_ids)

    word_derivatives(build(CountingCaptioner), descriptors, CAPTION, batch_size=4)
    integrated_gradients(build(CountingCaptioner), descriptors, CAPTION, steps=3, batch_size=5)
    assert sizes == [4, 2, 5, 5, 5, 3]
    assert batched_word_gradients(
        build(BagCaptioner), descriptors, CAPTION, lambda derivative: derivative.norm(dim=(1, 2))
    ).shape == (6,)
