"""docs/architectures.md is what `segacc plugins --markdown` prints."""

import re

import pytest

from launches import ROOT
from segacc.commands.plugins.datasheet import datasheet, markdown
from segacc.registry import load_registry

PAGE = ROOT / "docs" / "architectures.md"


@pytest.mark.slow
def test_the_page_is_what_the_command_prints() -> None:
    pytest.importorskip("scipy", reason="mask classification needs the extra `mask`")
    assert PAGE.read_text().splitlines() == list(markdown(load_registry()))


def test_the_page_names_every_built_in_architecture() -> None:
    rows = re.findall(r"^\| `(\w+)", PAGE.read_text(), flags=re.MULTILINE)
    built_in = [one for one in load_registry().of_kind("architecture") if one.built_in]
    assert {one.record.name for one in built_in} <= set(rows)


def test_a_datasheet_tells_what_a_loop_must_know() -> None:
    sheet = datasheet(
        load_registry().find("architecture", "mobilenet_v2", "test"), "output_stride=8"
    )
    assert sheet.typed == "mobilenet_v2:output_stride=8"
    assert dict(sheet.facts()) == {
        "parameters": "2.56 million, head for 150 classes",
        "logits": "1/8 of the image's height and width",
        "image size": "any",
        "smallest batch": "2 images per process in training",
        "trained": "3 tensors get no gradient and are frozen",
        "gradient checkpointing": "no",
        "default weights": "google/mobilenet_v2_1.0_224",
    }
