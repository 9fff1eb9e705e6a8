"""Small videos for tests, ways to damage them, and the synthetic data sets of captioned videos."""

from pathlib import Path
from random import Random

import av
from PIL import Image, ImageDraw

from cgsaliency.data.media import write_video
from cgsaliency.data.msrvtt import load_msrvtt
from cgsaliency.data.msvd import load_msvd
from cgsaliency.synth.write_msvd_msrvtt import write_msrvtt, write_msvd


def frame_with_square(k: int) -> Image.Image:
    "Return the k-th frame of a video: a red square that moves to the right over noise."
    image = Image.effect_noise((96, 64), 40).convert("RGB")
    ImageDraw.Draw(image).rectangle((2 * k, 20, 2 * k + 12, 40), fill=(200, 30, 30))
    return image


def write_test_videos(folder: Path) -> dict[str, Path]:
    """Write videos of 40 frames, and return their paths by container: 'avi', 'mp4', and 'fast', an MP4 whose index
    comes first, as in MP4s for the web."""
    paths = {
        suffix: write_video(folder / f"video.{suffix}", [frame_with_square(k) for k in range(40)])
        for suffix in ("avi", "mp4")
    }
    paths["fast"] = folder / "fast.mp4"
    with (
        av.open(str(paths["mp4"])) as source,
        av.open(str(paths["fast"]), "w", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return paths


# What damages a video's file, and part of the error's text.
VIDEO_FAULTS = {
    "missing": (lambda path: path.unlink(), "there is no such video"),
    "a folder": (lambda path: path.unlink() or path.mkdir(), "there is no such video"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be decoded completely"),
    "text": (lambda path: path.write_text("A dog runs through the park.\n" * 50), "cannot be decoded completely"),
    "random bytes": (lambda path: path.write_bytes(Random(0).randbytes(5000)), "cannot be decoded completely"),
    "nearly all cut off": (lambda path: path.write_bytes(path.read_bytes()[:300]), "is cut off: it has 300 of"),
    "half cut off": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "is cut off"),
    "the last byte cut off": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is cut off"),
}

# Writer and loader of each data set of captioned videos.
VIDEO_DATASETS = {"msrvtt": (write_msrvtt, load_msrvtt), "msvd": (write_msvd, load_msvd)}
