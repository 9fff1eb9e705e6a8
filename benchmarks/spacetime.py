"""What one batch of all regions and frames saves: `python benchmarks/spacetime.py`.

A film of 26 frames × 64 cells and a sentence of 12 words, at the paper's sizes: 26 + 1,664 passes of one descriptor each, beside those of
two of its frames one at a time and in small batches; and the largest memory of a process that does all of them on the CPU, asked to do them in one batch.
"""
import subprocess, sys
from dataclasses import replace
from pathlib import Path

import torch

from cgsaliency.core.contracts import Descriptors, frame_means
from cgsaliency.core.geometry import Grid, View
from cgsaliency.data.text import Vocabulary
from cgsaliency.explain.spacetime import spacetime
from cgsaliency.models.s2vt import S2VT
from measure import main, seconds
from memory import highest_memory

FRAMES, SIDE, LENGTH = 26, 8, 12


def example(device: torch.device, words: int, **sizes: int) -> tuple[S2VT, Descriptors, list[str]]:
    "A captioner of random weights, a film and a sentence."
    torch.manual_seed(0)
    names = [f"w{k}" for k in range(words)]
    model = S2VT(Vocabulary.of([names]), **sizes).to(device).eval()
    values = torch.rand(FRAMES * SIDE * SIDE, model.features, device=device)
    return model, Descriptors(values, Grid.even(SIDE, SIDE, 299, 299), View.whole(320, 240, 299), tuple(k / 2 for k in range(FRAMES))), names[:LENGTH]


def peak(form: str) -> int:
    "The largest memory that this process has had, bytes, after it explained the film on the CPU with 10,000 words."
    spacetime(*example(torch.device("cpu"), 10_000), form, passes=10 ** 9)
    return highest_memory()


def fresh_peak(form: str) -> int:
    "The same of a new process."
    done = subprocess.run([sys.executable, "-c", f"from spacetime import peak; print(peak('{form}'))"], cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
    return int(done.stdout)


def measured(device: torch.device, repeats: int, words: int = 10_000, batches: tuple[int, ...] = (8, 64), **sizes: int):
    "Rows of name, value, unit, relative_to."
    # first, while this process is small: without Linux's own count a new process inherits the largest memory of the one that starts it
    memory = {form: fresh_peak(form) for form in ("word", "divergence")}
    model, clip, sentence = example(device, words, **sizes)
    frames, said = frame_means(clip).values[None], model.encode_words(sentence)[0].to(device)[None]
    short = replace(clip, values=clip.values[:2 * SIDE * SIDE], times=clip.times[:2])      # one at a time, two frames take long enough
    with torch.inference_mode():
        forced, alone, *small, large = seconds(device, repeats, lambda: model.log_probs(frames, said), *(lambda passes=passes: spacetime(model, short, sentence, passes=passes) for passes in (1, *batches)),
                                               lambda: spacetime(model, clip, sentence))
    count, few = FRAMES + FRAMES * SIDE * SIDE, 2 + 2 * SIDE * SIDE
    yield f"teacher-forced pass over {FRAMES} frames and {LENGTH} words", forced, "s", ""
    yield f"spacetime, each of {few} passes, one at a time", alone / few / forced, "ratio", "teacher-forced pass"
    for passes, time in zip(batches, small): yield f"spacetime, each of {few} passes, in batches of {passes}", time / alone, "ratio", "one at a time"
    yield f"spacetime, each of {count} passes, in batches of as many as fit", (large / count) / (alone / few), "ratio", "one at a time"
    yield f"spacetime, each of {count} passes, in batches of as many as fit", large / count / forced, "ratio", "teacher-forced pass"
    yield "spacetime, all of them", large / forced, "ratio", "teacher-forced pass"
    for form, size in memory.items(): yield f"largest memory of a fresh process that explains the film on the CPU with passes=10**9, form={form} (must stay below 4 GiB)", round(size / 2 ** 30, 2), "GiB", ""


if __name__ == "__main__": main(__file__, __doc__, measured, repeats=3)
