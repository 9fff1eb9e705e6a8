"""The cost of an attention layer, and of CGVS for a captioner without one: `python benchmarks/attention.py`.

Parameters, and the time of teacher-forced passes over 16 captions of 12 words, at the paper's sizes and for three
numbers of regions. Both captioners read the regions: S2VT one after the other before the first word, soft attention
all of them before every word. The time of the attention layer is the difference from the same captioner that reads the
mean of the regions instead."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.protocols import Descriptors
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.models.decode import DecoderState
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention
from measure import main, seconds


@dataclass(frozen=True, eq=False)
class MeanState(DecoderState):
    "The state of the LSTM, and the mean descriptor."

    h: Tensor  # B × hidden_dim
    c: Tensor  # B × hidden_dim
    mean: Tensor  # B × D


class WithoutAttention(SoftAttention):
    "The captioner without its attention layer: it reads the mean of the descriptors at every step."

    def init_state(self, features: Tensor) -> MeanState:
        mean = features.mean(1)
        return MeanState(*self.init_lstm(mean).chunk(2, -1), mean)

    def lstm_step(self, state: MeanState, embedded: Tensor) -> tuple[MeanState, Tensor, Tensor]:
        h, c = self.cell(torch.cat([embedded, state.mean], -1), (state.h, state.c))
        return replace(state, h=h, c=c), state.mean, state.mean[:, :0]


def count_new_parameters(call: Callable) -> int:
    "Return the number of parameters that are created during the call."
    counts = []
    hook = register_module_parameter_registration_hook(lambda module, name, parameter: counts.append(parameter.numel()))
    try:
        call()
    finally:
        hook.remove()
    return sum(counts)


def measured(
    device: torch.device,
    repeats: int,
    words: int = 7000,
    regions: tuple[int, ...] = (16, 64, 196),
    captions: int = 16,
    length: int = 12,
    **sizes: int,
):
    "Yield rows of name, value, unit, relative_to."
    torch.manual_seed(0)
    names = [f"w{k}" for k in range(words)]
    vocabulary = Vocabulary.from_captions([names])
    s2vt, soft, without_attention = (
        kind(vocabulary, **sizes).to(device).eval() for kind in (S2VT, SoftAttention, WithoutAttention)
    )
    side = int(regions[0] ** 0.5)
    descriptors = Descriptors(
        torch.rand(side * side, s2vt.feature_dim, device=device),
        CellGrid.uniform(side, side, 299, 299),
        ImageCrop.full(500, 375, 299),
    )
    yield "parameters of S2VT", count_new_parameters(lambda: S2VT(vocabulary, **sizes)), "parameters", ""
    yield (
        "parameters that cgvs adds to S2VT",
        count_new_parameters(lambda: cgvs(s2vt, descriptors, names[:length])),
        "parameters",
        "",
    )
    yield (
        "parameters of soft attention",
        count_new_parameters(lambda: SoftAttention(vocabulary, **sizes)),
        "parameters",
        "",
    )
    yield (
        "of these in its layer for attention (keys, query, attention_score, gate)",
        sum(
            parameter.numel()
            for layer in (soft.keys, soft.query, soft.attention_score, soft.gate)
            for parameter in layer.parameters()
        ),
        "parameters",
        "",
    )

    token_ids = s2vt.encode_words(names[:length])[0].to(device).expand(captions, -1).contiguous()
    times = {}
    with torch.inference_mode():
        for m in regions:
            values = torch.rand(captions, m, s2vt.feature_dim, device=device)
            times[m] = seconds(
                device,
                repeats,
                *(
                    lambda model=model, values=values: model.log_probs(values, token_ids)
                    for model in (s2vt, soft, without_attention)
                ),
            )
    first = regions[0]
    yield (
        f"S2VT, a caption's teacher-forced pass, {first} regions and {length} words",
        times[first][0] / captions,
        "s",
        "",
    )
    for m, (s2vt_time, soft_time, mean_time) in times.items():
        if m != first:
            yield f"S2VT, the same, {m} regions", s2vt_time / times[first][0], "ratio", f"S2VT, {first} regions"
        yield (
            f"soft attention, a caption's teacher-forced pass, {m} regions",
            soft_time / s2vt_time,
            "ratio",
            f"S2VT, {m} regions",
        )
        yield (
            f"its layer for attention alone, {m} regions",
            (soft_time - mean_time) / soft_time,
            "ratio",
            f"soft attention, {m} regions",
        )
        if m != first:
            yield (
                f"the layer alone, {m} regions",
                (soft_time - mean_time) / (times[first][1] - times[first][2]),
                "ratio",
                f"the layer alone, {first} regions",
            )


if __name__ == "__main__":
    main(__file__, __doc__, measured)
