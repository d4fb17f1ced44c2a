"""The page of `segacc report` in a browser, made from real runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import segacc
from browser_tools import chromium_of
from cli_tools import TINY, Warm, assert_succeeded, write_data
from segacc.commands.report.facts import confusion_of
from segacc.commands.report.run import read_run

pytest_plugins = ["cli_fixtures"]
pytestmark = pytest.mark.slow

EVIL = (
    "<script>document.title='broken'</script>",
    "x\"'>&amp;<img src=x onerror=alert(1)>",
    "bar\u202e",
)
"""Class names that would break a page in which texts are not escaped."""


@pytest.fixture(scope="module")
def runs(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Train on the built-in data and on classes with strange names, and evaluate both."""
    folder = tmp_path_factory.mktemp("page")
    data = write_data(folder / "data", names=EVIL)
    folders = [folder / "nuclei", folder / "<b onclick='x'>\x1b"]
    more = [("--eval-split", "validation[:3]"), ("--dataset", f"folder:root={data}")]
    for run, flags in zip(folders, more, strict=True):
        given = ("--eval-every", 1, "--log-every", 1, "--output-dir", run)
        assert_succeeded(warm(*TINY, "--aug", "random_scale_crop", *flags, *given, cwd=folder))
        metric = ("--metric", "mean_iou", "--metric", "confusion", "--num-workers", 0)
        assert_succeeded(warm("evaluate", run, *metric, cwd=folder))
    return folders


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start the Chromium of this machine."""
    with chromium_of() as started:
        yield started


@pytest.fixture
def page(browser: Any, runs: list[Path], tmp_path: Path) -> Iterator[Any]:
    """Open the report of both runs; any complaint or request of the page is a failure."""
    path = segacc.report(runs, output=tmp_path / "page.html")
    size = {"width": 1200, "height": 900}
    opened = browser.new_page(viewport=size, color_scheme="light", has_touch=True)
    told: list[str] = []
    opened.on("console", lambda message: told.append(message.text))
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
    opened.on("request", lambda request: told.append(request.url))
    opened.goto(path.as_uri())
    yield opened
    assert [one[:200] for one in told if not one.startswith("data:")] == [path.as_uri()]
    opened.close()


def background(page: Any) -> str:
    color: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return color


def test_names_are_text(page: Any) -> None:
    assert page.title() == "2 runs - segacc report"
    names = page.locator(".bars .label").all_inner_texts()
    assert names == ["background", "nucleus", *EVIL[:2], "bar\N{REPLACEMENT CHARACTER}"]
    assert (
        page.locator(".run h2").all_inner_texts()[1] == "<b onclick='x'>\N{REPLACEMENT CHARACTER}"
    )


def test_the_divider_moves_by_mouse_and_by_keyboard(page: Any) -> None:
    stage, handle = page.locator("#images-0 .stage"), page.locator("#images-0 .handle")
    handle.scroll_into_view_if_needed()
    before = stage.screenshot()
    box = stage.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 30)
    page.mouse.up()
    assert handle.get_attribute("aria-valuenow") == "80"
    dragged = stage.screenshot()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("PageDown")
    assert handle.get_attribute("aria-valuenow") == "68"
    page.keyboard.press("Home")
    assert handle.get_attribute("aria-valuetext") == "0 % image, 100 % prediction"
    assert len({before, dragged, stage.screenshot()}) == 3
    page.touchscreen.tap(box["x"] + box["width"] / 4, box["y"] + 20)
    assert handle.get_attribute("aria-valuenow") == "25"
    page.locator("#images-0").get_by_role("radio", name="truth | prediction").check()
    page.locator("#images-0 .strip [role=tab]").nth(1).click()
    sources = stage.locator("img").evaluate_all("all => all.map((one) => one.src)")
    one = page.evaluate("data.images[0].images[1]")
    assert sources == [one["truth"], one["prediction"]]
    assert page.locator("#images-0 .caption").inner_text().startswith(one["id"])


def test_the_theme_and_the_order_can_be_changed(page: Any) -> None:
    light = background(page)
    page.get_by_role("button", name="Dark theme").click()
    dark = background(page)
    assert dark != light
    page.emulate_media(color_scheme="dark")
    page.get_by_role("button", name="Dark theme").click()
    assert background(page) == light
    scores = "all => all.map((one) => +one.dataset.score)"
    page.locator("#sort").get_by_role("radio", name="score").check()
    found = page.locator(".bars li").evaluate_all(scores)
    assert found == sorted(found, reverse=True)
    page.locator("#sort").get_by_role("radio", name="name").check()
    names = page.locator(".bars li").evaluate_all("all => all.map((one) => one.dataset.name)")
    plain = [name for name in names if name.isalpha()]
    assert plain == ["background", "nucleus"] and names[0] != "background"
    page.locator("#sort").get_by_role("radio", name="label order").check()
    assert page.locator(".bars .label").first.inner_text() == "background"


def test_curves_can_be_read_and_hidden(page: Any) -> None:
    chart = page.locator(".chart").first
    curves = chart.locator("path.curve")
    count = curves.count()
    chart.locator(".plot").focus()
    page.keyboard.press("End")
    assert chart.locator(".reading").inner_text().startswith("step 2 ")
    page.locator(".legend button").nth(1).click()
    assert curves.count() == count // 2
    chart.locator(".log").check()
    assert curves.count() == count // 2
    scores = page.locator(".chart").nth(1)
    scores.get_by_role("tab", name="mean_iou").focus()
    page.keyboard.press("ArrowRight")
    assert scores.get_by_role("tab", name="mean_accuracy").get_attribute("aria-selected") == "true"
    page.get_by_role("button", name="Copy the command").first.click()
    page.wait_for_function("document.querySelector('.copy').textContent !== 'Copy'")


def test_a_phone_shows_all_of_it(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(50)
    width = page.evaluate("document.documentElement.scrollWidth")
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter((one) => "
        "!one.closest('.scroll, .strip, svg') && one.getBoundingClientRect().right > 391)"
        ".map((one) => one.outerHTML.slice(0, 90))"
    )
    assert (width, wide) == (390, [])


def test_two_classes_need_no_matrix(runs: list[Path], tmp_path: Path) -> None:
    written = confusion_of(read_run(runs[0], "RUN", name="nuclei"))
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    (run / "best/evaluation/confusion.csv").unlink()
    assert written == confusion_of(read_run(run, "RUN", name="nuclei"))
    assert written and written["shares"] and written["names"] == ("background", "nucleus")
