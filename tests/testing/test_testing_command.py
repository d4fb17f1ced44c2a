"""`python -m segacc.testing PACKAGE`: a line for each component, and the paragraph of a failure."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from launches import ROOT
from plugin_tools import pip_install, run_python, write_distribution
from segacc.testing import check_import
from segacc.testing.__main__ import main
from segacc.testing.tools import PromiseError

SOURCE = """
from dataclasses import dataclass

import segacc


@dataclass(frozen=True)
class Options:
    root: str
    far: bool = False


class Mean:
    def __init__(self, options, facts):
        pass

    def count(self, labels):
        return (labels != 255).sum().float()

    def sum(self, logits, labels):
        from torch.nn.functional import cross_entropy
        from segacc.kernels.resize import resize_to_labels

        return cross_entropy(resize_to_labels(logits, labels), labels, ignore_index=255)


@segacc.hookimpl
def segacc_losses():
    yield segacc.Loss(name="mean", summary="s", build=Mean)


@segacc.hookimpl
def segacc_datasets():
    yield segacc.Dataset(name="disk", summary="s", options=Options, build=lambda options: [])
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    before = set(sys.modules)

    def do(*arguments: str) -> tuple[int, str, str]:
        code, seen = main(arguments), capsys.readouterr()
        return code, re.sub(r"\(\d+\.\d\d s\)", "(# s)", seen.out), seen.err

    yield do
    for name in set(sys.modules) - before:
        if name.startswith("segacc_"):
            del sys.modules[name]


def test_a_correct_plugin(run: Run, example_plugin: ModuleType) -> None:
    code, out, err = run("segacc_example", "soft_dice", "shapes:num_images=4", "pixel_counts")
    assert (code, err) == (0, "")
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        ["ok", "loss", "soft_dice"],
        ["ok", "dataset", "shapes:num_images=4"],
        ["ok", "metric", "pixel_counts"],
    ]


@pytest.mark.slow
@pytest.mark.launch
def test_several_processes(run: Run, example_plugin: ModuleType) -> None:
    code, out, err = run("segacc_example", "--processes", "2", "unet_small:width=2,depth=2")
    assert (code, err) == (0, "")
    assert out == (
        "ok      import of segacc_example (# s)\n"
        "ok      architecture unet_small:width=2,depth=2 (# s)\n"
    )


def test_a_broken_plugin(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_distribution(tmp_path, "segacc-means", SOURCE)
    monkeypatch.syspath_prepend(pip_install(tmp_path / "site", folder))
    code, out, err = run("segacc-means")
    assert (code, err) == (1, "")
    first, *skipped, mean, paragraph = out.splitlines()
    assert first == "ok      import of segacc_means (# s)"
    assert mean == "FAILED  loss mean"
    assert paragraph.startswith("        loss mean: expected sum() of 3 images to equal the total ")
    assert "return a sum over the batch, not a mean" in paragraph
    assert skipped == ["skipped dataset disk", "        give root, as in disk:root=..."]
    code, out, err = run("segacc_means", "disk:root=here")
    assert (code, err) == (1, "")
    assert out.splitlines()[1:] == [
        "FAILED  dataset disk:root=here",
        "        dataset disk:root=here: expected DataSplits; found list.",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["segacc_absent"],
            "segacc_absent is neither an installed distribution with plugins for segacc nor a "
            "module. Install the plugin, for example with pip install -e FOLDER.",
        ),
        (
            ["segacc_example", "tree"],
            "the plugin has no component tree. It has unet_small, shapes, quarter_turn, "
            "soft_dice, pixel_counts.",
        ),
        (
            ["segacc_example", "soft_dice:weight=0"],
            "loss (segacc-example/soft_dice): weight: expected a number > 0; found '0'.",
        ),
    ],
)
def test_what_is_not_found(
    run: Run, example_plugin: ModuleType, arguments: list[str], text: str
) -> None:
    code, _, err = run(*arguments)
    assert (code, err) == (2, f"segacc.testing: {text}\n")


@pytest.mark.slow
def test_an_import_that_loads_torch(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "segacc_slow.py").write_text("import torch\n")
    (tmp_path / "segacc_gone.py").write_text("import a_module_that_is_not_there\n")
    with pytest.raises(PromiseError) as error:
        check_import("segacc_slow")
    assert str(error.value) == (
        "expected import segacc_slow to load neither torch nor transformers, for which every "
        "command would wait; found torch: import it in `build`."
    )
    code, out, _ = run("segacc_gone")
    assert code == 1
    assert out == (
        "FAILED  import of segacc_gone\n"
        "        expected import segacc_gone to succeed; found ModuleNotFoundError: No module "
        "named 'a_module_that_is_not_there'.\n"
    )


@pytest.mark.slow
def test_the_command_itself() -> None:
    example = ROOT / "tests" / "example_plugin"
    done = run_python(["-m", "segacc.testing", "segacc_example"], target=example)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6 and all(line.startswith("ok      ") for line in lines)
