"""The conformance kit: every built-in component passes it, and so does the example plugin."""

import random
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from PIL import Image

from cli_tools import environment
from launches import ROOT
from segacc.errors import PluginError
from segacc.hookspecs import LossOptions, hookimpl
from segacc.plugins.datasets.folder import FolderOptions
from segacc.registry import KINDS
from segacc.testing import (
    check_architecture,
    check_augmentation,
    check_dataset,
    check_loss,
    check_metric,
    registry_of,
)

BUILT_IN = {
    kind: {one.record.name: one.record for one in registry_of().of_kind(kind)} for kind in KINDS
}


QUICK = ("segformer", "mask2former", "upernet", "deeplabv3")
"""Architectures whose step on two processes is compared by `make test`, too."""


@pytest.fixture
def example(example_plugin: ModuleType) -> Any:
    """Finds the example plugin's records."""
    registry = registry_of(example_plugin)
    return lambda kind, name: registry.find(kind, name, "test")


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN["architecture"])
def test_built_in_architectures(name: str) -> None:
    check_architecture(BUILT_IN["architecture"][name])


@pytest.mark.launch
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in BUILT_IN["architecture"]
    ],
)
def test_built_in_architectures_on_two_processes(name: str) -> None:
    from segacc.testing.architecture import check_processes
    from segacc.testing.network import subject_of

    record = BUILT_IN["architecture"][name]
    check_processes(subject_of(record, record.tiny()), 2)


NEEDED = {
    "resize": {"size": (40, 56)},
    "v2": {"transform": "RandomPerspective"},
    "torchmetrics": {"metric": "JaccardIndex"},
}
"""Options of components that have no default."""


@pytest.mark.parametrize("name", BUILT_IN["augmentation"])
def test_built_in_augmentations(name: str) -> None:
    record = BUILT_IN["augmentation"][name]
    options = record.options(**NEEDED[name]) if name in NEEDED else None
    check_augmentation(record, options, num_channels=(1, 3, 4))


@pytest.mark.parametrize("name", BUILT_IN["loss"])
def test_built_in_losses(name: str) -> None:
    check_loss(BUILT_IN["loss"][name], num_classes=2 if name == "bce" else 4)


@pytest.mark.parametrize("name", sorted({*BUILT_IN["metric"]} - {"evaluate"}))  # it has a file
def test_built_in_metrics(name: str) -> None:
    record = BUILT_IN["metric"][name]
    options = record.options(**NEEDED[name]) if name in NEEDED else None
    check_metric(record, options, num_classes=2 if name == "binary" else 4)


@pytest.mark.launch
@pytest.mark.parametrize("name", ["binary", "boundary_iou", "calibration", "dice"])
def test_built_in_metrics_on_several_processes(name: str) -> None:
    check_metric(BUILT_IN["metric"][name], num_classes=2, processes=3)


@pytest.mark.parametrize("name", ["folder", "nuclei"])  # the others: tests/test_dataset*.py
def test_built_in_datasets(name: str, tmp_path: Path) -> None:
    options = FolderOptions(root=folder(tmp_path)) if name == "folder" else None
    check_dataset(BUILT_IN["dataset"][name], options)


def folder(root: Path) -> Path:
    """Write a data set of three pictures."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            pixels = noise.integers(0, 255, (40, 56, 3), np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"{number}.jpg")
            label = noise.integers(0, 2, (40, 56), np.uint8)
            Image.fromarray(label).save(root / "annotations" / split / f"{number}.png")
    (root / "classes.txt").write_text("no\nyes\n")
    return root


# ---------------------------------------------------------------------------- the example plugin


def test_the_example_architecture(example: Any, example_plugin: ModuleType) -> None:
    check_architecture(example("architecture", "unet_small"), example_plugin.UNetOptions(width=2))


@pytest.mark.slow
@pytest.mark.launch
def test_the_example_architecture_on_two_processes(example: Any) -> None:
    check_architecture(example("architecture", "unet_small"), processes=2)


def test_the_other_examples(example: Any) -> None:
    check_augmentation(example("augmentation", "quarter_turn"))
    check_loss(example("loss", "soft_dice"))
    check_loss(example("loss", "soft_dice"), LossOptions(weight=0.3))
    check_metric(example("metric", "pixel_counts"))
    check_dataset(example("dataset", "shapes"), num_samples=3)


# --------------------------------------------------------------------- what it leaves as it was


def test_random_numbers_and_accelerate_stay_as_they_were(example: Any) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    shared = dict(AcceleratorState._shared_state), dict(PartialState._shared_state)
    check_architecture(example("architecture", "unet_small"))
    check_loss(example("loss", "soft_dice"))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert (AcceleratorState._shared_state, PartialState._shared_state) == shared


@pytest.mark.slow
def test_the_kit_needs_no_pytest() -> None:
    code = "import sys, segacc.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment(), cwd=ROOT).returncode == 0


# ------------------------------------------------------------------------------------ registries


def test_a_registry_of_modules_and_objects(example_plugin: ModuleType) -> None:
    class Plugin:
        @hookimpl
        def segacc_losses(self) -> Any:
            return list(example_plugin.segacc_losses())

    registry = registry_of(example_plugin)
    assert registry.find("loss", "soft_dice", "test").name == "soft_dice"
    assert registry.find("architecture", "segformer", "test").name == "segformer"
    assert [one.full_name for one in registry.of_kind("metric")][
        -1
    ] == "segacc-example/pixel_counts"
    assert [one.full_name for one in registry_of(Plugin()).of_kind("loss")][
        -1
    ] == "Plugin/soft_dice"
    assert not registry.failures


def test_a_module_without_hooks_is_no_plugin() -> None:
    with pytest.raises(PluginError) as error:
        registry_of(SimpleNamespace(__name__="empty"))
    assert str(error.value).startswith(
        "it offers no component: it needs a function marked @segacc.hookimpl"
    )


# --------------------------------------------------------------------------------- CONTRIBUTING.md


@pytest.mark.slow
def test_the_code_in_contributing_runs(example_plugin: ModuleType, tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(
        r"^```python\n(.*?segacc\.testing.*?)^```$", text, re.DOTALL | re.MULTILINE
    )
    path = tmp_path / "test_of_the_plugin.py"
    path.write_text(code, encoding="utf-8")
    module: dict[str, Any] = {}
    exec(compile(code, path, "exec"), module)
    tests = [function for name, function in module.items() if name.startswith("test_")]
    assert len(tests) >= 2
    for test in tests:
        test()
