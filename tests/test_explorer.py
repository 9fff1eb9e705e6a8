"""The explorer as a person uses it: in JupyterLab, in a browser."""
import html, re

import pytest

from cgsaliency.data.frames import write_video
from cgsaliency.models.colours import ball_on_grass, painted, rolling_ball

CODE = """from pathlib import Path
from cgsaliency.models.colours import Seer
from cgsaliency.show.explorer import Explorer, explore
import time
class Slow(Seer):
    kind = "slow"
    def log_probs(self, values, words):
        time.sleep(0.25)
        return super().log_probs(values, words)
Explorer({"colours": Seer(), "slow": Slow}, {name: Path(name) for name in ("ball.png", "ball.mp4")}, {"ball.png": ["a red ball"]}, saved=Path("saved"))"""


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    "A JupyterLab in a folder with a notebook, a picture and a film: the folder and the address."
    from lab import running

    folder = tmp_path_factory.mktemp("lab")
    painted(ball_on_grass()).save(folder / "ball.png")
    write_video(folder / "ball.mp4", [painted(frame) for frame in rolling_ball()], 2)
    (folder / "other.png").write_bytes((folder / "ball.png").read_bytes())
    with running(folder, CODE) as address: yield folder, address


@pytest.fixture(scope="module")
def page(chromium, lab):
    from lab import opened

    page = opened(chromium, lab[1])
    yield page
    page.close()


def words(page): return page.locator(".cgs [data-word]").all_inner_texts()
def picture(page, which=0): return page.evaluate(f"document.querySelectorAll('.cgs figure canvas:not(.bars)')[{which}].toDataURL()")
def chosen(page): return page.evaluate("document.querySelector('.cgs').dataset.chosen")
def select(page, label, value): page.locator(f".widget-dropdown:has(label:text-is('{label}')) select").select_option(value)
def say(page, sentence):
    box = page.locator("input[placeholder^='type a sentence']")
    box.fill(sentence); box.press("Enter")
def heard(page, text): page.wait_for_function("text => document.querySelector('[role=status]')?.textContent.includes(text)", arg=text)
def until_words(page, expected): page.wait_for_function("expected => [...document.querySelectorAll('.cgs [data-word]')].map(word => word.textContent).join(' ') === expected", arg=expected)


def test_from_a_sentence_to_a_saved_picture(page, lab):
    folder, _ = lab
    assert words(page) == "a red ball on green grass".split()              # what the model says of itself
    say(page, "green grass ball")
    until_words(page, "green grass ball")
    page.locator("[data-word='2']").click()
    ball = picture(page)
    page.locator("[data-word='0']").click()
    assert chosen(page) == "0:1" and picture(page) != ball
    page.locator("[data-word='0']").hover(); page.mouse.down(); page.locator("[data-word='1']").hover(); page.mouse.up()
    assert chosen(page) == "0:2" and "green grass" in page.inner_text(".cgs figcaption")
    assert float(page.evaluate("document.querySelector('.cgs').dataset.milliseconds")) < 1000
    select(page, "compare", "attention")
    page.wait_for_function("document.querySelectorAll('.cgs figure').length === 2")
    assert chosen(page) == "0:2" and picture(page, 0) != picture(page, 1)   # the phrase stays chosen
    for kind in ("PNG", "HTML"):
        page.locator(".widget-dropdown select").last.select_option(kind)
        page.locator(".jupyter-button", has_text="save").click()
        heard(page, f"ball-green_grass-cgvs.{kind.lower()}")
    kept = sorted(path.name for path in (folder / "saved").iterdir())
    assert kept == ["ball-green_grass-cgvs.html", "ball-green_grass-cgvs.png"], kept
    page.screenshot(path=folder / "picture.png")


def test_through_a_film(page, lab):
    folder, _ = lab
    select(page, "compare", "nothing")
    select(page, "picture", "ball.mp4")
    page.wait_for_selector(".cgs input[type=range]")
    until_words(page, "a red ball on green grass")
    page.locator("[data-word='2']").click()
    first = picture(page)
    page.locator(".cgs input[type=range]").fill("5")
    assert page.evaluate("document.querySelector('.cgs').dataset.frame") == "5" and picture(page) != first
    page.get_by_role("button", name="play").click()
    page.wait_for_function("document.querySelector('.cgs').dataset.frame === '2'")
    page.get_by_role("button", name="pause").click()
    page.locator(".widget-dropdown select").last.select_option("MP4")
    page.locator(".jupyter-button", has_text="save").click()
    heard(page, "ball-ball-cgvs.mp4")
    assert (folder / "saved/ball-ball-cgvs.mp4").stat().st_size > 1000
    page.screenshot(path=folder / "film.png")


def test_what_is_wrong_is_said_and_what_was_seen_stays(page):
    select(page, "picture", "ball.png")
    heard(page, "colours on ball.png")
    until_words(page, "a red ball on green grass")
    say(page, "zebra")
    heard(page, "none of its words")
    assert words(page) == "a red ball on green grass".split()
    page.locator(".jupyter-button", has_text="what does it say?").click()
    heard(page, "click a word")


def test_long_work_shows_progress_and_can_be_cancelled(page):
    select(page, "explain by", "integrated-gradients")
    page.wait_for_function("document.querySelector('.cgs figcaption').textContent.includes('integrated-gradients')")
    select(page, "model", "slow")
    cancel = page.locator(".jupyter-button", has_text="cancel")
    cancel.wait_for(state="visible")
    cancel.click()
    heard(page, "cancelled")
    cancel.wait_for(state="hidden")
    assert "integrated-gradients" in page.inner_text(".cgs figcaption")
    select(page, "model", "colours")
    heard(page, "colours on ball.png")


def test_a_file_of_ones_own(page, lab):
    folder, _ = lab
    with page.expect_file_chooser() as chooser: page.locator(".widget-upload").click()
    chooser.value.set_files(str(folder / "other.png"))
    heard(page, "colours on other.png")
    assert re.fullmatch("other.png", page.locator(".widget-dropdown:has(label:text-is('picture')) select option:checked").inner_text())
    assert (folder / "saved/opened/other.png").is_file()


def test_on_the_captioners_of_a_run(tiny_run, tmp_path):
    from cgsaliency.show.explorer import explore

    explorer = explore(tiny_run, saved=tmp_path).wait()
    assert list(explorer.models) == ["s2vt", "soft-attention", "mean-pool", "s2vt-films", "soft-attention-films", "mean-pool-films"] and len(explorer.gallery) == 7
    film = next(name for name in explorer.gallery if name.endswith(".mp4"))
    explorer.picture.value = film
    assert "is a film; model 's2vt' reads pictures" in html.unescape(explorer.wait().message.value)
    explorer.model.value = "s2vt-films"
    assert explorer.wait().player.shown and len(explorer.frames) == 5, explorer.message.value
    for model in explorer.models:
        explorer.picture.value = film if model.endswith("films") else next(iter(explorer.gallery))
        explorer.model.value = model
        for method in explorer.wait().method.options:
            explorer.method.value = method
            assert "click a word" in explorer.wait().message.value, (model, method, explorer.message.value)
