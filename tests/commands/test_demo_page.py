"""The page of `segacc demo` in a browser, served by gradio in an environment of its own."""

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from browser_tools import chromium_of
from cli_tools import environment

pytest_plugins = ["cli_fixtures", "other_python"]
pytestmark = pytest.mark.slow


def hear_ctrl_c() -> None:
    """Let SIGINT interrupt a process, also if the suite runs in the background of a shell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def served(other_python: Path, trained: Path, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """Serve the tiny network; return the process and the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [str(other_python), "-m", "segacc", "demo", str(trained), "--no-open", "--port", port]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    assert process.stdout
    lines = iter(process.stdout.readline, "")
    told = next((line for line in lines if "http://" in line), "")
    found = re.search(rf"http://127\.0\.0\.1:{port}", told)
    assert found, told
    yield process, found[0]
    with suppress(ProcessLookupError):
        process.kill()


def test_a_picture_is_segmented_in_the_browser(
    served: tuple[Any, str], data: Path, tmp_path: Path
) -> None:
    process, address = served
    (tmp_path / "notes.png").write_text("no picture")
    picture = data / "images/validation/validation0.png"
    with chromium_of() as browser:
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.set_input_files("input[type=file]", picture)
        page.wait_for_selector(".seg-picture", timeout=30000)
        told = page.locator("#prediction").inner_text()
        assert re.search(r"background\s+[\d.]+ %", told) and " ms on " in told
        over = page.locator(".seg-picture img").nth(1)
        opacity = "one => getComputedStyle(one).opacity"
        assert over.evaluate(opacity) == "0.55"
        slider = page.locator("input[type=range]")
        slider.focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        page.wait_for_function(
            "getComputedStyle(document.querySelectorAll('.seg-picture img')[1]).opacity > 0.59"
        )
        page.get_by_role("button", name="Remove").or_(page.get_by_label("Clear")).first.click()
        page.wait_for_selector(".seg-picture", state="detached")
        page.set_input_files("input[type=file]", tmp_path / "notes.png")
        page.wait_for_selector(".seg-error")
        assert "notes.png" in page.locator(".seg-error").inner_text()
        page.locator(".gallery-item").first.click()
        page.wait_for_selector(".seg-picture")
    outside = {one for one in asked if not one.startswith((address, "data:", "blob:"))}
    assert not outside
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert (process.returncode, rest) == (0, "\nsegacc demo: stopped\n")
