"""What a layer for attention costs, and what CGVS adds to a captioner without one: `python benchmarks/attention.py`.

Parameters, and the time of teacher-forced passes over 16 captions of 12 words, at the paper's sizes and for three numbers of regions.
Both captioners read the regions: S2VT one after the other before the first word, soft attention all of them before every word. The time
of the layer for attention is the difference from the same captioner that hears the mean of the regions instead.
"""
from typing import Callable

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from cgsaliency.core.contracts import Descriptors
from cgsaliency.core.geometry import Grid, View
from cgsaliency.data.text import Vocabulary
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention
from measure import main, seconds


class Inattentive(SoftAttention):
    "The captioner without its layer for attention: it hears the mean of the descriptors at every step."
    def begin(self, values: Tensor) -> tuple[Tensor, ...]:
        mean = values.mean(1)
        return *self.start(mean).chunk(2, -1), mean

    def step(self, state: tuple[Tensor, ...], embedded: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        h, c, mean = state
        return (*self.cell(torch.cat([embedded, mean], -1), (h, c)), mean), mean, mean[:, :0]


def parameters_made(work: Callable) -> int:
    "How many parameters modules are given while the work is done."
    counts = []
    hook = register_module_parameter_registration_hook(lambda module, name, parameter: counts.append(parameter.numel()))
    try: work()
    finally: hook.remove()
    return sum(counts)


def measured(device: torch.device, repeats: int, words: int = 7000, regions: tuple[int, ...] = (16, 64, 196), captions: int = 16, length: int = 12, **sizes: int):
    "Rows of name, value, unit, relative_to."
    torch.manual_seed(0)
    names = [f"w{k}" for k in range(words)]
    vocabulary = Vocabulary.of([names])
    s2vt, soft, inattentive = (kind(vocabulary, **sizes).to(device).eval() for kind in (S2VT, SoftAttention, Inattentive))
    side = int(regions[0] ** 0.5)
    descriptors = Descriptors(torch.rand(side * side, s2vt.features, device=device), Grid.even(side, side, 299, 299), View.whole(500, 375, 299))
    yield "parameters of S2VT", parameters_made(lambda: S2VT(vocabulary, **sizes)), "parameters", ""
    yield "parameters that cgvs adds to S2VT", parameters_made(lambda: cgvs(s2vt, descriptors, names[:length])), "parameters", ""
    yield "parameters of soft attention", parameters_made(lambda: SoftAttention(vocabulary, **sizes)), "parameters", ""
    yield "of these in its layer for attention (keys, query, weigh, gate)", sum(part.numel() for layer in (soft.keys, soft.query, soft.weigh, soft.gate) for part in layer.parameters()), "parameters", ""

    said = s2vt.encode_words(names[:length])[0].to(device).expand(captions, -1).contiguous()
    times = {}
    with torch.inference_mode():
        for m in regions:
            values = torch.rand(captions, m, s2vt.features, device=device)
            times[m] = seconds(device, repeats, *(lambda model=model: model.log_probs(values, said) for model in (s2vt, soft, inattentive)))
    first = regions[0]
    yield f"S2VT, a caption's teacher-forced pass, {first} regions and {length} words", times[first][0] / captions, "s", ""
    for m, (plain, attending, without) in times.items():
        if m != first: yield f"S2VT, the same, {m} regions", plain / times[first][0], "ratio", f"S2VT, {first} regions"
        yield f"soft attention, a caption's teacher-forced pass, {m} regions", attending / plain, "ratio", f"S2VT, {m} regions"
        yield f"its layer for attention alone, {m} regions", (attending - without) / attending, "ratio", f"soft attention, {m} regions"
        if m != first: yield f"the layer alone, {m} regions", (attending - without) / (times[first][1] - times[first][2]), "ratio", f"the layer alone, {first} regions"


if __name__ == "__main__": main(__file__, __doc__, measured)
