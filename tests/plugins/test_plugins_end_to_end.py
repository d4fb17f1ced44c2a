"""Strangers' plugins, installed by pip: one that trains end to end, and broken ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tools import Done, Warm, assert_succeeded, metrics, segacc
from plugin_tools import EXAMPLE, pip_install, write_distribution

pytest_plugins = ["cli_fixtures"]

SMALL = (
    *("--dataset", "shapes:num_images=8", "--crop-size", "32", "--num-workers", "0"),
    *("--max-steps", "2", "--batch-size", "2", "--log-every", "1"),
)
ALL_KINDS = (
    *("--arch", "unet_small:width=4,depth=2", "--weights", "none", "--aug", "quarter_turn"),
    *("--loss", "cross_entropy", "--loss", "soft_dice:weight=0.5"),
    *("--metric", "mean_iou", "--metric", "pixel_counts"),
)

BROKEN = {
    "segacc-gone": "import a_package_that_is_not_there",
    "segacc-misspelt": """
import segacc
@segacc.hookimpl
def segacc_architecture():
    return []
""",
    "segacc-arguments": """
import segacc
@segacc.hookimpl
def segacc_losses(config):
    return []
""",
    "segacc-walk": """
import segacc
@segacc.hookimpl
def segacc_metrics():
    yield from []
    raise ValueError("met [while] walking\\nover two lines")
""",
    "segacc-quits": "raise SystemExit('bye')",
    "segacc-empty": "import segacc",
}
REASONS = {
    "segacc-gone": "ModuleNotFoundError: No module named 'a_package_that_is_not_there'",
    "segacc-misspelt": "PluginValidationError: ",
    "segacc-arguments": "PluginValidationError: ",
    "segacc-walk": "ValueError: met [while] walking over two lines",
    "segacc-quits": "SystemExit: bye",
    "segacc-empty": "PluginError: it offers no component: ",
}

NARROW = """
from dataclasses import dataclass
import segacc

@dataclass(frozen=True)
class Options:
    pass

def build(options, facts):
    from torch import nn
    from segacc.model import Logits, SegmentationModel, SizeRule

    class Narrow(SegmentationModel):
        size_rule = SizeRule(multiple=32)
        min_batch_size = 2

        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, facts.num_classes, 1)

        def forward(self, images):
            return Logits(self.layer(images))

    return Narrow()

@segacc.hookimpl
def segacc_architectures():
    return [
        segacc.Architecture(
            name=NAME, summary="takes multiples of 32", options=Options, build=build,
            default_weights=lambda options: None, tiny=Options,
        )
    ]
"""


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example plugin."""
    return pip_install(tmp_path_factory.mktemp("example") / "site", EXAMPLE)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example plugin among distributions that are broken, each in its own way."""
    folder = tmp_path_factory.mktemp("broken")
    sources = [write_distribution(folder, name, text) for name, text in BROKEN.items()]
    return pip_install(folder / "site", EXAMPLE, *sources)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install two plugins that offer architectures of one name, and of a built-in's name."""
    folder = tmp_path_factory.mktemp("narrow")
    sources = [
        write_distribution(folder, "segacc-one", NARROW.replace("NAME", '"narrow"')),
        write_distribution(folder, "segacc-two", NARROW.replace("NAME", '"narrow"')),
        write_distribution(folder, "segacc-three", NARROW.replace("NAME", '"segformer"')),
    ]
    return pip_install(folder / "site", *sources)


TAKEN = (
    'warning: plugin segacc-three 1.0 offers the architecture "segformer", which is the name of a '
    "built-in one; write segacc-three/segformer for the plugin's.\n"
)


def run(site: Path, *arguments: object, cwd: Path, **more: str) -> Done:
    return segacc(*arguments, cwd=cwd, PYTHONPATH=str(site), **more)


