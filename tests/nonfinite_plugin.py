"""A plugin whose network and loss are not finite on certain images, as a user might meet them.

`install` puts it into a folder as pip would; on the path, segacc finds it by its entry point.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import segacc
from cli_tools import draw, write_data
from refusals import NoOptions
from segacc.contracts import Facts
from segacc.hookspecs import Architecture, Loss


def build_network(options: NoOptions, facts: Facts) -> Any:
    """Build a network that divides by the spread of each image: 0 / 0 where that has one colour."""
    from torch import Tensor, nn

    from segacc.model import Logits, SegmentationModel

    class Network(SegmentationModel):
        head_prefixes = ("head.",)

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
            self.head = nn.Conv2d(6, facts.num_classes, 1)

        def forward(self, images: Tensor) -> Logits:
            high, low = images.amax((2, 3), keepdim=True), images.amin((2, 3), keepdim=True)
            return Logits(self.head(self.body((images - low) / (high - low))))

    return Network()


def build_loss(options: NoOptions, facts: Facts) -> Any:
    """Build a loss that is infinite, with a finite gradient, where class 1 is in the corner."""
    from torch.nn.functional import cross_entropy

    class Corner:
        def count(self, labels: Any) -> Any:
            return (labels != 255).sum().float()

        def sum(self, logits: Any, labels: Any) -> Any:
            plain = cross_entropy(logits, labels, ignore_index=255, reduction="sum")
            return plain + (float("inf") if (labels[:, 0, 0] == 1).any() else 0.0)

    return Corner()


@segacc.hookimpl
def segacc_architectures() -> list[Architecture]:
    """Offer `spread`."""
    record = Architecture(
        name="spread",
        summary="Divides by the spread of an image.",
        options=NoOptions,
        build=build_network,
        default_weights=lambda options: None,
        tiny=NoOptions,
    )
    return [record]


@segacc.hookimpl
def segacc_losses() -> list[Loss]:
    """Offer `corner`."""
    summary = "Infinite where class 1 is in the corner."
    return [Loss(name="corner", summary=summary, options=NoOptions, build=build_loss)]


def install(site: Path) -> Path:
    """Write this module, what it imports and its entry point into a folder."""
    here = Path(__file__).parent
    site.mkdir()
    for name in ("nonfinite_plugin.py", "cli_tools.py", "refusals.py"):
        shutil.copy(here / name, site / name)
    info = site / "segacc_nonfinite-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: segacc-nonfinite\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[segacc]\nmain = nonfinite_plugin\n")
    return site


def write_bad_data(root: Path) -> Path:
    """Write six training images, of which `train2` has one colour and `train4` a bad corner."""
    write_data(root, counts={"train": 6, "validation": 1})
    Image.new("RGB", (64, 48), (90, 90, 90)).save(root / "images" / "train" / "train2.png")
    for number in range(6):
        _, label = draw((len("train"), number), (48, 64))
        label[0, 0] = np.uint8(number == 4)
        Image.fromarray(label).save(root / "annotations" / "train" / f"train{number}.png")
    return root
