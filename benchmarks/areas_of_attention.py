"""The cost of the pairs of words and regions, and of the three region types: `python benchmarks/areas_of_attention.py`.

A training step of 50 captions × 20 words at the paper's sizes (10 images, 196 regions, 6,325 words, 512 units),
relative to the baseline plus two necessary products with their derivatives: that of words and regions, M = W · R, and
that of exp(M) with the region weights of each step. Marginal feedback reads exp(M) once more at each step, because the
next state depends on it: that product is measured separately. Then one image through VGG-16 and each region type to a
caption of 12 words; proposals are measured separately. Memory is the peak of a new process for each measurement."""

import multiprocessing
import statistics

import numpy as np
import torch
from PIL import Image

from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.features.proposals import edge_boxes, selective_search
from cgsaliency.features.region_encoder import canvas_side
from cgsaliency.models.areas_of_attention import AreasOfAttention, areas_loss
from cgsaliency.models.decode import greedy_search
from cgsaliency.models.pair_logsumexp import DeferredMatmul
from cgsaliency.models.region_captioner import RegionCaptioner
from measure import main, ratio, seconds, turns

IMAGES, SENTENCES, LENGTH, REGIONS, WORDS, UNITS = 10, 5, 20, 196, 6325, 512
VARIANTS = {
    "baseline": {"terms": (), "feedback": None},
    "all terms, no feedback": {"feedback": None},
    "conditional feedback": {"feedback": "conditional"},
    "full model": {},
}
VOCABULARY = [f"w{k}" for k in range(WORDS - 1)]  # and the end of a sentence


def make_step(name: str, device: torch.device):
    "Return a function that computes a training step: loss and derivatives."
    torch.manual_seed(0)
    model = AreasOfAttention(
        Vocabulary.from_captions([VOCABULARY]), UNITS, word_dim=UNITS, hidden_dim=UNITS, dropout=0.0, **VARIANTS[name]
    ).to(device)
    values = torch.rand(IMAGES, REGIONS, UNITS, device=device)
    captions = torch.randint(1, WORDS, (IMAGES, SENTENCES, LENGTH), device=device)

    def step():
        model.zero_grad()
        areas_loss(model, (values, captions)).backward()

    return step


def products(device: torch.device):
    """Return two functions: one computes M and the sums over regions, with derivatives; the other the sums over words,
    which marginal feedback needs step by step."""

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, device=device, requires_grad=True)

    words, values = rand(WORDS, UNITS), rand(IMAGES, REGIONS, UNITS)
    region_weights = rand(IMAGES, SENTENCES * LENGTH, REGIONS)

    def two_products():
        for tensor in (words, values, region_weights):
            tensor.grad = None
        (region_weights @ (values @ words.T)).sum().backward()

    exp_scores, word_weights = rand(IMAGES, REGIONS, WORDS), rand(LENGTH, IMAGES, SENTENCES, WORDS)

    def sums_over_words():
        for tensor in (exp_scores, word_weights):
            tensor.grad = None
        matmul = DeferredMatmul(exp_scores)
        sum(matmul(step, transpose=True).sum() for step in word_weights).backward()

    return two_products, sums_over_words


def _measure_peak(name: str, queue) -> None:
    torch.set_num_threads(2)
    make_step(name, torch.device("cpu"))()
    queue.put(_peak())


def _peak() -> float:
    "Return the peak memory of this process, GB, as Linux counts it."
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1e6


def memory(name: str) -> float:
    "Return the peak memory of a new process that computes a training step, GB."
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measure_peak, args=(name, queue))
    process.start()
    peak = queue.get(timeout=600)
    process.join()
    return peak


