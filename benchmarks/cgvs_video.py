"""The time that one batch of all regions and frames saves: `python benchmarks/cgvs_video.py`.

A video of 26 frames × 64 cells and a caption of 12 words, at the paper's sizes: 26 + 1,664 passes of one descriptor
each, relative to those of two of its frames one at a time and in small batches; and the peak memory of a process that
computes all of them on the CPU in one batch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from cgsaliency.core.geometry import CellGrid, ImageCrop
from cgsaliency.core.protocols import Descriptors, pool_frames
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.explain.cgvs_video import spacetime
from cgsaliency.models.s2vt import S2VT
from measure import main, seconds
from memory import highest_memory

FRAMES, SIDE, LENGTH = 26, 8, 12


def example(device: torch.device, words: int, **sizes: int) -> tuple[S2VT, Descriptors, list[str]]:
    "Return a captioner with random weights, a video, and a caption."
    torch.manual_seed(0)
    names = [f"w{k}" for k in range(words)]
    model = S2VT(Vocabulary.from_captions([names]), **sizes).to(device).eval()
    values = torch.rand(FRAMES * SIDE * SIDE, model.feature_dim, device=device)
    grid, view = CellGrid.uniform(SIDE, SIDE, 299, 299), ImageCrop.full(320, 240, 299)
    video = Descriptors(values, grid, view, tuple(k / 2 for k in range(FRAMES)))
    return model, video, names[:LENGTH]


def peak(loss: str) -> int:
    "Explain the video on the CPU with 10,000 words, and return the peak memory of this process, bytes."
    spacetime(*example(torch.device("cpu"), 10_000), loss, batch_size=10**9)
    return highest_memory()


def fresh_peak(loss: str) -> int:
    "Return `peak` of a new process."
    completed = subprocess.run(
        [sys.executable, "-c", f"from cgvs_video import peak; print(peak('{loss}'))"],
        cwd=Path(__file__).parent,
        check=True,
        capture_output=True,
        text=True,
    )
    return int(completed.stdout)


def measured(device: torch.device, repeats: int, words: int = 10_000, batches: tuple[int, ...] = (8, 64), **sizes: int):
    "Yield rows of name, value, unit, relative_to."
    # first, while this process is small: except on Linux a new process inherits the peak memory of its parent process
    memory = {loss: fresh_peak(loss) for loss in ("nll", "kl")}
    model, video, caption = example(device, words, **sizes)
    frames, token_ids = pool_frames(video).features[None], model.encode_words(caption)[0].to(device)[None]
    # one at a time, two frames take long enough
    short = replace(video, features=video.features[: 2 * SIDE * SIDE], times=video.times[:2])
    with torch.inference_mode():
        teacher_forced, alone, *small, large = seconds(
            device,
            repeats,
            lambda: model.log_probs(frames, token_ids),
            *(lambda size=size: spacetime(model, short, caption, batch_size=size) for size in (1, *batches)),
            lambda: spacetime(model, video, caption),
        )
    count, few = FRAMES + FRAMES * SIDE * SIDE, 2 + 2 * SIDE * SIDE
    yield f"teacher-forced pass over {FRAMES} frames and {LENGTH} words", teacher_forced, "s", ""
    yield (
        f"spacetime, each of {few} passes, one at a time",
        alone / few / teacher_forced,
        "ratio",
        "teacher-forced pass",
    )
    for size, time in zip(batches, small, strict=True):
        yield f"spacetime, each of {few} passes, in batches of {size}", time / alone, "ratio", "one at a time"
    yield (
        f"spacetime, each of {count} passes, in batches of as many as fit",
        (large / count) / (alone / few),
        "ratio",
        "one at a time",
    )
    yield (
        f"spacetime, each of {count} passes, in batches of as many as fit",
        large / count / teacher_forced,
        "ratio",
        "teacher-forced pass",
    )
    yield "spacetime, all of them", large / teacher_forced, "ratio", "teacher-forced pass"
    for loss, size in memory.items():
        yield (
            (
                "largest memory of a fresh process that explains the video on the CPU with batch_size=10**9,"
                f" loss={loss} (must stay below 4 GiB)"
            ),
            round(size / 2**30, 2),
            "GiB",
            "",
        )


if __name__ == "__main__":
    main(__file__, __doc__, measured, repeats=3)
