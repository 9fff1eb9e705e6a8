"""The explorer in JupyterLab in a browser."""

import html
import re

import pytest

from cgsaliency.data.media import write_video
from cgsaliency.toy.color_models import ball_on_grass, cells_to_image, rolling_ball

pytestmark = pytest.mark.slow

CODE = """import time
from pathlib import Path

from cgsaliency.app.explorer import Explorer
from cgsaliency.toy.color_models import ColorImageCaptioner


class Slow(ColorImageCaptioner):
    kind = "slow"

    def log_probs(self, features, token_ids):
        time.sleep(0.25)
        return super().log_probs(features, token_ids)


Explorer(
    {"colors": ColorImageCaptioner(), "slow": Slow},
    {name: Path(name) for name in ("ball.png", "ball.mp4")},
    {"ball.png": ["a red ball"]},
    output_dir=Path("saved"),
)"""


@pytest.fixture(scope="module")
def jupyterlab(chromium, tmp_path_factory):
    "A JupyterLab with a notebook, an image and a video; yields the folder and the address."
    from run_jupyterlab import running

    folder = tmp_path_factory.mktemp("lab")
    cells_to_image(ball_on_grass()).save(folder / "ball.png")
    write_video(folder / "ball.mp4", [cells_to_image(frame) for frame in rolling_ball()], 2)
    (folder / "other.png").write_bytes((folder / "ball.png").read_bytes())
    with running(folder, CODE) as address:
        yield folder, address


@pytest.fixture(scope="module")
def page(chromium, jupyterlab):
    from run_jupyterlab import opened

    page = opened(chromium, jupyterlab[1])
    yield page
    page.close()


def caption_words(page):
    return page.locator(".cgs [data-word]").all_inner_texts()


def map_pixels(page, index=0):
    return page.evaluate(f"document.querySelectorAll('.cgs figure canvas:not(.bars)')[{index}].toDataURL()")


def selected_span(page):
    return page.evaluate("document.querySelector('.cgs').dataset.selected")


def select_option(page, label, value):
    page.locator(f".widget-dropdown:has(label:text-is('{label}')) select").select_option(value)


def type_caption(page, caption):
    box = page.locator("input[placeholder^='type a caption']")
    box.fill(caption)
    box.press("Enter")


def wait_for_status(page, text):
    page.wait_for_function("text => document.querySelector('[role=status]')?.textContent.includes(text)", arg=text)


def wait_for_words(page, expected):
    page.wait_for_function(
        "expected => [...document.querySelectorAll('.cgs [data-word]')].map(word => word.textContent).join(' ') ==="
        " expected",
        arg=expected,
    )


def test_type_a_caption_select_words_compare_and_save(page, jupyterlab):
    folder, _ = jupyterlab
    assert caption_words(page) == "a red ball on green grass".split()  # the generated caption
    type_caption(page, "green grass ball")
    wait_for_words(page, "green grass ball")
    page.locator("[data-word='2']").click()
    ball = map_pixels(page)
    page.locator("[data-word='0']").click()
    assert selected_span(page) == "0:1" and map_pixels(page) != ball
    page.locator("[data-word='0']").hover()
    page.mouse.down()
    page.locator("[data-word='1']").hover()
    page.mouse.up()
    assert selected_span(page) == "0:2" and "green grass" in page.inner_text(".cgs figcaption")
    assert float(page.evaluate("document.querySelector('.cgs').dataset.milliseconds")) < 1000
    select_option(page, "compare", "attention")
    page.wait_for_function("document.querySelectorAll('.cgs figure').length === 2")
    assert selected_span(page) == "0:2" and map_pixels(page, 0) != map_pixels(page, 1)  # the phrase stays selected
    for kind in ("PNG", "HTML"):
        page.locator(".widget-dropdown select").last.select_option(kind)
        page.locator(".jupyter-button", has_text="save").click()
        wait_for_status(page, f"ball-green_grass-cgvs.{kind.lower()}")
    saved = sorted(path.name for path in (folder / "saved").iterdir())
    assert saved == ["ball-green_grass-cgvs.html", "ball-green_grass-cgvs.png"], saved
    page.screenshot(path=folder / "screenshot.png")


