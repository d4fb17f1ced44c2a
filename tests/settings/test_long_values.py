"""A value of thousands of characters is one paragraph that shows only its beginning."""

from dataclasses import fields

import pytest

from segacc.errors import SegaccError
from segacc.registry import load_registry
from segacc.settings.config import TrainConfig
from segacc.settings.sources import Layer
from segacc.training.plan import make_plan

LONG = "y" * 5000
SHAPES = {
    "text": LONG,
    "option": f"segformer:variant={LONG}",
    "unknown option": f"folder:root=data,{LONG}=1",
    "loss": f"cross_entropy:weight={LONG}",
    "path": f"hub:path={LONG}",
    "number": f"1{LONG}",
    "list": [LONG] * 30,
    "mapping": {"name": LONG},
    "key": {LONG: 1},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_long_values_are_cut(shape: str) -> None:
    registry, refused = load_registry(), 0
    for name in (one.name for one in fields(TrainConfig)):
        if name == "output_dir":
            continue
        try:
            make_plan([Layer({name: SHAPES[shape]}, "command line")], registry)
        except SegaccError as error:
            assert len(str(error)) < 1500 and "\n" not in str(error), f"{name}: {error}"
            refused += 1
    assert refused > 40, "most settings take other values"
