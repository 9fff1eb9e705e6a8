"""Check the site in headless Chromium: `check_site.py FOLDER/html`.

Links lead to existing pages, no page has an error in the console, figures are visible, no page is wider than a phone.

If no Chromium is installed, only the links are checked, with a message.
"""

import os
import shutil
import sys
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

from bs4 import BeautifulSoup

PHONE, DESK = 390, 1280
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def link_faults(html):
    "Yield links and images that lead nowhere, and what a page would fetch from elsewhere."
    pages = {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in sorted(path for path in html.rglob("*.html") if "_static" not in path.parts)
    }
    anchors = {
        path: (
            {tag["id"] for tag in page.find_all(id=True)}
            | {tag["name"] for tag in page.find_all("a", attrs={"name": True})}
        )
        for path, page in pages.items()
    }
    for path, page in pages.items():
        for tag in page.find_all(["a", "img", "script", "link", "source", "iframe"]):
            address = tag.get("href") or tag.get("src")
            if not address or address.startswith(("data:", "mailto:", "javascript:")):
                continue
            if urlparse(address).scheme or address.startswith("//"):
                if tag.name != "a":
                    yield f"{path.relative_to(html)}: fetches {address}"
                continue
            target, anchor = urldefrag(address)
            file = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            if file.is_dir():
                file /= "index.html"
            if not file.is_file():
                yield f"{path.relative_to(html)}: leads to {address}, which is not there"
            elif anchor and file in anchors and unquote(anchor) not in anchors[file]:
                yield f"{path.relative_to(html)}: leads to {address}, whose place is not there"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def served(html):
    "Serve the pages on this machine and return their address."
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def listen(page):
    "Return a list to which the page's errors are added."
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(f"{request.url} failed"))
    return errors


def page_faults(html, browser, address):
    "Yield the faults of the pages as a browser shows them."
    for width in (PHONE, DESK):
        page = browser.new_page(viewport={"width": width, "height": 900})
        errors = listen(page)
        for path in sorted(path for path in html.rglob("*.html") if "_static" not in path.parts):
            errors.clear()
            name = path.relative_to(html).as_posix()
            page.goto(f"{address}/{name}", wait_until="load")
            for error in errors:
                yield f"{name} at {width}: {error}"
            wide = page.evaluate("document.scrollingElement.scrollWidth")
            if wide > width + 1:
                yield f"{name} at {width}: is {wide} pixels wide"
            unseen = page.evaluate(
                "() => Promise.all([...document.images].map(async image => { image.loading = 'eager'; try { await"
                " image.decode() } catch { return image.src } return image.naturalWidth ? null : image.src }))"
            )
            for source in filter(None, unseen):
                yield f"{name} at {width}: the image {source.rpartition('/')[2]} does not show"
        page.close()


def search_faults(browser, address):
    "Yield the faults of the search."
    page = browser.new_page()
    page.goto(f"{address}/search.html?q=pointing")
    try:
        page.wait_for_selector("#search-results li a", timeout=15000)
    except Exception:
        yield "search.html: finds nothing about 'pointing'"
    finally:
        page.close()


def main(folder):
    "Print the faults of the site and return whether there are any."
    html = Path(folder).resolve()
    faults = list(link_faults(html))
    candidates = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    chromium = os.environ.get("CHROMIUM") or next(filter(None, candidates), None)
    if chromium is None:
        print(
            "no Chromium is installed (Debian: apt install chromium, or CHROMIUM=/path/to/it): links were checked,"
            " pages were not"
        )
    else:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright, served(html) as address:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            faults += [*page_faults(html, browser, address), *search_faults(browser, address)]
            browser.close()
    for fault in faults:
        print(fault)
    print(f"{len(list(html.rglob('*.html')))} pages, {len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
