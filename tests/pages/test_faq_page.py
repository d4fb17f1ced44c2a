"""The errors that docs/faq.md quotes are what segacc says, to the letter."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tools import ROOT, TINY, Warm, write_data

pytest_plugins = ["cli_fixtures"]

PAGE = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
QUOTED = [" ".join(one.split()) for one in re.findall(r"^```\n(.*?)^```$", PAGE, re.S | re.M)]
UPERNET = ("--arch", "upernet:backbone=swin,size=test,hidden_size=16", "--batch-size", "1")
NOT_FINITE = ("--lr", "1e12", "--max-grad-norm", "1e15", "--max-steps", "20")
"""A learning rate at which the second loss is not finite."""


def change(folder: Path, names: str, to: object) -> None:
    """Rewrite labels of data/mine."""
    for path in (folder / "data/mine/annotations").glob(names):
        with Image.open(path) as label:
            changed = to(np.array(label))  # type: ignore[operator]
        Image.fromarray(changed).save(path)


def with_nine(label: np.ndarray) -> np.ndarray:
    label[:3] = 9
    return label


COLORS = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)
CASES = {
    "outside the classes": ("train/train1.png", with_nine, ()),
    "colours": ("*/*.png", lambda label: COLORS[label], ()),
    "size": ("train/train1.png", lambda label: label[:30, :20].copy(), ()),
    "binary": ("*/*.png", lambda label: np.uint8(255) * (label > 0), ()),
    "ignored": ("train/*.png", lambda label: np.full_like(label, 255), ()),
    "no split": ("", None, ("--eval-split", "val2")),
    "the Hub": ("", None, ("--weights", "nvidia/mit-b0")),
    "batch norm": ("", None, UPERNET),
    "not finite": ("", None, NOT_FINITE),
    "run folder": ("", None, ("--output-dir", "runs/mine")),
    "flag": ("", None, ("--learning-rate", "1e-4")),
}


TRAINS = ("binary", "ignored", "not finite")
"""Those that take a step."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=pytest.mark.slow if one in TRAINS else ()) for one in CASES],
)
def test_an_error_is_quoted_as_it_is(warm: Warm, tmp_path: Path, name: str) -> None:
    write_data(tmp_path / "data/mine")
    labels, to, flags = CASES[name]
    if to is not None:
        change(tmp_path, labels, to)
    if name == "run folder":
        (tmp_path / "runs/mine").mkdir(parents=True)
        shutil.copy(tmp_path / "data/mine/classes.txt", tmp_path / "runs/mine")
    given = dict(zip(TINY[::2], TINY[1::2], strict=True))
    given |= {"--dataset": "folder:root=data/mine", "--num-pictures": "0"}
    given |= dict(zip(flags[::2], flags[1::2], strict=True))
    done = warm("train", *(word for pair in given.items() for word in pair), cwd=tmp_path)
    said = " ".join((done.stdout + done.stderr).split())
    found = [one for one in QUOTED if one in said]
    assert len(found) == 1, said


def test_an_evaluation_on_other_classes(warm: Warm, trained: Path, tmp_path: Path) -> None:
    done = warm("evaluate", trained, "--dataset", "nuclei", cwd=tmp_path)
    assert done.returncode == 2 and " ".join(done.stderr.split()) in QUOTED
