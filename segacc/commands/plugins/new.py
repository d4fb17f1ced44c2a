"""`segacc plugins new NAME`: write a distribution with one architecture and its test."""

import re
from pathlib import Path

from segacc.data.atomic import writing
from segacc.errors import OptionError
from segacc.registry import Registry

FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "segacc-DASHED"
version = "0.1.0"
description = "The architecture NAME for segacc"
requires-python = ">=3.11"
dependencies = ["segacc"]

[project.optional-dependencies]
test = ["pytest"]

# segacc finds the plugin by this entry point.
[project.entry-points.segacc]
NAME = "segacc_NAME"
""",
    "segacc_NAME/__init__.py": '''\
"""The architecture NAME for segacc."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from segacc import Architecture, Facts, hookimpl


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `--arch NAME:width=64`."""

    width: Annotated[int, Ge(1)] = 32
    """Channels of the encoder's output."""


def build(options: Options, facts: Facts):
    """Build the network with random weights. Importing torch here keeps `segacc --help` fast."""
    from segacc_NAME.network import Network

    return Network(options.width, facts)


@hookimpl
def segacc_architectures():
    """Return the architectures of this plugin."""
    summary = "two strided convolutions and a linear classifier"
    return [Architecture(name="NAME", summary=summary, options=Options, build=build)]
''',
    "segacc_NAME/network.py": '''\
"""The network; replace it with your own."""

from segacc import Facts
from segacc.model import Logits, SegmentationModel
from torch import Tensor, nn


class Network(SegmentationModel):
    """Two strided convolutions and a linear classifier.

    Args:
        width: channels of the encoder's output.
        facts: facts of the run, such as the number of classes.
    """

    head_prefixes = ("head.",)
    """Name prefixes of the parameters that get the learning rate of the head."""

    def __init__(self, width: int, facts: Facts) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(facts.num_channels, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(width, facts.num_classes, 1)

    def forward(self, images: Tensor) -> Logits:
        """Map images (N, C, H, W) to logits (N, K, H / 4, W / 4), which segacc resizes."""
        return Logits(self.head(self.encoder(images)))
''',
    "tests/test_NAME.py": '''\
"""The architecture does what segacc expects: any size, gradients, saving, a step of training."""

import segacc_NAME
from segacc.testing import check_architecture, check_import, registry_of


def test_architecture() -> None:
    registry = registry_of(segacc_NAME)
    check_architecture(registry.find("architecture", "NAME", "this test"))


def test_the_import_is_fast() -> None:
    check_import("segacc_NAME")
''',
    "README.md": """\
# segacc-DASHED

The architecture `NAME` for [segacc](https://pypi.org/project/segacc/).

    pip install -e '.[test]'
    python -m pytest
    segacc plugins NAME
    segacc train --arch NAME:width=64
""",
}
"""The files by path. NAME is the given name, and DASHED the same with `-` for `_`."""


def write_plugin(name: str, registry: Registry, parent: Path) -> list[Path]:
    """Write the distribution `segacc-NAME` into a new folder.

    Args:
        name: name of the architecture.
        registry: the known components, whose names are taken.
        parent: the folder in which to create the new one.

    Returns:
        The new folder, then its files.

    Raises:
        OptionError: the name is invalid or taken, or the folder exists.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise OptionError(
            f'segacc plugins new: "{name}" is not a valid name: use lower-case letters, digits and '
            "_, starting with a letter, as in my_net."
        )
    if taken := [one for one in registry.of_kind("architecture") if one.record.name == name]:
        raise OptionError(
            f'segacc plugins new: the architecture "{name}" already exists, in '
            f"{taken[0].distribution}. Choose another name."
        )
    folder = parent / f"segacc-{name.replace('_', '-')}"
    if folder.exists():
        raise OptionError(f"segacc plugins new: {folder} already exists. Choose another name.")
    written = [folder]
    for path, text in FILES.items():
        file = folder / path.replace("NAME", name)
        text = text.replace("DASHED", name.replace("_", "-")).replace("NAME", name)
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        written.append(file)
    return written
