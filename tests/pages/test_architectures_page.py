"""docs/architectures.md is what `segacc plugins --markdown` prints."""

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from launches import ROOT
from segacc.commands.plugins.datasheet import datasheet, markdown
from segacc.registry import Offer, load_registry

PAGE = ROOT / "docs" / "architectures.md"


def typed(name: str, variants: Sequence[str]) -> list[str]:
    return [f"{name}:{one}".strip(":") for one in variants]


@pytest.mark.slow
def test_the_page_is_what_the_command_prints() -> None:
    """The first variant of each architecture, and the names of all."""
    pytest.importorskip("scipy", reason="mask classification needs the extra `mask`")
    registry, names, offers = load_registry(), list[str](), list[Offer]()
    for offer in registry.of_kind("architecture"):
        record = offer.record
        names += typed(record.name, record.variants)
        offers.append(replace(offer, record=replace(record, variants=record.variants[:1])))
    lines = PAGE.read_text().splitlines()
    rows = {line.split("`")[1]: line for line in lines[12:] if line.count("|") == 10}
    assert list(rows) == names
    computed = [name for one in offers for name in typed(one.record.name, one.record.variants)]
    left = [rows[name] for name in names if name not in computed]
    printed = list(markdown(replace(registry, offers=offers)))
    assert printed == [line for line in lines if line not in left]


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
        "default weights": "google/mobilenet_v2_1.0_224 (not named: the model card says `other`)",
    }
