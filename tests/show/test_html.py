"""HTML pages of explanations in a browser: pixels as in Python, and words selected by click, drag and keys."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cgsaliency.explain.registry import explain
from cgsaliency.show.heatmap import frame_map, overlay_heatmap
from cgsaliency.show.html import html_payload, save_html
from cgsaliency.show.video import OVERLAY_ALPHAS
from cgsaliency.toy.color_models import SENTENCE, ColorImageCaptioner, ball_on_grass, cells_to_image, rolling_ball


@pytest.fixture
def page(chromium):
    page = chromium.new_page(viewport={"width": 900, "height": 700})
    page.errors = []
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    yield page
    assert page.errors == []
    page.close()


def open_page(page, path):
    page.goto(path.as_uri())
    page.wait_for_selector(".cgs [data-word]")


def canvas_pixels(page, index=0):
    data_url = page.evaluate(
        f"document.querySelectorAll('.cgs figure canvas:not(.bars)')[{index}].toDataURL('image/png')"
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data_url.partition(",")[2]))).convert("RGB")).astype(int)


def frames_and_descriptors(video=False):
    frames = [cells_to_image(frame) for frame in rolling_ball()] if video else [cells_to_image(ball_on_grass())]
    return frames, ColorImageCaptioner().encode_images(frames, tuple(t / 2 for t in range(len(frames))))


@pytest.mark.parametrize("method", ["cgvs", "attention"])
@pytest.mark.parametrize("video", [False, True])
def test_page_shows_the_same_pixels_as_overlay_heatmap(page, tmp_path, video, method):
    frames, descriptors = frames_and_descriptors(video)
    explanation = explain(method, ColorImageCaptioner(), descriptors, SENTENCE)
    # a crop that does not show the whole image
    view = replace(explanation.view, left=20.0, width=130.0, top=10.0, height=140.0)
    explanation = replace(explanation, view=view)
    open_page(page, save_html(tmp_path / "page.html", frames, [explanation], selected=slice(1, 3)))
    phrase = explanation.merge(slice(1, 3))
    best = phrase.peak()
    _, images, _ = html_payload(frames, [explanation])
    for frame in range(len(frames)) if video else [0]:
        if video:
            page.locator("input[type=range]").fill(str(frame))
        expected = np.asarray(
            overlay_heatmap(
                Image.open(io.BytesIO(images[frame])),
                frame_map(phrase.min_max(), 0, frame),
                **(OVERLAY_ALPHAS if video else {}),
            )
        ).astype(int)
        difference = np.abs(canvas_pixels(page) - expected)
        if frame == best.frame:
            y, x = np.mgrid[:160, :160]
            star = (x - best.x) ** 2 + (y - best.y) ** 2 < 10**2
            assert difference[star].max() > 30
            difference = difference[~star]
        assert difference.max() <= 4, (frame, difference.max())
    if video:
        assert f"{explanation.times[best.frame]:.1f} s" in page.inner_text("figcaption")


def test_words_are_selected_by_click_drag_and_keys(page, tmp_path):
    frames, descriptors = frames_and_descriptors()
    explanations = [explain(name, ColorImageCaptioner(), descriptors, SENTENCE) for name in ("cgvs", "attention")]
    open_page(page, save_html(tmp_path / "page.html", frames, explanations, names=["cgvs", "attention"]))

    def selected_span():
        return page.evaluate("document.querySelector('.cgs').dataset.selected")

    word = page.locator("[data-word]")
    assert (
        selected_span() == "0:1"
        and page.locator("figure").count() == 2
        and page.locator("input[type=range]").count() == 0
    )
    assert "all cells are equal" not in page.inner_text("figcaption >> nth=0")
    before = canvas_pixels(page, 0)
    page.locator("figure canvas").first.hover()
    page.mouse.down()
    # the image without the map, as its JPEG has it
    assert (
        np.abs(canvas_pixels(page, 0) - np.asarray(frames[0])).mean()
        < 3
        < np.abs(before - np.asarray(frames[0])).mean()
    )
    page.mouse.up()
    assert np.abs(canvas_pixels(page, 0) - before).max() == 0
    word.nth(2).click()
    assert (
        selected_span() == "2:3"
        and np.abs(canvas_pixels(page, 0) - before).max() > 50
        and "ball" in page.inner_text("figcaption >> nth=1")
    )
    word.nth(4).hover()
    page.mouse.down()
    word.nth(5).hover()
    page.mouse.up()
    assert selected_span() == "4:6" and "green grass" in page.inner_text("figcaption >> nth=0")
    word.nth(0).hover()  # the button is released: nothing changes
    assert selected_span() == "4:6"
    word.nth(1).click()
    for key, expected in (
        ("ArrowRight", "2:3"),
        ("Shift+ArrowRight", "2:4"),
        ("Shift+ArrowLeft", "2:3"),
        ("ArrowLeft", "1:2"),
        ("ArrowLeft", "0:1"),
        ("ArrowLeft", "0:1"),
    ):
        page.keyboard.press(key)
        assert selected_span() == expected, key
    assert page.locator("[aria-selected=true]").count() == 1
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390


def test_a_video_plays_and_seeks(page, tmp_path):
    frames, descriptors = frames_and_descriptors(video=True)
    explanation = explain("cgvs", ColorImageCaptioner(), descriptors, SENTENCE)
    open_page(page, save_html(tmp_path / "page.html", frames, [explanation], selected=slice(2, 3)))
    page.get_by_role("button", name="play").click()
    page.wait_for_function("document.querySelector('.cgs').dataset.frame == '2'", timeout=10000)
    page.get_by_role("button", name="pause").click()
    stopped = page.evaluate("document.querySelector('.cgs').dataset.frame")
    page.wait_for_timeout(700)
    assert page.evaluate("document.querySelector('.cgs').dataset.frame") == stopped
    box = page.locator("canvas.bars").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.95, box["y"] + box["height"] / 2)
    assert page.evaluate("document.querySelector('.cgs').dataset.frame") == "5" and "frame 6 of 6" in page.inner_text(
        "output"
    )


def test_unknown_words_are_labeled_as_flat(page, tmp_path):
    frames, descriptors = frames_and_descriptors()
    explanation = explain("cgvs", ColorImageCaptioner(), descriptors, ["zebra", "ball"])
    open_page(page, save_html(tmp_path / "page.html", frames, [explanation]))
    assert "all cells are equal" in page.inner_text("figcaption")
    word = page.locator("[data-word]")
    word.nth(0).hover()
    page.mouse.down()
    word.nth(1).hover()
    page.mouse.up()
    assert "all cells are equal" not in page.inner_text("figcaption")  # the map of the phrase is that of its known word
    phrase = explanation.merge(slice(0, 2))
    assert torch.equal(phrase.saliency, explanation.saliency[1:])
