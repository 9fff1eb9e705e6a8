"""What words and regions cost together, and the three kinds of regions: `python benchmarks/areas.py`.

A training step of 50 sentences × 20 words at the paper's sizes (10 pictures, 196 regions, 6,325 words, 512 units), beside the baseline plus two products that cannot be avoided:
of words and regions, M = W · R, and of exp(M) with what each step weighs regions by, with their derivatives. Marginal feedback reads exp(M) once more at each step, since the next
state hangs on it: that product is counted apart. Then one picture through VGG-16 and each kind of regions to a caption
of 12 words, and its proposals apart. Memory is the most that this process had of its own, in a process for each measurement.
"""
import multiprocessing, statistics

import numpy as np
import torch
from PIL import Image

from cgsaliency.data.proposals import edge_boxes, selective_search
from cgsaliency.data.text import Vocabulary
from cgsaliency.models.areas import Areas, areas_loss
from cgsaliency.models.decode import greedy
from cgsaliency.models.joint import Products
from cgsaliency.models.looking import Looker
from measure import main, ratio, seconds, turns

PICTURES, SENTENCES, LENGTH, REGIONS, WORDS, UNITS = 10, 5, 20, 196, 6325, 512
KINDS = {"baseline": {"terms": (), "feedback": None}, "all terms, no feedback": {"feedback": None}, "conditional feedback": {"feedback": "conditional"}, "full model": {}}
VOCABULARY = [f"w{k}" for k in range(WORDS - 1)]     # and the end of a sentence


def step_of(name: str, device: torch.device):
    "A training step: loss and derivatives."
    torch.manual_seed(0)
    model = Areas(Vocabulary.of([VOCABULARY]), UNITS, words=UNITS, hidden=UNITS, dropout=0.0, **KINDS[name]).to(device)
    values, captions = torch.rand(PICTURES, REGIONS, UNITS, device=device), torch.randint(1, WORDS, (PICTURES, SENTENCES, LENGTH), device=device)
    def step():
        model.zero_grad()
        areas_loss(model, (values, captions)).backward()
    return step


def products(device: torch.device):
    "Two products with their derivatives, M and the sums over regions; and the sums over words, which marginal feedback asks for one step after the other."
    words, values = (torch.rand(*shape, device=device, requires_grad=True) for shape in ((WORDS, UNITS), (PICTURES, REGIONS, UNITS)))
    looks = torch.rand(PICTURES, SENTENCES * LENGTH, REGIONS, device=device, requires_grad=True)
    def both():
        for one in (words, values, looks): one.grad = None
        (looks @ (values @ words.T)).sum().backward()
    table, expects = (torch.rand(*shape, device=device, requires_grad=True) for shape in ((PICTURES, REGIONS, WORDS), (LENGTH, PICTURES, SENTENCES, WORDS)))
    def each_step():
        for one in (table, expects): one.grad = None
        read = Products(table)
        sum(read(step, turned=True).sum() for step in expects).backward()
    return both, each_step


def _memory(name: str, queue) -> None:
    torch.set_num_threads(2)
    step = step_of(name, torch.device("cpu"))
    before = _most()
    step()
    queue.put((before, _most()))


def _most() -> float:
    "GB that this process had at most, its own count of Linux."
    with open("/proc/self/status") as status: return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1e6


def memory(name: str) -> float:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_memory, args=(name, queue))
    process.start()
    _, most = queue.get(timeout=600)
    process.join()
    return most


def measured(device: torch.device, repeats: int):
    "Rows of name, value, unit, relative_to."
    steps = {name: step_of(name, device) for name in KINDS}
    *times, both, each_step = seconds(device, repeats, *steps.values(), *products(device))
    took = dict(zip(steps, times))
    yield "training step of the baseline, 50 sentences × 20 words", took["baseline"], "s", ""
    yield "the two products, with derivatives", both, "s", ""
    yield "sums over words, step by step, with derivatives", each_step, "s", ""
    for name in list(KINDS)[1:]: yield f"training step, {name} / (baseline + two products)" + (" (must stay below 1.3)" if name == "full model" else ""), took[name] / (took["baseline"] + both), "times", "baseline plus the two products"
    yield "training step, full model / (baseline + two products + sums over words)", took["full model"] / (took["baseline"] + both + each_step), "times", "baseline plus the products of the marginal feedback, too"
    if device.type == "cpu":
        for name in ("baseline", "full model"): yield f"memory of a training step, {name}" + (" (must stay below 4)" if name == "full model" else ""), memory(name), "GB", ""
    yield "all pairs of all steps would take", PICTURES * SENTENCES * LENGTH * REGIONS * WORDS * 4 / 1e9, "GB", ""
    del steps

    picture = torch.rand(1, 3, 224, 224, device=device)
    boxes = torch.tensor([[8.0 * k, 4.0 * k, 8.0 * k + 60, 4.0 * k + 80] for k in range(20)] * 3, device=device)[None, :50].clamp(max=223)
    kinds = {"activation grid, 7x7": {"kind": "grid", "stride": 2}, "spatial transformers, 7x7": {"kind": "transformers", "stride": 2}, "object proposals, 50": {"kind": "proposals"}}
    def caption(kind: dict):
        torch.manual_seed(0)
        looker = Looker(Vocabulary.of([VOCABULARY]), {"network": "vgg16", **kind}, words=UNITS, hidden=UNITS).to(device).eval()
        def say():
            with torch.inference_mode():
                gamma = looker.eyes.lower(picture)
                greedy(looker, (gamma, boxes) if kind["kind"] == "proposals" else gamma, 12)
        return say
    network = Looker(Vocabulary.of([VOCABULARY]), {"network": "vgg16"}, words=UNITS, hidden=UNITS).to(device).eval()
    def forward():
        with torch.inference_mode(): network.eyes.whole(network.eyes.map_of(network.eyes.lower(picture)))
    took = turns(device, 5 * repeats, forward, *(caption(kind) for kind in kinds.values()))     # the kinds differ by little
    alone, *each = (statistics.median(times) for times in zip(*took))
    yield "VGG-16, one picture", alone, "s", ""
    for name, time in zip(kinds, each): yield f"one picture to a caption of 12 words: {name}", time / alone, "times", "VGG-16, one picture"
    for part, value in zip(("", ", lower end", ", upper end"), ratio([(grid, transformers) for _, grid, transformers, _ in took])):
        yield f"spatial transformers / activation grid, turn by turn{part}", value, "times", "the caption on the activation grid"
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
    found, searched = seconds(torch.device("cpu"), max(repeats // 3, 1), lambda: edge_boxes(photograph, 50), lambda: selective_search(photograph, 50))
    yield "the proposals alone: Edge Boxes, 500 × 375 pixels", found / alone, "times", "VGG-16, one picture"
    yield "the proposals alone: selective search, 500 × 375 pixels", searched / alone, "times", "VGG-16, one picture"


if __name__ == "__main__": main(__file__, __doc__, measured, repeats=5)
