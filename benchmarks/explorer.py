"""How long a person waits in the explorer, in JupyterLab in headless Chromium, on the captioners of a run: `python benchmarks/explorer.py [ARTIFACTS]`.

A word or phrase that is computed: what drawing it takes in the browser, which is all that a click starts. A new sentence: from Enter to its first map, there and back through the kernel. Beside them one forward pass of the captioner over the sentence.
"""
import os, platform, shutil, statistics, sys, tempfile, time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from lab import opened, running
from look import FLAGS
from measure import seconds, write_rows
from playwright.sync_api import sync_playwright

from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.frames import read_picture
from cgsaliency.models.ready import load_ready

SHOWN = "expected => [...document.querySelectorAll('.cgs [data-word]')].map(word => word.textContent).join(' ') === expected"


def waited(page, sentence):
    "Seconds from Enter to the first map."
    box = page.locator("input[placeholder^='type a sentence']")
    box.fill(sentence)
    began = time.perf_counter()
    box.press("Enter")
    page.wait_for_function(SHOWN, arg=sentence, polling=10)
    return time.perf_counter() - began


if __name__ == "__main__":
    artifacts = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "artifacts/toybox").resolve()
    records = load_flickr30k(artifacts / "data", "test").records
    sentences = [" ".join(token for token in record.sentences[0].tokens if token != ".").lower() for record in records[1:9]]
    captioner = load_ready("s2vt", artifacts)
    descriptors = captioner.describe([read_picture(records[0].path)])
    words = captioner.encode_words(sentences[0].split())[0]
    def once():
        with torch.inference_mode(): captioner.log_probs(descriptors.values[None], words[None])
    torch.set_num_threads(2)
    forward, = seconds(torch.device("cpu"), 9, once)
    browser_at = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=browser_at, args=FLAGS)
        with running(folder, f"from cgsaliency.show.explorer import explore\nexplore({str(artifacts)!r})") as address:
            page = opened(browser, address)
            new = [waited(page, sentence) for sentence in sentences]
            drawn = []
            for place in range(len(sentences[-1].split())):
                page.locator(f"[data-word='{place}']").click()
                drawn.append(float(page.evaluate("document.querySelector('.cgs').dataset.milliseconds")))
            page.locator(".widget-dropdown:has(label:text-is('model')) select").select_option("s2vt-films")
            page.locator(".widget-dropdown:has(label:text-is('picture')) select").select_option(next(name for name in page.locator(".widget-dropdown:has(label:text-is('picture')) option").all_inner_texts() if name.endswith(".mp4")))
            page.wait_for_selector(".cgs input[type=range]")
            films = []
            for place in range(page.locator(".cgs [data-word]").count()):
                page.locator(f"[data-word='{place}']").click()
                films.append(float(page.evaluate("document.querySelector('.cgs').dataset.milliseconds")))
        browser.close()
    rows = [("one forward pass of the captioner over a sentence", forward, "s", ""), ("explorer: drawing a computed word of a picture", statistics.median(drawn) / 1000, "s", ""), ("explorer: the slowest of them", max(drawn) / 1000, "s", ""),
            ("explorer: drawing a computed word of a film", statistics.median(films) / 1000, "s", ""), ("explorer: the slowest of those", max(films) / 1000, "s", ""),
            ("explorer: a new sentence, explained and shown", statistics.median(new), "s", ""), ("explorer: the slowest new sentence", max(new), "s", ""), ("explorer: a new sentence", statistics.median(new) / forward, "ratio", "one forward pass of the captioner over a sentence")]
    write_rows(ROOT / "benchmarks/results/explorer.csv", f"{platform.machine()} CPU, {os.cpu_count()} cores, toybox models", rows)