def test_play_a_video_and_save_it(page, jupyterlab):
    folder, _ = jupyterlab
    select_option(page, "compare", "none")
    select_option(page, "image or video", "ball.mp4")
    page.wait_for_selector(".cgs input[type=range]")
    wait_for_words(page, "a red ball on green grass")
    page.locator("[data-word='2']").click()
    first = map_pixels(page)
    page.locator(".cgs input[type=range]").fill("5")
    assert page.evaluate("document.querySelector('.cgs').dataset.frame") == "5" and map_pixels(page) != first
    page.get_by_role("button", name="play").click()
    page.wait_for_function("document.querySelector('.cgs').dataset.frame === '2'")
    page.get_by_role("button", name="pause").click()
    page.locator(".widget-dropdown select").last.select_option("MP4")
    page.locator(".jupyter-button", has_text="save").click()
    wait_for_status(page, "ball-ball-cgvs.mp4")
    assert (folder / "saved/ball-ball-cgvs.mp4").stat().st_size > 1000
    page.screenshot(path=folder / "video.png")


def test_errors_are_shown_and_the_last_explanation_stays(page):
    select_option(page, "image or video", "ball.png")
    wait_for_status(page, "colors on ball.png")
    wait_for_words(page, "a red ball on green grass")
    type_caption(page, "zebra")
    wait_for_status(page, "none of its words")
    assert caption_words(page) == "a red ball on green grass".split()
    page.locator(".jupyter-button", has_text="generate caption").click()
    wait_for_status(page, "click a word")


def test_long_computations_show_progress_and_can_be_canceled(page):
    select_option(page, "method", "integrated-gradients")
    page.wait_for_function("document.querySelector('.cgs figcaption').textContent.includes('integrated-gradients')")
    select_option(page, "model", "slow")
    cancel = page.locator(".jupyter-button", has_text="cancel")
    cancel.wait_for(state="visible")
    cancel.click()
    wait_for_status(page, "canceled")
    cancel.wait_for(state="hidden")
    assert "integrated-gradients" in page.inner_text(".cgs figcaption")
    select_option(page, "model", "colors")
    wait_for_status(page, "colors on ball.png")


def test_upload_a_file(page, jupyterlab):
    folder, _ = jupyterlab
    with page.expect_file_chooser() as chooser:
        page.locator(".widget-upload").click()
    chooser.value.set_files(str(folder / "other.png"))
    wait_for_status(page, "colors on other.png")
    assert re.fullmatch(
        "other.png",
        page.locator(".widget-dropdown:has(label:text-is('image or video')) select option:checked").inner_text(),
    )
    assert (folder / "saved/opened/other.png").is_file()


def test_explorer_on_the_captioners_of_a_run(tiny_run, tmp_path):
    from cgsaliency.app.explorer import explore

    explorer = explore(tiny_run, output_dir=tmp_path).wait()
    assert (
        list(explorer.models)
        == ["s2vt", "soft-attention", "mean-pool", "s2vt-video", "soft-attention-video", "mean-pool-video"]
        and len(explorer.gallery) == 7
    )
    video = next(name for name in explorer.gallery if name.endswith(".mp4"))
    explorer.media.value = video
    assert "is a video; model 's2vt' reads images" in html.unescape(explorer.wait().message.value)
    explorer.model.value = "s2vt-video"
    assert explorer.wait().player.payload and len(explorer.frames) == 5, explorer.message.value
    for model in explorer.models:
        explorer.media.value = video if model.endswith("video") else next(iter(explorer.gallery))
        explorer.model.value = model
        for method in explorer.wait().method.options:
            explorer.method.value = method
            assert "click a word" in explorer.wait().message.value, (model, method, explorer.message.value)
