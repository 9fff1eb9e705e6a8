"""What every explainer of words costs, beside one pass of the captioner over the same sentence: `python benchmarks/explainers.py`.

Captioners with random weights at the papers' sizes, 64 descriptors of 2048 numbers, all twelve words of a sentence; integrated gradients in 8 steps. Memory is the most that tensors took at a time, on the CPU.
"""
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from cgsaliency.core.contracts import Descriptors
from cgsaliency.core.geometry import Grid, View
from cgsaliency.data.text import Vocabulary
from cgsaliency.explain.attention import attention
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.explain.word_gradient import integrated_gradients, word_gradient
from cgsaliency.explain.words import eb_r_words
from cgsaliency.models.mean_pool import MeanPool
from cgsaliency.models.s2vt import S2VT
from cgsaliency.models.soft_attention import SoftAttention
from measure import main, seconds

CAPTIONERS = {"mean of the cells": MeanPool, "encoder-decoder": S2VT, "soft attention": SoftAttention}
ANY = {"CGVS": cgvs, "gradient": partial(word_gradient, form="gradient"), "gradient x input": partial(word_gradient, form="gradient x input"), "Grad-CAM": partial(word_gradient, form="Grad-CAM"), "integrated gradients": partial(integrated_gradients, steps=8)}
OWN = {"mean of the cells": {"cEB-R, 'code'": eb_r_words, "cEB-R, 'paper'": partial(eb_r_words, reading="paper"), "EB-R, 'code'": partial(eb_r_words, contrast=False)}, "encoder-decoder": {}, "soft attention": {"its attention": attention}}


def largest(work) -> int:
    "The most bytes that tensors took at a time while the work was done."
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen: work()
    now = most = 0
    for event in sorted((event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def measured(device: torch.device, repeats: int):
    "Rows of name, value, unit, relative_to."
    torch.manual_seed(0)
    words = [f"w{k}" for k in range(10000)]
    vocabulary, tokens = Vocabulary.of([words]), words[:12]
    seen = Descriptors(torch.rand(64, 2048, device=device), Grid.even(8, 8, 299, 299), View.whole(400, 300, 299))
    for name, kind in CAPTIONERS.items():
        captioner = kind(vocabulary, 2048).to(device).eval()
        indices = captioner.encode_words(tokens)[0].to(device)
        def speak():
            with torch.inference_mode(): return captioner.log_probs(seen.values[None], indices[None])
        works = {"pass": speak} | {explainer: partial(explain, captioner, seen, tokens) for explainer, explain in (OWN[name] | ANY).items()}
        times = dict(zip(works, seconds(device, repeats, *works.values())))
        yield f"{name}: a pass over the sentence", times["pass"], "s", ""
        for explainer in list(works)[1:]:
            yield f"{name}: {explainer}", times[explainer] / times["pass"], "times", "a pass over the sentence"
            if device.type == "cpu": yield f"{name}: {explainer}, memory", largest(works[explainer]) / 2**20, "MiB", ""


if __name__ == "__main__": main(__file__, __doc__, measured, repeats=5)
