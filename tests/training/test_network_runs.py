"""Runs with other networks, weights, channels and batches, as a user starts them."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from cli_tools import Warm, assert_refused, assert_succeeded, metrics, segacc, write_data
from hub_tools import hub
from segacc.settings.machine import whole_memory

pytest_plugins = ["cli_fixtures"]

STEP = (
    *("--max-steps", "1", "--batch-size", "2", "--crop-size", "64", "--num-workers", "0"),
    *("--num-pictures", "0", "--output-dir", "run"),
)
MOBILENET = ("--arch", "mobilenet_v2:depth_multiplier=0.25,output_stride=8", "--weights", "none")


def config(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())
    return found


@pytest.mark.slow
def test_a_folder_alone_chooses_the_architecture(
    warm: Warm, shared: Path, data: Path, tmp_path: Path
) -> None:
    voc = shared / "deeplabv3_mobilenet_v2_voc"
    given = ("--weights", voc, "--dataset", f"folder:root={data}")
    done = assert_succeeded(warm(*STEP, *given, cwd=tmp_path))
    assert "332 tensors loaded\n  head: weights of 1 of 3 classes reused by name: background\n" in (
        done.stdout
    )
    assert "unused parameters (no gradient), not trained: mobilenet_v2.conv_1x1" in done.stdout
    assert config(tmp_path / "run")["arch"] == {"name": "mobilenet_v2", "config": str(voc)}
    # And what this run saved is such a folder, too: of a stride and classes of its own.
    again = ("--weights", "run/last", "--dataset", f"folder:root={data}")
    done = assert_succeeded(warm(*STEP[:-2], *again, "--output-dir", "second", cwd=tmp_path))
    assert "mobilenet_v2:config=run/last: " in done.stdout
    assert "332 tensors loaded\n" in done.stdout and "head:" not in done.stdout
    fresh = (*given, "--head", "fresh", "--output-dir", "third")
    done = assert_succeeded(warm(*STEP[:-2], *fresh, cwd=tmp_path))
    assert "312 tensors loaded\n  new: 20 tensors of segmentation_head\n" in done.stdout


@pytest.mark.slow
def test_a_hub_id_chooses_the_architecture_too(trained: Path, data: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in (trained / "best").iterdir()}
    given = (*STEP, "--weights", "us/tiny", "--dataset", f"folder:root={data}")
    with hub({"us/tiny": files}) as endpoint:
        home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        done = assert_succeeded(segacc(*given, cwd=tmp_path, HF_ENDPOINT=endpoint, **home))
    assert "segformer:config=" in done.stdout and "weights: us/tiny: " in done.stdout
    (stored,) = (tmp_path / "home/hub/models--us--tiny/snapshots").iterdir()
    assert config(tmp_path / "run")["arch"] == {"name": "segformer", "config": str(stored)}


@pytest.mark.slow
def test_a_resumed_run_keeps_what_the_weights_decided(
    warm: Warm, shared: Path, data: Path, tmp_path: Path
) -> None:
    """Mean and std of the weights' own image processor, and the config of their folder."""
    weights = shutil.copytree(shared / "deeplabv3_mobilenet_v2_voc", tmp_path / "weights")
    colors = weights / "preprocessor_config.json"
    colors.chmod(0o644)
    told = {**json.loads(colors.read_text()), "image_mean": [0.1, 0.2, 0.3]}
    colors.write_text(json.dumps(told))
    two = tuple("2" if part == "1" else part for part in STEP)
    given = ("--weights", "weights", "--dataset", f"folder:root={data}", "--save-every", "1")
    assert_succeeded(warm(*two, *given, cwd=tmp_path))
    whole = (tmp_path / "run/last/model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run/checkpoints/step-00000002")
    shutil.rmtree(tmp_path / "run/last")
    weights.rename(tmp_path / "elsewhere")
    assert_succeeded(warm("--resume", "run", cwd=tmp_path))
    last = tmp_path / "run/last"
    assert json.loads((last / "preprocessor_config.json").read_text())["image_mean"] == [
        *(0.1, 0.2, 0.3)
    ]
    assert (last / "model.safetensors").read_bytes() == whole
    assert_refused(
        warm("--resume", "run", "--head", "fresh", cwd=tmp_path),
        f"--head: fresh: the run in {tmp_path / 'run'} was started with keep, which --resume "
        "cannot change. Leave it out, or start a new run (--weights "
        f"{tmp_path / 'run/last'} starts from its weights).",
    )
    again = ("--weights", "run/last", "--dataset", f"folder:root={data}", "--overwrite")
    assert_refused(
        warm(*STEP, *again, cwd=tmp_path),
        "--overwrite: run/last is inside run, which would be deleted. Choose another --output-dir.",
    )


