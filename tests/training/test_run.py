"""Building a run: what only shows when the parts come together."""

import dataclasses
from pathlib import Path

import pytest

from segacc.errors import OptionError
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.training.plan import make_plan
from segacc.training.setup import build_run


def needy(options: object, facts: object) -> None:
    import a_package_that_nobody_has  # noqa: F401


def test_a_missing_package_of_an_architecture_is_named(tmp_path: Path) -> None:
    values = {"arch": "segformer:variant=tiny", "weights": "none", "output_dir": tmp_path / "run"}
    plan = make_plan([Layer(values, "command line")], load_registry())
    record = dataclasses.replace(plan.arch.record, build=needy)
    plan = dataclasses.replace(plan, arch=dataclasses.replace(plan.arch, record=record))
    with pytest.raises(OptionError) as error:
        build_run(plan)
    assert str(error.value) == (
        "--arch: segformer needs the package a_package_that_nobody_has; install it."
    )
    assert not (tmp_path / "run").exists()
