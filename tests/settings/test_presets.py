"""The rows of `--augment`: those that docs/data.md lists, and `strong` in a run with workers."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cli_tools import ROOT, Warm, assert_succeeded, metrics
from run_tools import build
from segacc.registry import load_registry
from segacc.settings.config import TrainConfig
from segacc.settings.sources import AUGMENT, Layer, read_yaml
from segacc.training.plan import Plan, make_plan

pytest_plugins = ["cli_fixtures"]

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Read the table of presets: by name what its first cell says, and its whole row."""
    head = r"^\| `--augment` \| pipeline \|\n\|---\|---\|\n"
    table = re.search(rf"{head}((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table is not None
    rows: dict[str, tuple[str, tuple[str, ...]]] = {}
    row: tuple[str, ...] = ()
    for line in table[1].splitlines():
        head, told = (cell.strip() for cell in line.strip("|").split("|"))
        named = tuple(re.findall(r"`([^`]+)`", told))
        row = (*row, *named) if told.startswith("and ") else named  # "and": to the row above
        rows[re.findall(r"`(\w+)`", head)[0]] = head, row
    return rows


def plan(folder: Path, **values: Any) -> Plan:
    return make_plan(
        [Layer({"output_dir": folder / "run", **values}, "command line")], load_registry()
    )


def test_the_presets_are_those_of_the_page() -> None:
    assert dict(AUGMENT) == {name: row for name, (_, row) in documented().items()}
    assert list(AUGMENT) == ["light", "standard", "strong"]
    default = [row for head, row in documented().values() if "the default" in head]
    assert default == [TrainConfig().aug]


@pytest.mark.parametrize("name", AUGMENT)
def test_a_preset_has_the_options_of_the_page(name: str, tmp_path: Path) -> None:
    _, row = documented()[name]
    chosen = plan(tmp_path, augment=name).aug
    for one, typed in zip(chosen, row, strict=True):
        named, _, options = typed.partition(":")
        assert one.name == named
        told = {key: float(value) for key, value in re.findall(r"(\w+)=([\d.]+)", options)}
        default = type(one.options)()
        assert vars(one.options) == {**vars(default), **told}


# ------------------------------------------------------------------------------- a run with strong

SHORT = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--crop-size", "32x48"),
    *("--max-steps", "4", "--log-every", "1", "--batch-size", "4", "--num-workers", "2"),
)


def train(warm: Warm, data: Path, folder: Path, *flags: str) -> list[dict[str, Any]]:
    """Train four steps of four samples with two workers; return what each step logged."""
    given = ("--dataset", f"folder:root={data}", "--output-dir", folder)
    assert_succeeded(warm(*SHORT, *flags, *given, cwd=folder.parent))
    return metrics(folder, "train")


def losses(rows: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(row["loss"], row["grad_norm"]) for row in rows]


@pytest.fixture(scope="module")
def strong(warm: Warm, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with `--augment strong`."""
    folder = tmp_path_factory.mktemp("strong") / "run"
    train(warm, data, folder, "--augment", "strong")
    return folder


def test_strong_mixes_in_the_worker_and_distorts_on_the_device(data: Path, tmp_path: Path) -> None:
    run = build(tmp_path, augment="strong", dataset=f"folder:root={data}")
    row = run.train_data.pipeline
    assert [stage.name for stage in row.worker if stage.partners] == ["class_mix"]
    assert len(row.worker) == len(AUGMENT["strong"]) - 1
    assert len(row.device) == len(row.of_batches) == 1, "photometric_distortion"


@pytest.mark.slow
def test_strong_trains_the_same_from_the_same_seed(
    warm: Warm, data: Path, strong: Path, tmp_path: Path
) -> None:
    rows = metrics(strong, "train")
    assert read_yaml(strong / "config.yaml").values["aug"] == list(AUGMENT["strong"])
    assert len(rows) == 4 and all(math.isfinite(one) for pair in losses(rows) for one in pair)
    again = train(warm, data, tmp_path / "run", "--augment", "strong")
    assert losses(again) == losses(rows)
    assert [row["valid_pixels"] for row in again] == [row["valid_pixels"] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["class_mix:p=0.5", "photometric_distortion"])
def test_without_it_strong_would_train_otherwise(
    warm: Warm, data: Path, strong: Path, tmp_path: Path, name: str
) -> None:
    flags = [word for one in AUGMENT["strong"] if one != name for word in ("--aug", one)]
    assert len(flags) == 2 * (len(AUGMENT["strong"]) - 1)
    without = train(warm, data, tmp_path / "run", *flags)
    assert losses(without) != losses(metrics(strong, "train"))
