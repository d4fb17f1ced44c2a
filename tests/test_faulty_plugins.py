"""Plugins that keep their promises badly: a real run says whose fault it is, and does not go on."""

import re
import sys
from pathlib import Path

import pytest

from cli_tools import TINY, Warm, assert_refused
from plugin_tools import pip_install, write_distribution

pytest_plugins = ["cli_fixtures"]
pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="plugins of a test need a fork")

SOURCE = """
from dataclasses import dataclass

import segacc


@dataclass(frozen=True, kw_only=True)
class Options:
    case: str = ""


class Batched:
    def draw(self, image, label):
        import torch

        return torch.zeros(1)

    def __call__(self, images, labels, drawn):
        return images / 255, labels


def augmentation(options, facts):
    changes = {
        "worker": lambda image, label: (image / 255, label),
        "device": lambda image, label: (image[:, 8:], label[8:]),
        "batch": Batched(),
    }
    return changes[options.case]


def network(options, facts):
    from torch import nn

    from segacc.model import Logits, SegmentationModel

    class Network(SegmentationModel):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(3, facts.num_classes + (options.case == "more"), 1)

        def forward(self, images):
            found = self.head(images)
            return found if options.case == "bare" else Logits(found)

    return Network()


@segacc.hookimpl
def segacc_architectures():
    yield segacc.Architecture(
        name="odd",
        summary="Faults.",
        options=Options,
        build=network,
        default_weights=lambda options: None,
        tiny=Options,
    )


@segacc.hookimpl
def segacc_augmentations():
    yield segacc.Augmentation(
        name="faded",
        summary="Faults.",
        options=Options,
        build=augmentation,
        on=lambda options: options.case,
    )
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faulty")
    return pip_install(folder / "site", write_distribution(folder, "segacc-faulty", SOURCE))


FAULT = "That is a fault of its plugin."


@pytest.mark.parametrize(
    ("case", "text"),
    [
        (
            "worker",
            "(float32 (3, 64, 64), uint8 (64, 64)); expected is an image of uint8 in 0..255, "
            "(3, H, W), and its label of uint8, (H, W). ",
        ),
        (
            "device",
            "(uint8 (3, 56, 64), uint8 (56, 64)); expected is an image of uint8 in 0..255, "
            "(3, 64, 64), and its label of uint8, (64, 64). ",
        ),
        (
            "batch",
            "images whose values are 0.0# to 0.#; expected are values in 0..255, as it was given. ",
        ),
    ],
)
def test_an_augmentation_is_named(
    warm: Warm, data: Path, faulty: Path, tmp_path: Path, case: str, text: str
) -> None:
    more = ("--aug", "random_scale_crop", "--aug", f"faded:case={case}")
    given = ("--dataset", f"folder:root={data}", "--output-dir", "run", *more)
    done = warm(*TINY, *given, cwd=tmp_path, site=faulty)
    found = re.sub(r"0\.0\d+ to 0\.\d+", "0.0# to 0.#", done.stderr)
    assert found == f"segacc: --aug faded: the augmentation returned {text}{FAULT}\n"
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("case", "text"),
    [
        (
            "more",
            "network's logits of 2 images are float32 (2, 4, 64, 64); expected is a tensor of a "
            "floating dtype, (2, 3, h, w): a channel for each class, and none for the ignored "
            "pixels.",
        ),
        (
            "bare",
            "network returns Tensor; expected is segacc.model.Logits, as Logits(tensor).",
        ),
    ],
)
def test_a_network_is_named(
    warm: Warm, data: Path, faulty: Path, tmp_path: Path, case: str, text: str
) -> None:
    given = ("--dataset", f"folder:root={data}", "--output-dir", "run", *TINY[2:])
    done = warm("--arch", f"odd:case={case}", *given, cwd=tmp_path, site=faulty)
    assert_refused(done, f"--arch odd: the {text}")
    assert not (tmp_path / "run").exists()
