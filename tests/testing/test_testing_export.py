"""Every architecture is exported, or says why not."""

import pytest
import torch

from broken_networks import Right, architecture
from network_tools import records
from refusals import assert_refuses
from segacc.model import Logits
from segacc.testing import check_export

ONNX = ("linear", "mobilenet_v2")
"""Architectures whose ONNX file is tested; for the others what torch.export traces for pt2."""
SAVED = ("deeplabv3", "beit", "upernet")
"""Those whose pt2 file is tested, whose loading takes as long as the rest."""

LATER = ("maskformer", "mobilevitv2", "oneformer")
"""Those that are traced by `make test-hosts` only: mask2former and mobilevit are much like them."""


class Fixes(Right):
    """Its output has the size of the images that were traced, for larger ones too."""

    def forward(self, images: torch.Tensor) -> Logits:
        logits = super().forward(images).main
        height, width = (int(side) for side in logits.shape[-2:])
        return Logits(torch.nn.functional.interpolate(logits, size=(height, width)))


class Crooked(Right):
    """torch traces something else than what it computes."""

    def forward(self, images: torch.Tensor) -> Logits:
        logits = super().forward(images).main
        return Logits(-logits if torch.compiler.is_exporting() else logits)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.hosts] if name in LATER else [])
        for name in sorted(records())
    ],
)
def test_all_architectures(name: str) -> None:
    given = {"format": "onnx"} if name in ONNX else {"format": "pt2", "saved": name in SAVED}
    check_export(records()[name], declared=False, **given)


@pytest.mark.hosts
def test_declarations_are_needed() -> None:
    check_export(records()["mobilenet_v2"], format="pt2")


@pytest.mark.slow
def test_the_kit_finds_wrong_files() -> None:
    check_export(architecture(Fixes, one_size="it computes sizes in Python"), format="pt2")
    assert_refuses(
        "architecture net: expected the network to be exported; found OptionError: ...network.pt2: "
        "was not traced for images of 64x64: Guard failed: ...",
        check_export,
        architecture(Fixes),
        format="pt2",
    )
    assert_refuses(
        "architecture net: expected no file for images of all sizes, as one_size says (it may "
        "not); found one that passes.",
        check_export,
        architecture(Right, one_size="it may not"),
        format="pt2",
    )
    assert_refuses(
        "architecture net: expected no file, as no_export says (it may not); found one that "
        "passes.",
        check_export,
        architecture(Right, no_export="it may not"),
        format="pt2",
    )
    assert_refuses(
        "architecture net: expected a file that predicts what the network does; found # % of the "
        "pixels are equal, not 99.9. The worst image is ... (...). Likely reason: an operation of "
        "the network is converted wrongly.",
        check_export,
        architecture(Crooked),
        format="pt2",
    )
