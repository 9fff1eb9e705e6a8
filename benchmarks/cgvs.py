"""What CGVS costs beside the captioner's own passes: `python benchmarks/cgvs.py`.

64 regions and a sentence of 12 words, at the paper's sizes, against one teacher-forced pass over a batch of 64 sentences of 12 words
after 64 descriptors each; also the loop over descriptors one at a time and the same with Eq. 6.
"""
import argparse, csv, datetime, platform, statistics, time
from pathlib import Path

import torch

from cgsaliency.core.contracts import Descriptors
from cgsaliency.core.geometry import Grid, View
from cgsaliency.core.run import best_device
from cgsaliency.data.text import Vocabulary
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.models.s2vt import S2VT


def machine(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def seconds(work, device, repeats: int) -> float:
    "The median time of one call, after one that warms up."
    def once():
        if device.type == "cuda": torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda": torch.cuda.synchronize()
        return time.perf_counter() - start
    once()
    return statistics.median(once() for _ in range(repeats))


def measured(device: torch.device, repeats: int, words: int = 7000, regions: int = 64, length: int = 12):
    "Rows of name, value, unit, relative_to."
    torch.manual_seed(0)
    names = [f"w{k}" for k in range(words)]
    model = S2VT(Vocabulary.of([names])).to(device).eval()
    side = int(regions ** 0.5)
    descriptors = Descriptors(torch.rand(regions, 2048, device=device), Grid.even(side, side, 299, 299), View.whole(500, 375, 299))
    sentence = names[:length]
    indices = model.encode_words(sentence)[0].to(device)
    batch, said = descriptors.values.expand(64, -1, -1).contiguous(), indices.expand(64, -1).contiguous()

    with torch.inference_mode():
        forced = seconds(lambda: model.log_probs(batch, said), device, repeats)
        yield "teacher-forced pass, 64 sentences of 12 words after 64 descriptors", forced, "s", ""
        batched = seconds(lambda: cgvs(model, descriptors, sentence), device, repeats)
        yield "cgvs, 64 regions and 12 words, in one batch", batched / forced, "ratio", "teacher-forced pass"
        yield "cgvs, the same in batches of one region", seconds(lambda: cgvs(model, descriptors, sentence, passes=1), device, repeats) / forced, "ratio", "teacher-forced pass"
        yield "cgvs, the same with the divergence (Eq. 6)", seconds(lambda: cgvs(model, descriptors, sentence, form="divergence"), device, repeats) / forced, "ratio", "teacher-forced pass"
        spoken = seconds(lambda: model.log_probs(batch[:1, :1].expand(64, -1, -1), said), device, repeats)
        yield "teacher-forced pass, 64 sentences of 12 words after 1 descriptor", spoken / forced, "ratio", "teacher-forced pass"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "cgvs.csv")
    given = parser.parse_args()
    device = best_device()
    rows = [(name, f"{value:.4g}", unit, relative, machine(device), datetime.date.today().isoformat()) for name, value, unit, relative in measured(device, given.repeats)]
    kept = []
    if given.out.is_file(): kept = [row for row in csv.reader(given.out.open()) if row[0] != "name" and row[4] != machine(device)]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("w", newline="") as file: csv.writer(file, lineterminator="\n").writerows([("name", "value", "unit", "relative_to", "machine", "date"), *kept, *rows])
    for row in rows: print("  ".join(row[:4]))
