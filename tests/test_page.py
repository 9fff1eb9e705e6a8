"""A page of an explanation in a browser: it draws what Python draws, and a click, a drag and the keys choose words."""
import base64, io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cgsaliency.core.explanation import merged, peak, scaled
from cgsaliency.core.page import packed, save_page
from cgsaliency.explain.methods import explained_by
from cgsaliency.models.colours import SENTENCE, Seer, ball_on_grass, painted, rolling_ball
from cgsaliency.show.film import BLEND
from cgsaliency.show.overlay import blended, frame_map


@pytest.fixture
def page(chromium):
    page = chromium.new_page(viewport={"width": 900, "height": 700})
    page.heard = []
    page.on("console", lambda message: page.heard.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.heard.append(str(error)))
    yield page
    assert page.heard == []
    page.close()


def opened(page, path):
    page.goto(path.as_uri())
    page.wait_for_selector(".cgs [data-word]")


def canvas(page, which=0):
    address = page.evaluate(f"document.querySelectorAll('.cgs figure canvas:not(.bars)')[{which}].toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")).astype(int)


def seen(film=False):
    frames = [painted(frame) for frame in rolling_ball()] if film else [painted(ball_on_grass())]
    return frames, Seer().describe(frames, tuple(t / 2 for t in range(len(frames))))


@pytest.mark.parametrize("method", ["cgvs", "attention"])
@pytest.mark.parametrize("film", [False, True])
def test_it_draws_what_python_draws(page, tmp_path, film, method):
    frames, descriptors = seen(film)
    explanation = explained_by(method, Seer(), descriptors, SENTENCE)
    view = replace(explanation.view, left=20.0, width=130.0, top=10.0, height=140.0)       # a view that does not show all of the picture
    explanation = replace(explanation, view=view)
    opened(page, save_page(tmp_path / "page.html", frames, [explanation], chosen=slice(1, 3)))
    phrase = merged(explanation, slice(1, 3))
    best = peak(phrase)
    _, pictures, _ = packed(frames, [explanation])
    for frame in range(len(frames)) if film else [0]:
        if film: page.locator("input[type=range]").fill(str(frame))
        expected = np.asarray(blended(Image.open(io.BytesIO(pictures[frame])), frame_map(scaled(phrase), 0, frame), **(BLEND if film else {}))).astype(int)
        off = np.abs(canvas(page) - expected)
        if frame == best.frame:
            y, x = np.mgrid[:160, :160]
            star = (x - best.x) ** 2 + (y - best.y) ** 2 < 10 ** 2
            assert off[star].max() > 30
            off = off[~star]
        assert off.max() <= 4, (frame, off.max())
    if film: assert f"{explanation.times[best.frame]:.1f} s" in page.inner_text("figcaption")


def test_a_click_a_drag_and_the_keys(page, tmp_path):
    frames, descriptors = seen()
    explanations = [explained_by(name, Seer(), descriptors, SENTENCE) for name in ("cgvs", "attention")]
    opened(page, save_page(tmp_path / "page.html", frames, explanations, names=["cgvs", "attention"]))
    def chosen(): return page.evaluate("document.querySelector('.cgs').dataset.chosen")
    word = page.locator("[data-word]")
    assert chosen() == "0:1" and page.locator("figure").count() == 2 and page.locator("input[type=range]").count() == 0
    assert "all cells are equal" not in page.inner_text("figcaption >> nth=0")
    before = canvas(page, 0)
    page.locator("figure canvas").first.hover(); page.mouse.down()
    assert np.abs(canvas(page, 0) - np.asarray(frames[0])).mean() < 3 < np.abs(before - np.asarray(frames[0])).mean()      # the picture, as a JPEG has it
    page.mouse.up()
    assert np.abs(canvas(page, 0) - before).max() == 0
    word.nth(2).click()
    assert chosen() == "2:3" and np.abs(canvas(page, 0) - before).max() > 50 and "ball" in page.inner_text("figcaption >> nth=1")
    word.nth(4).hover(); page.mouse.down(); word.nth(5).hover(); page.mouse.up()
    assert chosen() == "4:6" and "green grass" in page.inner_text("figcaption >> nth=0")
    word.nth(0).hover()                                    # the button is up: nothing changes
    assert chosen() == "4:6"
    word.nth(1).click()
    for key, now in (("ArrowRight", "2:3"), ("Shift+ArrowRight", "2:4"), ("Shift+ArrowLeft", "2:3"), ("ArrowLeft", "1:2"), ("ArrowLeft", "0:1"), ("ArrowLeft", "0:1")):
        page.keyboard.press(key)
        assert chosen() == now, key
    assert page.locator("[aria-selected=true]").count() == 1
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390


def test_a_film_plays(page, tmp_path):
    frames, descriptors = seen(film=True)
    explanation = explained_by("cgvs", Seer(), descriptors, SENTENCE)
    opened(page, save_page(tmp_path / "page.html", frames, [explanation], chosen=slice(2, 3)))
    page.get_by_role("button", name="play").click()
    page.wait_for_function("document.querySelector('.cgs').dataset.frame == '2'", timeout=10000)
    page.get_by_role("button", name="pause").click()
    stopped = page.evaluate("document.querySelector('.cgs').dataset.frame")
    page.wait_for_timeout(700)
    assert page.evaluate("document.querySelector('.cgs').dataset.frame") == stopped
    box = page.locator("canvas.bars").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.95, box["y"] + box["height"] / 2)
    assert page.evaluate("document.querySelector('.cgs').dataset.frame") == "5" and "frame 6 of 6" in page.inner_text("output")


def test_a_word_without_a_say(page, tmp_path):
    frames, descriptors = seen()
    explanation = explained_by("cgvs", Seer(), descriptors, ["zebra", "ball"])
    opened(page, save_page(tmp_path / "page.html", frames, [explanation]))
    assert "all cells are equal" in page.inner_text("figcaption")
    word = page.locator("[data-word]")
    word.nth(0).hover(); page.mouse.down(); word.nth(1).hover(); page.mouse.up()
    assert "all cells are equal" not in page.inner_text("figcaption")        # the phrase is what its other word says
    phrase = merged(explanation, slice(0, 2))
    assert torch.equal(phrase.saliency, explanation.saliency[1:])
