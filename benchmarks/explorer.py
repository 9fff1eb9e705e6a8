"""Response times of the explorer, in JupyterLab in headless Chromium, with the captioners of a run: `python
benchmarks/explorer.py [ARTIFACTS]`.

For a computed word or phrase, the time to draw it in the browser, which is all that a click starts. For a new caption,
the time from Enter to its first map, including the kernel. The reference is one forward pass of the captioner over the
caption."""

import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from playwright.sync_api import sync_playwright

from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.media import read_image
from cgsaliency.models.registry import load_pipeline
from check_site import FLAGS
from measure import seconds, write_rows
from run_jupyterlab import opened, running

IS_SHOWN = (
    "expected => [...document.querySelectorAll('.cgs [data-word]')].map(word => word.textContent).join(' ') ==="
    " expected"
)


def response_seconds(page, sentence):
    "Enter a caption and return the seconds to its first map."
    box = page.locator("input[placeholder^='type a caption']")
    box.fill(sentence)
    start = time.perf_counter()
    box.press("Enter")
    page.wait_for_function(IS_SHOWN, arg=sentence, polling=10)
    return time.perf_counter() - start


if __name__ == "__main__":
    artifacts = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "artifacts/toybox").resolve()
    samples = load_flickr30k(artifacts / "data", "test").samples
    sentences = [
        " ".join(token for token in sample.captions[0].tokens if token != ".").lower() for sample in samples[1:9]
    ]
    captioner = load_pipeline("s2vt", artifacts)
    descriptors = captioner.encode_images([read_image(samples[0].path)])
    words = captioner.encode_words(sentences[0].split())[0]

    def forward_pass():
        with torch.inference_mode():
            captioner.log_probs(descriptors.features[None], words[None])

    torch.set_num_threads(2)
    (forward,) = seconds(torch.device("cpu"), 9, forward_pass)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        with running(folder, f"from cgsaliency.app.explorer import explore\nexplore({str(artifacts)!r})") as address:
            page = opened(browser, address)
            new = [response_seconds(page, sentence) for sentence in sentences]
            drawing = []
            for position in range(len(sentences[-1].split())):
                page.locator(f"[data-word='{position}']").click()
                drawing.append(float(page.evaluate("document.querySelector('.cgs').dataset.milliseconds")))
            page.locator(".widget-dropdown:has(label:text-is('model')) select").select_option("s2vt-video")
            media = page.locator(".widget-dropdown:has(label:text-is('image or video'))")
            names = media.locator("option").all_inner_texts()
            media.locator("select").select_option(next(name for name in names if name.endswith(".mp4")))
            page.wait_for_selector(".cgs input[type=range]")
            videos = []
            for position in range(page.locator(".cgs [data-word]").count()):
                page.locator(f"[data-word='{position}']").click()
                videos.append(float(page.evaluate("document.querySelector('.cgs').dataset.milliseconds")))
        browser.close()
    rows = [
        ("one forward pass of the captioner over a sentence", forward, "s", ""),
        ("explorer: drawing a computed word of a image", statistics.median(drawing) / 1000, "s", ""),
        ("explorer: the slowest of them", max(drawing) / 1000, "s", ""),
        ("explorer: drawing a computed word of a video", statistics.median(videos) / 1000, "s", ""),
        ("explorer: the slowest of those", max(videos) / 1000, "s", ""),
        ("explorer: a new sentence, explained and shown", statistics.median(new), "s", ""),
        ("explorer: the slowest new sentence", max(new), "s", ""),
        (
            "explorer: a new sentence",
            statistics.median(new) / forward,
            "ratio",
            "one forward pass of the captioner over a sentence",
        ),
    ]
    write_rows(
        ROOT / "benchmarks/results/explorer.csv",
        f"{platform.machine()} CPU, {os.cpu_count()} cores, toybox models",
        rows,
    )
