"""Every explainer of the package on a small model, as a function of the device."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from cgsaliency.core.explanation import Explanation
from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.regions import QuadRegions, grid_regions
from cgsaliency.core.runtime import device_of
from cgsaliency.explain.attention import area_attention, area_weights, attention, attention_captions
from cgsaliency.explain.backward import class_maps
from cgsaliency.explain.cgvs import cgvs, cgvs_captions, descriptor_evidence
from cgsaliency.explain.cgvs_video import spacetime
from cgsaliency.explain.cnn_rnn import bp_r, eb_r, propagate_to_frames
from cgsaliency.explain.excitation import excitation_backprop, excitation_rule, trace_forward
from cgsaliency.explain.excitation_captions import (
    context_evidence,
    context_evidence_parts,
    eb_r_caption,
    eb_r_words,
    log_prob_gain,
    top_gain_tokens,
)
from cgsaliency.explain.excitation_rnn import temporal_evidence
from cgsaliency.explain.gradient import grad_cam, gradient_rule, gradient_saliency, recurrent_gradient
from cgsaliency.explain.leave_one_out import leave_one_out
from cgsaliency.explain.word_gradient import (
    GRADIENT_METHODS,
    batched_word_gradients,
    integrated_gradients,
    word_derivatives,
    word_gradient,
)
from cgsaliency.models.areas_of_attention import WithImageVector
from cgsaliency.models.cnn_lstm import ActionLSTM
from cgsaliency.toy.color_models import SENTENCE, ColorCaptioner, ball_on_grass, color_descriptors
from small_models import (
    CAPTIONERS,
    FEATURES,
    TOKENS,
    areas,
    clip_network,
    descriptors,
    mean_pool,
    random_tensor,
    s2vt,
    soft_attention,
)


def build(make, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return make()


def tensors_of(value) -> list[Tensor]:
    "Return the tensors of a result, on the CPU."
    if isinstance(value, Tensor):
        return [value.detach().cpu()]
    if isinstance(value, Explanation):
        return [value.saliency]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_of(item)]
    return []


# --- explainers -------------------------------------------------------------------------------------------------------


def on_network(explain):
    "Return a function of the device that explains the network for frames."

    def run(device: str):
        network, start_layer, target_layer, video = clip_network()
        return explain(network.to(device), start_layer, target_layer, video)

    return run


def on_captioner(make, explain, num_frames: int = 1):
    "Return a function of the device that explains a captioner."

    def run(device: str):
        return explain(build(make).eval().to(device), descriptors(num_frames))

    return run


def on_recognizer(explain):
    def run(device: str):
        return explain(
            build(partial(ActionLSTM, ("a", "b", "c"), FEATURES, 5)).eval().to(device), random_tensor(2, 4, FEATURES)
        )

    return run


def recognizer_for(network: nn.Module, kind: str = "lstm") -> ActionLSTM:
    return build(partial(ActionLSTM, ("a", "b", "c"), FEATURES, 5, kind)).eval().to(device_of(network))


def small_regions() -> QuadRegions:
    return grid_regions(CellGrid.uniform(2, 3, 40, 40), ImageCrop.full(60, 40, 40))


def identity(tensor: Tensor) -> Tensor:
    return tensor


def apply_rule(outputs_and_rule: tuple[Tensor, Callable]) -> Tensor:
    "Return the maps of three classes by a backward rule."
    outputs, rule = outputs_and_rule
    return rule(torch.eye(3, device=outputs.device)[:, None].expand(-1, len(outputs), -1))


TARGETS = {"a": 0, "c": 2}
EXPLAINER_CASES = {
    **{
        f"{method} of {name}": (cgvs, on_captioner(make, partial(cgvs, tokens=TOKENS, loss=loss)))
        for name, make in CAPTIONERS.items()
        for method, loss in (("cgvs", "nll"), ("cgvs-kl", "kl"))
    },
    "cgvs_captions": (
        cgvs_captions,
        on_captioner(s2vt, partial(cgvs_captions, captions=[TOKENS, TOKENS[:1]])),
    ),
    **{
        f"attention_captions of {make.__name__}": (
            attention_captions,
            on_captioner(make, partial(attention_captions, captions=[TOKENS, TOKENS[:1]])),
        )
        for make in (soft_attention, areas)
    },
    "descriptor_evidence": (
        descriptor_evidence,
        on_captioner(s2vt, lambda captioner, inputs: descriptor_evidence(captioner, inputs.features, TOKENS)),
    ),
    "spacetime": (
        spacetime,
        on_captioner(
            s2vt,
            lambda captioner, inputs: [spacetime(captioner, inputs, TOKENS, loss).joint for loss in ("nll", "kl")],
            3,
        ),
    ),
    **{
        f"leave_one_out of {name}": (leave_one_out, on_captioner(make, partial(leave_one_out, tokens=TOKENS)))
        for name, make in CAPTIONERS.items()
    },
    **{
        f"attention of {make.__name__}": (attention, on_captioner(make, partial(attention, tokens=TOKENS)))
        for make in (soft_attention, areas)
    },
    "area_weights": (
        area_weights,
        on_captioner(
            areas,
            lambda captioner, inputs: [
                area_weights(captioner, inputs.features, TOKENS, condition) for condition in ("state", "word")
            ],
        ),
    ),
    "area_attention": (
        area_attention,
        on_captioner(
            areas,
            lambda captioner, inputs: area_attention(captioner, inputs.features, small_regions(), TOKENS, map_size=8),
        ),
    ),
    "area_weights with the image vector": (
        area_weights,
        on_captioner(
            areas,
            lambda captioner, inputs: [
                area_weights(WithImageVector(captioner, inputs.features.mean(0)), inputs.features, TOKENS, condition)
                for condition in ("state", "word")
            ],
        ),
    ),
    **{
        f"word_gradient, {method}": (
            word_gradient,
            on_captioner(s2vt, partial(word_gradient, tokens=TOKENS, method=method)),
        )
        for method in GRADIENT_METHODS
    },
    "word_derivatives": (word_derivatives, on_captioner(soft_attention, partial(word_derivatives, tokens=TOKENS))),
    "batched_word_gradients": (
        batched_word_gradients,
        on_captioner(mean_pool, partial(batched_word_gradients, tokens=TOKENS, reduce_fn=identity, batch_size=3)),
    ),
    **{
        f"integrated_gradients of {name}": (
            integrated_gradients,
            on_captioner(make, partial(integrated_gradients, tokens=TOKENS, steps=3, baseline=random_tensor(FEATURES))),
        )
        for name, make in CAPTIONERS.items()
    },
    **{
        f"eb_r_words, {contrastive}, {variant}": (
            eb_r_words,
            on_captioner(mean_pool, partial(eb_r_words, tokens=TOKENS, contrastive=contrastive, variant=variant), 2),
        )
        for contrastive in (True, False)
        for variant in ("code", "paper")
    },
    "context_evidence": (
        context_evidence,
        on_captioner(mean_pool, lambda captioner, inputs: context_evidence(captioner, inputs.features, TOKENS)),
    ),
    "context_evidence_parts": (
        context_evidence_parts,
        on_captioner(mean_pool, lambda captioner, inputs: context_evidence_parts(captioner, inputs.features, TOKENS)),
    ),
    "log_prob_gain": (
        log_prob_gain,
        on_captioner(
            mean_pool,
            lambda captioner, inputs: log_prob_gain(captioner, inputs.features, inputs.features[:1] / 2, TOKENS),
        ),
    ),
    "top_gain_tokens": (
        top_gain_tokens,
        on_captioner(
            mean_pool,
            lambda captioner, inputs: torch.tensor(
                top_gain_tokens(captioner, inputs.features, inputs.features[:1] / 2, TOKENS, 2)
            ),
        ),
    ),
    "eb_r_caption": (
        eb_r_caption,
        on_network(
            lambda network, start_layer, target_layer, video: eb_r_caption(
                network, start_layer, build(mean_pool).eval().to(device_of(network)), video, TOKENS, target_layer
            )
        ),
    ),
    **{
        f"excitation, {contrastive}": (
            excitation_backprop,
            on_network(
                lambda network, start_layer, target_layer, video, contrastive=contrastive: excitation_backprop(
                    network, video, TARGETS, target_layer, contrastive
                )
            ),
        )
        for contrastive in (None, "top", "classifier.1")
    },
    "trace_forward": (
        trace_forward,
        on_network(
            lambda network, start_layer, target_layer, video: list(
                trace_forward(network, video, [target_layer])
                .backprop(torch.eye(3)[[0, 1, 2, 0]], [target_layer])
                .values()
            )
        ),
    ),
    "excitation_rule": (
        excitation_rule,
        on_network(
            lambda network, start_layer, target_layer, video: apply_rule(excitation_rule(network, video, target_layer))
        ),
    ),
    "gradient_rule": (
        gradient_rule,
        on_network(
            lambda network, start_layer, target_layer, video: apply_rule(gradient_rule(network, video, target_layer))
        ),
    ),
    "class_maps": (
        class_maps,
        on_network(
            lambda network, start_layer, target_layer, video: class_maps(
                network, video, TARGETS, target_layer, excitation_rule, batch_size=3
            )
        ),
    ),
    "gradient": (
        gradient_saliency,
        on_network(lambda network, start_layer, target_layer, video: gradient_saliency(network, video, TARGETS)),
    ),
    "grad_cam": (
        grad_cam,
        on_network(lambda network, start_layer, target_layer, video: grad_cam(network, video, TARGETS, target_layer)),
    ),
    "propagate_to_frames": (
        propagate_to_frames,
        on_network(
            lambda network, start_layer, target_layer, video: propagate_to_frames(
                network, start_layer, video, lambda read: read[None].cpu(), target_layer, batch_size=3
            )
        ),
    ),
    **{
        f"eb_r, {cell}, {contrastive}, {step}": (
            eb_r,
            on_network(
                lambda network, start_layer, target_layer, video, cell=cell, contrastive=contrastive, step=step: eb_r(
                    network,
                    start_layer,
                    recognizer_for(network, cell),
                    video,
                    TARGETS,
                    target_layer,
                    contrastive,
                    step,
                    batch_size=3,
                )
            ),
        )
        for cell in ("lstm", "gru")
        for contrastive, step in ((True, -1), (False, None))
    },
    "bp_r": (
        bp_r,
        on_network(
            lambda network, start_layer, target_layer, video: bp_r(
                network, start_layer, recognizer_for(network), video, TARGETS, target_layer
            )
        ),
    ),
    **{
        f"temporal_evidence, {variant}": (
            temporal_evidence,
            on_recognizer(
                lambda recognizer, features, variant=variant: temporal_evidence(
                    recognizer, features, [1, 2], variant=variant
                )
            ),
        )
        for variant in ("code", "paper")
    },
    "recurrent_gradient": (
        recurrent_gradient,
        on_recognizer(lambda recognizer, features: recurrent_gradient(recognizer, features, [1, 2])),
    ),
    "cgvs of ColorCaptioner": (
        cgvs,
        lambda device: cgvs(
            ColorCaptioner(),
            replace(
                color_descriptors(ball_on_grass()), features=color_descriptors(ball_on_grass()).features.to(device)
            ),
            SENTENCE,
        ),
    ),
}