def measured(device: torch.device, repeats: int):
    "Yield rows of name, value, unit, relative_to."
    steps = {name: make_step(name, device) for name in VARIANTS}
    *times, two_products, sums_over_words = seconds(device, repeats, *steps.values(), *products(device))
    times = dict(zip(steps, times, strict=True))
    yield "training step of the baseline, 50 sentences × 20 words", times["baseline"], "s", ""
    yield "the two products, with derivatives", two_products, "s", ""
    yield "sums over words, step by step, with derivatives", sums_over_words, "s", ""
    for name in list(VARIANTS)[1:]:
        yield (
            f"training step, {name} / (baseline + two products)",
            times[name] / (times["baseline"] + two_products),
            "times",
            "baseline plus the two products",
        )
    yield (
        "training step, full model / (baseline + two products + sums over words)",
        times["full model"] / (times["baseline"] + two_products + sums_over_words),
        "times",
        "baseline plus the products of the marginal feedback, too",
    )
    if device.type == "cpu":
        for name in ("baseline", "full model"):
            yield (
                f"memory of a training step, {name}" + (" (must stay below 4)" if name == "full model" else ""),
                memory(name),
                "GB",
                "",
            )
    yield "all pairs of all steps would take", IMAGES * SENTENCES * LENGTH * REGIONS * WORDS * 4 / 1e9, "GB", ""
    del steps

    image = torch.rand(1, 3, 224, 224, device=device)
    # proposals have a network of their own, which reads a larger image
    canvas = torch.rand(1, 3, canvas_side(224), canvas_side(224), device=device)
    boxes = torch.tensor([[8.0 * k, 4.0 * k, 8.0 * k + 60, 4.0 * k + 80] for k in range(20)] * 3, device=device)[
        None, :50
    ].clamp(max=299)
    region_types = {
        "activation grid, 7x7": {"region_type": "grid", "stride": 2},
        "spatial transformers, 7x7": {"region_type": "spatial_transformers", "stride": 2},
        "object proposals, 50": {"region_type": "proposals"},
    }

    def caption(encoder_kwargs: dict):
        torch.manual_seed(0)
        model = (
            RegionCaptioner(
                Vocabulary.from_captions([VOCABULARY]),
                {"network": "vgg16", **encoder_kwargs},
                word_dim=UNITS,
                hidden_dim=UNITS,
            )
            .to(device)
            .eval()
        )

        proposal_inputs = (boxes, canvas) if encoder_kwargs["region_type"] == "proposals" else ()

        def generate():
            with torch.inference_mode():
                greedy_search(model, model.feature_maps(image, *proposal_inputs), 12)

        return generate

    network = (
        RegionCaptioner(Vocabulary.from_captions([VOCABULARY]), {"network": "vgg16"}, word_dim=UNITS, hidden_dim=UNITS)
        .to(device)
        .eval()
    )

    def forward():
        with torch.inference_mode():
            encoder = network.region_encoder
            encoder.image_vector(encoder.upper_features(encoder.lower_features(image)))

    # more repeats, because the region types differ little
    turn_times = turns(device, 5 * repeats, forward, *map(caption, region_types.values()))
    alone, *caption_times = (statistics.median(times) for times in zip(*turn_times, strict=True))
    yield "VGG-16, one image", alone, "s", ""
    for name, time in zip(region_types, caption_times, strict=True):
        yield f"one image to a caption of 12 words: {name}", time / alone, "times", "VGG-16, one image"
    interval = ratio([(grid, transformers) for _, grid, transformers, _ in turn_times])
    for suffix, value in zip(("", ", lower end", ", upper end"), interval, strict=True):
        yield (
            f"spatial transformers / activation grid, turn by turn{suffix}",
            value,
            "times",
            "the caption on the activation grid",
        )
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
    edge_boxes_seconds, selective_search_seconds = seconds(
        torch.device("cpu"),
        max(repeats // 3, 1),
        lambda: edge_boxes(photograph, 50),
        lambda: selective_search(photograph, 50),
    )
    yield "the proposals alone: Edge Boxes, 500 × 375 pixels", edge_boxes_seconds / alone, "times", "VGG-16, one image"
    yield (
        "the proposals alone: selective search, 500 × 375 pixels",
        selective_search_seconds / alone,
        "times",
        "VGG-16, one image",
    )


if __name__ == "__main__":
    main(__file__, __doc__, measured, repeats=5)
