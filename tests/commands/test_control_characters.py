"""Names are shown with their control characters escaped, which would act on the terminal."""

from pathlib import Path

import pytest
from rich.table import Table

from cli_tools import TINY, Warm, assert_succeeded, write_data
from segacc.commands.terminal.console import console_of, text_of
from segacc.settings.secrets import shown

pytest_plugins = ["cli_fixtures"]

RED, TITLE = "\x1b[31mred", "\x1b]0;title\x07"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("road\tsky\n", "road\tsky\n"),
        ("Straße 🛣 [bold]", "Straße 🛣 [bold]"),
        (RED, r"\x1b[31mred"),
        ("a\rb\x07\x7f\x9b", r"a\rb\x07\x7f\x9b"),
        ("a\u202eb\u2066", r"a\u202eb\u2066"),
    ],
)
def test_what_is_escaped(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_consoles_escape_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    def show(console: object) -> None:
        table = Table(title=TITLE)
        table.add_column(RED)
        table.add_row(TITLE)
        for one in (RED, table):
            console.print(one)  # type: ignore[attr-defined]
        console.out(RED, TITLE)  # type: ignore[attr-defined]

    show(console_of())
    for told in (capsys.readouterr().out, text_of(show)):
        assert "\x1b" not in told and "\x07" not in told
        assert told.count(r"\x1b[31mred") == 3 and r"\x1b]0;title" in told


@pytest.mark.slow
def test_a_run_shows_no_control_characters(warm: Warm, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", names=("background", RED, "bar"))
    for kind in ("images", "annotations"):
        path = data / kind / "train" / "train1.png"
        path.rename(path.with_name(f"{TITLE}.png"))
    run = ("--dataset", f"folder:root={data}", "--output-dir", "run")
    done = warm(*TINY, *run, "--eval-every", 1, cwd=tmp_path)
    assert_succeeded(done)
    (data / "images" / "train" / f"{TITLE}.png").write_bytes(b"no image")
    refused = warm(*TINY, "--dataset", f"folder:root={data}", cwd=tmp_path)
    checked = warm("check-data", "--dataset", f"folder:root={data}", cwd=tmp_path)
    log = (tmp_path / "run" / "console.log").read_text()
    for told in (done.stdout, done.stderr, log, refused.stderr, checked.stdout, checked.stderr):
        assert "\x1b" not in told and "\x07" not in told, told
    assert r"\x1b[31mred" in done.stdout and r"\x1b[31mred" in log
    assert r"\x1b]0;title" in refused.stderr and refused.returncode == 2
