"""Every command and every piece of code in README.md runs, with smaller numbers."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tools import ROOT, Done, Warm, assert_succeeded, start

pytest_plugins = ["cli_fixtures"]

README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALLER = {
    "--max-steps 4000": "--max-steps 2",
    "max_steps=4000": "max_steps=2",
    "max_steps: 3000": "max_steps: 2",
    "crop_size: 320x416": "crop_size: 32x48",
    "batch_size: 8": "batch_size: 2\nnum_workers: 0\nweights: none",
    "--processes 4": "--processes 2",
    "variant=b2": "variant=tiny",
    "variant=b1": "variant=tiny",
    "backbone=convnext,size=tiny": "backbone=convnext,size=test,hidden_size=16",
    "backbone=swin,size=tiny": "backbone=swin,size=test,hidden_size=16",
    "segacc.fit(": 'segacc.fit(arch="segformer:variant=tiny", weights="none", num_workers=0, ',
}
MORE = " --crop-size 32 --batch-size 2 --num-workers 0"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def smaller(text: str) -> str:
    for long, short in SMALLER.items():
        text = text.replace(long, short)
    return text


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds all that the README speaks of."""
    root = tmp_path_factory.mktemp("readme")
    names = {"mine": ["no", "yes"], "camvid": ["Road", "Car", "Pedestrian"]}
    for data, classes in names.items():
        place, random = root / "data" / data, np.random.default_rng(0)
        for split in ("train", "val"):
            for kind in ("images", "annotations"):
                (place / kind / split).mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(0, 255, (40, 56, 3), np.uint8)
                label = random.integers(0, len(classes), (40, 56), np.uint8)
                Image.fromarray(pixels).save(place / "images" / split / f"{number}.jpg")
                Image.fromarray(label).save(place / "annotations" / split / f"{number}.png")
        (place / "classes.txt").write_text("\n".join(classes))
    (root / "photos").mkdir()
    shutil.copy(root / "data/mine/images/val/0.jpg", root / "photos/street.jpg")
    (root / "accelerate_configs").symlink_to(ROOT / "accelerate_configs")
    (root / "camvid.yaml").write_text(smaller(blocks("yaml")[0]))
    (root / "segacc-plain").mkdir()
    build = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    build += '[tool.hatch.build.targets.wheel]\ninclude = ["*.py"]\n'
    (root / "segacc-plain/pyproject.toml").write_text(blocks("toml")[0] + build)
    (root / "segacc-plain/segacc_plain.py").write_text(blocks("python")[1])
    return root


def run(warm: Warm, command: str, folder: Path) -> str:
    """Run a line of the README as it stands, only with smaller numbers; segacc in forks.

    What starts several processes is tested in tests/training: `--processes` in
    test_processes_flag.py, accelerate's launcher in test_exact_resume.py.
    """
    line = smaller(command)
    if re.search("-m segacc|segacc train", line) and "camvid.yaml" not in line:
        line = re.sub("--arch segformer( |$)", "", line)
        tiny = "" if "--arch" in line else " --arch segformer:variant=tiny"
        line += "" if re.search("--(weights|resume|help)", line) else f" --weights none{tiny}"
        line += "" if re.search("--(resume|help)", line) else MORE
        line += "" if re.search("--(max-steps|resume|help)", line) else " --max-steps 2"
    words = shlex.split(line)
    several = 2 * ("cpu_2_processes.yaml" in line or "--processes 2" in line)
    if words[0] in ("segacc", "accelerate"):
        given = words[words.index("segacc") + 1 :]
        site = folder / "site"
        done = warm(*given, cwd=folder, site=site, processes=several, HF_HUB_OFFLINE="1")
    else:
        done = run_line(line, folder)
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def run_line(line: str, folder: Path) -> Done:
    if line.startswith("pip install"):
        line += " --target site --no-deps --no-build-isolation --no-index -q"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return start(["bash", "-c", line], folder, {"PATH": path})


@pytest.mark.slow
@pytest.mark.launch
def test_every_command_runs(warm: Warm, sandbox: Path) -> None:
    ran = [line for line in commands() if "multi_gpu.yaml" not in line]  # parsed in its own test
    assert len(ran) > 10
    printed = {line: run(warm, line, sandbox) for line in ran}
    predictions = sorted(path.name for path in (sandbox / "predictions").iterdir())
    assert predictions == ["street.png", "street_overlay.png"]
    told = (sandbox / "runs/segformer-folder/config.yaml").read_text()
    assert re.search(r"^lr: 0.0001 +# --lr$", told, re.MULTILINE)
    assert re.search(r"^crop_size: \[32, 48\] +# camvid.yaml: crop_size$", told, re.MULTILINE)
    listing = next(text for line, text in printed.items() if line.endswith("segacc plugins"))
    assert "random_scale_crop" in listing
    assert (sandbox / "runs/plain/best/model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.launch
def test_the_python_code_runs(warm: Warm, sandbox: Path) -> None:
    printed = assert_succeeded(warm.code(smaller(blocks("python")[0]), cwd=sandbox)).stdout
    assert re.search(r"^0\.\d+ finished$", printed, re.MULTILINE)
    assert "runs/notebook/best on validation: 4 images, protocol whole" in printed
    assert re.search(r"\['(no|yes)'", printed)
    assert (sandbox / "street_overlay.png").is_file()


@pytest.mark.slow
@pytest.mark.launch
def test_the_two_make_commands(tmp_path: Path) -> None:
    """The real recipes, in the environment that the suite runs in; CI runs `make test` whole."""
    for stamp in ("created", "installed", "installed-dev"):
        if not (Path(sys.prefix) / stamp).exists():
            (Path(sys.prefix) / stamp).touch()  # an environment that make did not make
    make = ["make", "--old-file=pyproject.toml", f"VENV={sys.prefix}"]
    size = "--max-steps 1 --weights none --crop-size 32 --batch-size 2 --num-workers 0 "
    size += "--eval-split 'validation[:4]' --num-pictures 0"
    commands = {
        "test": ["PYTEST_ARGS=--version"],
        "demo": [f"DEMO_DIR={tmp_path / 'demo'}", f"DEMO_ARGS={size}"],
    }
    for target, settings in commands.items():
        done = subprocess.run(
            [*make, target, *settings], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
    best = tmp_path / "demo" / "best"
    assert "accelerate launch -m segacc --arch segformer" in done.stdout
    assert f"segacc predict {best} IMAGE" in done.stdout
    assert (best / "model.safetensors").is_file()


def test_no_number_is_left_open() -> None:
    assert "DEMO_OUTPUT" not in README
    lines = (ROOT / "segacc/loop.py").read_text().count("\n")
    told = re.search(r"`segacc/loop.py`, (\d+) lines", README)
    assert told is not None and abs(int(told[1]) - lines) <= 10