def test_an_encoder_alone_asks_for_an_architecture(
    warm: Warm, shared: Path, data: Path, tmp_path: Path
) -> None:
    lite = shared / "efficientnet_lite0"
    done = warm(*STEP, "--weights", lite, "--dataset", f"folder:root={data}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"segacc: --weights: {lite}: a config.json without model_type is not a segmentation model "
        "that segacc knows. If it is an encoder, give an architecture that uses it"
    )


@pytest.mark.parametrize(
    ("flag", "value", "images"),
    [
        ("--crop-size", "1000000x2000000", 1),
        ("--batch-size", 10**12, 10**12),
        ("--gradient-accumulation-steps", 10**12, 10**12),
    ],
)
def test_a_step_larger_than_the_memory(
    warm: Warm, data: Path, tmp_path: Path, flag: str, value: object, images: int
) -> None:
    given = {"--batch-size": 1, "--crop-size": 64, "--dataset": f"folder:root={data}", flag: value}
    done = warm(*(one for pair in given.items() for one in pair), "--weights=none", cwd=tmp_path)
    size = value if flag == "--crop-size" else "64x64"
    taken = images * 3 * math.prod(map(int, str(size).split("x"))) / 1e9
    assert_refused(
        done,
        f"{flag}: the {images} image"
        f"{'s' * (images > 1)} of {size} pixels that each process reads for a step take "
        f"{taken:.2f} GB, more than the memory that there is "
        f"({whole_memory() / 1e9:.2f} GB). Give a smaller --crop-size, or fewer "
        "images a step with --batch-size and --gradient-accumulation-steps.",
    )


@pytest.mark.slow
def test_a_batch_of_one_that_batch_norm_cannot_take(warm: Warm, data: Path, tmp_path: Path) -> None:
    two = STEP.index("--batch-size") + 1
    single = (*STEP[:two], "1", *STEP[two + 1 :])
    one = (*single, *MOBILENET, "--dataset", f"folder:root={data}")
    assert_refused(
        warm(*one, cwd=tmp_path),
        "--batch-size: 1: the architecture needs at least 2 images per process in training, or its "
        "batch norm has one value per channel. Use --batch-size 2 or more, or --freeze-batchnorm.",
    )
    assert_succeeded(warm(*one, "--freeze-batchnorm", cwd=tmp_path))