@pytest.mark.slow
def test_a_plugin_of_every_kind_trains_scores_and_predicts(
    warm: Warm, example: Path, tmp_path: Path
) -> None:
    done = assert_succeeded(run(example, *ALL_KINDS, *SMALL, "--output-dir", "run", cwd=tmp_path))
    assert done.stderr == ""
    assert done.stdout.startswith("unet_small:width=4,depth=2: ")
    folder = tmp_path / "run"
    for row in metrics(folder, "train"):
        assert row["loss"] == pytest.approx(sum(row["losses"].values()))
        assert set(row["losses"]) == {"cross_entropy", "soft_dice"}
    last = metrics(folder, "eval")[-1]
    assert sum(last["labelled_pixels"].values()) == 2 * 64 * 64
    assert "area_error" in last and "mean_iou" in last

    step = json.loads((folder / "best" / "segacc.json").read_text())["step"]
    [best] = [row for row in metrics(folder, "eval") if row["step"] == step]
    given = ("--dataset", "shapes:num_images=8", "--metric", "pixel_counts", "--num-workers", "0")
    assert_succeeded(warm("evaluate", "run/best", *given, cwd=tmp_path, site=example))
    scores = json.loads((folder / "best/evaluation/evaluation.json").read_text())["scores"]
    assert set(scores) == {"area_error", "labelled_pixels", "predicted_pixels"}
    assert scores == {key: best[key] for key in scores}

    noise = np.random.default_rng(0).integers(0, 255, (37, 53, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert_succeeded(warm("predict", "run/best", "noise.png", cwd=tmp_path, site=example))
    assert Image.open(tmp_path / "predictions" / "noise.png").size == (53, 37)

    absent = warm("predict", "run/best", "noise.png", cwd=tmp_path)
    assert absent.returncode == 2
    assert absent.stderr == (
        'segacc: run/best: the network is the architecture "unet_small" of the plugin '
        "segacc-example 1.2.3, which is not installed. Install it: pip install "
        "segacc-example==1.2.3.\n"
    )
    given = ("--weights", "run/best", "--dataset", "nuclei")
    absent = warm(*given, cwd=tmp_path)
    assert absent.returncode == 2
    assert absent.stderr.startswith("segacc: --weights: run/best: the network is the architecture ")


def test_the_example_is_listed_with_its_distribution(example: Path, tmp_path: Path) -> None:
    content = json.loads(assert_succeeded(run(example, "plugins", "--json", cwd=tmp_path)).stdout)
    strangers = {
        part["name"]: part["kind"]
        for part in content["components"]
        if part["distribution"] == "segacc-example"
    }
    assert strangers == {
        "unet_small": "architecture",
        "shapes": "dataset",
        "quarter_turn": "augmentation",
        "soft_dice": "loss",
        "pixel_counts": "metric",
    }
    done = assert_succeeded(run(example, "plugins", "segacc-example/soft_dice", cwd=tmp_path))
    assert done.stdout.startswith("loss segacc-example/soft_dice: 1 - soft Dice")
    assert "number > 0" in done.stdout and "Factor of this term" in done.stdout
    done = run(example, "plugins", "pixel_counts", cwd=tmp_path)
    assert assert_succeeded(done).stdout.splitlines()[1:] == ["It has no options."]


def test_plugins_are_loaded_only_when_allowed(example: Path, tmp_path: Path) -> None:
    done = run(example, "--arch", "unet_small", cwd=tmp_path, SEGACC_LOAD_PLUGINS="")
    assert done.returncode == 2
    known, _, rest = done.stderr.partition("Known: ")
    assert known.startswith('segacc: --arch: unknown architecture "unet_small". ')
    assert "segformer" in rest and "unet_small" not in rest


@pytest.mark.slow
def test_broken_plugins_stop_no_run_that_does_not_need_them(
    warm: Warm, broken: Path, tmp_path: Path
) -> None:
    done = assert_succeeded(warm(*ALL_KINDS, *SMALL, cwd=tmp_path, site=broken))
    assert "finished at step 2/2" in done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == len(BROKEN), "one line for each"
    for line, name in zip(lines, sorted(BROKEN), strict=True):
        assert line.startswith(f"warning: plugin {name} 1.0 (main) was not loaded: {REASONS[name]}")


def test_a_name_that_is_not_found_repeats_what_is_broken(broken: Path, tmp_path: Path) -> None:
    done = run(broken, "--loss", "hinge", cwd=tmp_path)
    assert done.returncode == 2
    [*warnings, error] = done.stderr.splitlines()
    assert len(warnings) == len(BROKEN)
    assert error.startswith(
        'segacc: --loss: unknown loss "hinge". Known: bce, boundary, cross_entropy, dice, focal, '
        "jaccard, lovasz, ohem, tversky, soft_dice. Note: "
    )
    for name, reason in REASONS.items():
        assert f"plugin {name} 1.0 (main) was not loaded: {reason}" in error


@pytest.mark.slow
def test_plugins_shows_what_is_broken_and_exits_with_1(broken: Path, tmp_path: Path) -> None:
    done = run(broken, "plugins", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    told = [line for line in done.stdout.splitlines() if line.startswith("BROKEN")]
    assert len(told) == len(BROKEN)
    assert "unet_small" in done.stdout
    assert any("ValueError: met [while] walking over two lines" in line for line in told)
    done = run(broken, "plugins", "--json", cwd=tmp_path)
    assert done.returncode == 1
    failures = json.loads(done.stdout)["failures"]
    assert [failure.split()[1] for failure in failures] == sorted(BROKEN)
    assert run(broken, "plugins", "soft_dice", cwd=tmp_path).returncode == 1


def test_a_crop_or_batch_that_a_network_cannot_take_is_refused(
    warm: Warm, narrow: Path, tmp_path: Path
) -> None:
    flags = ("--arch", "segacc-one/narrow", "--dataset", "nuclei", "--max-steps", "1")
    done = warm(*flags, "--crop-size", "64x40", cwd=tmp_path, site=narrow)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        f"{TAKEN}segacc: --crop-size: 64x40: the architecture supports only multiples of 32 "
        "pixels; 64x32 fits.\n",
    )
    batch = ("--crop-size", "64", "--batch-size", "1")
    done = warm(*flags, *batch, cwd=tmp_path, site=narrow)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"{TAKEN}segacc: --batch-size: 1: the architecture needs at least 2 images"
    )
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.slow
def test_one_name_of_two_strangers_must_be_told_apart(narrow: Path, tmp_path: Path) -> None:
    done = run(narrow, "--arch", "narrow", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        f'{TAKEN}segacc: --arch: two plugins offer the architecture "narrow"; write '
        "segacc-one/narrow or segacc-two/narrow.\n"
    )
    done = run(narrow, "plugins", "segformer", cwd=tmp_path)
    heads = [line.split(":")[0] for line in done.stdout.splitlines() if ": " in line[:40]]
    assert {"architecture segacc/segformer", "architecture segacc-three/segformer"} <= set(heads)
    done = run(narrow, "--arch", "segformer:variant=b9", cwd=tmp_path)
    assert "expected one of b0, b1" in done.stderr, "a built-in keeps its plain name"
