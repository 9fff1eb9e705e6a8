"""The cost of every explainer of words, relative to one pass of the captioner over the same caption: `python
benchmarks/explainers.py`.

Captioners with random weights at the papers' sizes, 64 descriptors of 2048 numbers, all twelve words of a caption;
integrated gradients in 8 steps. Memory is the peak of all tensors on the CPU."""

from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.protocols import Descriptors
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.explain.attention import attention
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.excitation_captions import eb_r_words
from cgsaliency.explain.word_gradient import integrated_gradients, word_gradient
from cgsaliency.models.mean_pool import MeanPoolCaptioner
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention
from measure import main, seconds

CAPTIONERS = {"mean of the cells": MeanPoolCaptioner, "encoder-decoder": S2VT, "soft attention": SoftAttention}
COMMON_EXPLAINERS = {
    "CGVS": cgvs,
    "gradient": partial(word_gradient, method="gradient"),
    "gradient x input": partial(word_gradient, method="gradient x input"),
    "Grad-CAM": partial(word_gradient, method="Grad-CAM"),
    "integrated gradients": partial(integrated_gradients, steps=8),
}
OTHER_EXPLAINERS = {
    "mean of the cells": {
        "cEB-R, 'code'": eb_r_words,
        "cEB-R, 'paper'": partial(eb_r_words, variant="paper"),
        "EB-R, 'code'": partial(eb_r_words, contrastive=False),
        "EB-R, 'paper'": partial(eb_r_words, contrastive=False, variant="paper"),
    },
    "encoder-decoder": {},
    "soft attention": {"attention weights": attention},
}


def peak_tensor_memory(call) -> int:
    "Return the peak memory of tensors during the call, bytes."
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


def measured(device: torch.device, repeats: int):
    "Yield rows of name, value, unit, relative_to."
    torch.manual_seed(0)
    words = [f"w{k}" for k in range(10000)]
    vocabulary, tokens = Vocabulary.from_captions([words]), words[:12]
    descriptors = Descriptors(
        torch.rand(64, 2048, device=device), CellGrid.uniform(8, 8, 299, 299), ImageCrop.full(400, 300, 299)
    )
    for name, kind in CAPTIONERS.items():
        captioner = kind(vocabulary, 2048).to(device).eval()
        indices = captioner.encode_words(tokens)[0].to(device)

        def language_pass():
            with torch.inference_mode():
                return captioner.log_probs(descriptors.features[None], indices[None])

        calls = {"pass": language_pass} | {
            explainer: partial(explain, captioner, descriptors, tokens)
            for explainer, explain in (OTHER_EXPLAINERS[name] | COMMON_EXPLAINERS).items()
        }
        times = dict(zip(calls, seconds(device, repeats, *calls.values()), strict=True))
        yield f"{name}: a pass over the sentence", times["pass"], "s", ""
        for explainer in list(calls)[1:]:
            yield f"{name}: {explainer}", times[explainer] / times["pass"], "times", "a pass over the sentence"
            if device.type == "cpu":
                yield f"{name}: {explainer}, memory", peak_tensor_memory(calls[explainer]) / 2**20, "MiB", ""


if __name__ == "__main__":
    main(__file__, __doc__, measured, repeats=5)