@pytest.mark.slow
def test_a_decoder_that_pools_takes_one_image_when_batch_norm_is_frozen(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    two = STEP.index("--batch-size") + 1
    given = (*STEP[:two], "1", *STEP[two + 1 :], "--dataset", f"folder:root={data}")
    arch = ("--arch", "mobilevit:variant=tiny", "--weights", "none")
    assert warm(*given, *arch, cwd=tmp_path).returncode == 2
    assert_succeeded(warm(*given, *arch, "--freeze-batchnorm", cwd=tmp_path))


@pytest.mark.slow
@pytest.mark.launch
def test_synchronized_batch_norm_is_for_gpus(warm: Warm, data: Path, tmp_path: Path) -> None:
    given = (*STEP, *MOBILENET, "--dataset", f"folder:root={data}", "--sync-batchnorm")
    done = warm(*given, cwd=tmp_path, processes=2)
    assert done.returncode != 0
    assert done.stderr.count("segacc: --sync-batchnorm: torch synchronizes batch norm on GPUs") == 1


def test_a_frozen_encoder_of_random_weights_is_said_loudly(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    given = ("--arch", "linear:size=test", "--weights", "none", "--dataset", f"folder:root={data}")
    crop = ("--crop-size", "56")
    steps = tuple(part for part in STEP if part not in ("--crop-size", "64"))
    done = assert_succeeded(warm(*steps, *given, *crop, cwd=tmp_path))
    told = "THE ENCODER HAS RANDOM WEIGHTS AND IS FROZEN, so it will never learn: give linear "
    assert told in done.stdout
    protocol = json.loads((tmp_path / "run/last/segacc.json").read_text())["protocol"]
    assert protocol == "whole:pad=14"  # 48x64 pixels are no multiples of 14


@pytest.mark.slow
def test_a_crop_that_was_not_typed_is_made_to_fit(warm: Warm, data: Path, tmp_path: Path) -> None:
    steps = tuple(part for part in STEP if part not in ("--crop-size", "64"))
    given = ("--arch", "linear:size=test", "--weights", "none", "--dataset", f"folder:root={data}")
    assert_succeeded(warm(*steps, *given, cwd=tmp_path))
    assert config(tmp_path / "run")["crop_size"] == [504, 504]
    assert (
        "crop_size: [504, 504]                        # chosen: the default for data sets without "
        "their own is 512x512, which the architecture does not accept"
    ) in (tmp_path / "run/config.yaml").read_text().splitlines()
    typed = (*given, "--crop-size", "64", "--overwrite")
    assert_refused(
        warm(*steps, *typed, cwd=tmp_path),
        "--crop-size: 64x64: the architecture supports only multiples of 14 pixels; 56x56 fits.",
    )


def channels(root: Path, mode: str) -> Path:
    """Write the small data set with pictures of another mode."""
    write_data(root)
    for path in (root / "images").rglob("*.png"):
        Image.open(path).convert(mode).save(path)
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("count", "mode"), [(1, "L"), (4, "RGBA")])
def test_other_input_channels(
    warm: Warm, shared: Path, count: int, mode: str, tmp_path: Path
) -> None:
    root = channels(tmp_path / "data", mode)
    weights = ("--weights", shared / "deeplabv3_mobilenet_v2_voc", "--num-channels", count)
    drawn = [*STEP[: STEP.index("--num-pictures") + 1], "2", *STEP[-2:]]
    done = assert_succeeded(
        warm(*drawn, *weights, "--dataset", f"folder:root={root}", cwd=tmp_path)
    )
    assert (tmp_path / "run/pictures/step-00000001.png").is_file()
    first = "mobilenet_v2.conv_stem.first_conv.convolution.weight"
    assert f"input channels adapted: {first}" in done.stdout
    stored = json.loads((tmp_path / "run/last/config.json").read_text())
    assert stored["num_channels"] == count
    picture = next((root / "images/validation").iterdir())
    assert_succeeded(warm("predict", "run/last", picture, cwd=tmp_path))
    assert np.array(Image.open(tmp_path / f"predictions/{picture.name}")).shape == (48, 64)
    (again,) = metrics(tmp_path / "run", "eval")
    assert_succeeded(warm("evaluate", "run/last", "--dataset", f"folder:root={root}", cwd=tmp_path))
    told = json.loads((tmp_path / "run/last/evaluation/evaluation.json").read_text())
    assert told["scores"]["mean_iou"] == again["mean_iou"]


def test_four_channels_are_not_made_of_three(warm: Warm, data: Path, tmp_path: Path) -> None:
    given = (*STEP, *MOBILENET, "--dataset", f"folder:root={data}", "--num-channels", "4")
    done = warm(*given, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(
        r"train\d\.png: the image has 3 channels \(mode RGB\); --num-channels 4 requires four\. "
        r"To skip up to N such files, add --skip-unreadable N\.\n",
        done.stderr,
    )


@pytest.mark.slow
def test_a_loss_beside_a_networks_own_is_refused(warm: Warm, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="mask classification needs the extra `mask`")
    given = (*STEP, "--arch", "maskformer:variant=tiny", "--weights", "none")
    assert_refused(
        warm(*given, "--dataset", f"folder:root={data}", "--loss", "dice", cwd=tmp_path),
        "--loss: maskformer brings its own loss (class, mask, dice); leave this out.",
    )
    done = assert_succeeded(warm(*given, "--dataset", f"folder:root={data}", cwd=tmp_path))
    assert set(metrics(tmp_path / "run", "train")[0]["losses"]) == {"class", "mask", "dice"}
    assert "maskformer:variant=tiny: " in done.stdout
    assert config(tmp_path / "run")["loss"] == ["none"]
    shutil.rmtree(tmp_path / "run/last")
    assert_succeeded(warm("--resume", "run", "--max-steps", "2", cwd=tmp_path))


def test_a_network_without_a_loss_of_its_own_needs_one(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    given = (*STEP, *MOBILENET, "--dataset", f"folder:root={data}", "--loss", "none")
    assert_refused(warm(*given, cwd=tmp_path), "--loss: at least one loss is needed.")


def test_a_protocol_for_training_is_stored_with_the_scores(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    given = (*STEP, *MOBILENET, "--dataset", f"folder:root={data}")
    protocol = ("--protocol", "slide:crop=32,stride=20")
    done = assert_succeeded(warm(*given, *protocol, "--channels-last", cwd=tmp_path))
    assert "protocol slide:crop=32,stride=20, float32" in done.stdout
    side = json.loads((tmp_path / "run/best/segacc.json").read_text())
    assert side["protocol"] == "slide:crop=32,stride=20"
    assert_refused(
        warm(*given, "--protocol", "slid", "--overwrite", cwd=tmp_path),
        '--protocol: unknown protocol "slid". Did you mean "slide"? Known: whole, slide, '
        "tta, mmseg-ade20k, mmseg-cityscapes, voc.",
    )
