"""Weights that changed since they were saved are refused, wherever they are loaded from."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cli_tools import Warm, assert_refused
from segacc.errors import WeightsError
from segacc.evaluation.segmenter import Segmenter

pytest_plugins = ["cli_fixtures"]


def flip(path: Path) -> None:
    """Change one bit in the last tensor."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """Copy a trained run; return its last/."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run" / "last"


def test_one_flipped_bit_is_found(warm: Warm, model: Path, data: Path, tmp_path: Path) -> None:
    subprocess.run(["sha256sum", "-c", "--quiet", "weights.sha256"], cwd=model, check=True)
    Segmenter.from_pretrained(model, "cpu")
    flip(model / "model.safetensors")
    told = (
        f"{model} is damaged: model.safetensors does not match its checksum. Copy the folder "
        "again, or train again. If you changed the weights yourself, remove weights.sha256."
    )
    with pytest.raises(WeightsError) as error:
        Segmenter.from_pretrained(model, "cpu")
    assert str(error.value) == told
    image = data / "images/validation/validation0.png"
    assert_refused(warm("predict", model, image, cwd=tmp_path), told)
    given = ("--dataset", f"folder:root={data}", "--num-workers", 0)
    assert_refused(warm("evaluate", model, *given, cwd=tmp_path), told)
    network = ("--arch", "segformer:variant=tiny", "--crop-size", 64, "--max-steps", 1)
    started = warm(*network, "--weights", model, *given, cwd=tmp_path)
    assert_refused(started, told)
    (model / "weights.sha256").unlink()
    Segmenter.from_pretrained(model, "cpu")


def test_other_files_may_be_edited(model: Path) -> None:
    (model / "README.md").write_text("My card")
    assert Segmenter.from_pretrained(model, "cpu")


def test_a_flipped_bit_in_a_checkpoint_is_found(model: Path) -> None:
    folder = next((model.parent / "checkpoints").iterdir())
    flip(folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"is damaged: model\.safetensors does not match"):
        Segmenter.from_pretrained(folder, "cpu")


def test_a_config_that_was_cut_off_is_refused_on_resume(warm: Warm, model: Path) -> None:
    path = model.parent / "config.yaml"
    text = path.read_text()
    number = len(text.splitlines()) - 1
    assert text.startswith(f"# The {number} effective settings of this run;")
    for cut, left in (("\n".join(text.splitlines()[:9]) + "\n", 8), (text[:-1], number)):
        path.write_text(cut)
        assert_refused(
            warm("--resume", model.parent, cwd=model.parent.parent),
            f"--resume {path}: it was cut off: {left} of its {number} settings are there. Copy it "
            "again; or remove its first line, and the others get their defaults.",
        )
