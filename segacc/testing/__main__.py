"""`python -m segacc.testing PACKAGE`: run the conformance tests on all components of a plugin."""

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from segacc.data.samples import build_splits
from segacc.errors import OptionError, PluginError, SegaccError, first_of, reason_of
from segacc.registry import Offer, Registry, choose, entry_points_of
from segacc.settings.options import describe, parse_component
from segacc.testing import (
    check_architecture,
    check_augmentation,
    check_dataset,
    check_import,
    check_loss,
    check_metric,
    registry_of,
)

PARSER = argparse.ArgumentParser(
    prog="python -m segacc.testing",
    description="Run the conformance tests of segacc on a plugin. Exit code 1: a test failed; "
    "2: the plugin or a component was not found.",
)
PARSER.add_argument(
    "package", metavar="PACKAGE", help="the distribution of an installed plugin, or a module"
)
PARSER.add_argument(
    "components",
    metavar="NAME:KEY=VALUE,...",
    nargs="*",
    help="a component and its options; by default all components with default options",
)
PARSER.add_argument(
    "--processes",
    type=int,
    default=1,
    metavar="N",
    help="with 2 or more, architectures and metrics are also tested on N processes",
)
CHECKS: Mapping[str, Callable[..., None]] = {
    "architecture": check_architecture,
    "augmentation": check_augmentation,
    "dataset": check_dataset,
    "loss": check_loss,
    "metric": check_metric,
}


def main(arguments: Sequence[str]) -> int:
    """Test a plugin, print a line for each component, and return the exit code."""
    given = PARSER.parse_intermixed_args(arguments)
    try:
        modules = modules_of(given.package)
        passed = [attempted(f"import of {name}", partial(check_import, name)) for name in modules]
        if not all(passed):  # nothing else can be tested if it fails
            return 1
        registry = registry_of(*map(importlib.import_module, modules))
        tests = list(chosen_tests(registry, given.components, given.processes))
    except PluginError as error:
        say(f"FAILED  {given.package}", str(error))
        return 1
    except SegaccError as error:
        sys.stderr.write(f"segacc.testing: {error}\n")
        return 2
    return int(not all([attempted(name, test) for name, test in tests]))


def modules_of(package: str) -> list[str]:
    """Return the modules of an installed plugin, or the module itself.

    Raises:
        OptionError: there is neither.
    """
    if points := entry_points_of(package):
        return [point.module for point in points]
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise OptionError(
            f"{package} is neither an installed distribution with plugins for segacc nor a module. "
            "Install the plugin, for example with pip install -e FOLDER."
        )
    return [package]


def chosen_tests(
    registry: Registry, given: Sequence[str], processes: int
) -> Iterator[tuple[str, Callable[[], None] | str]]:
    """Yield each component's kind and name, and its test, or why it cannot be tested.

    Raises:
        OptionError: the plugin has no component of a given name, or an option is wrong.
    """
    offers = [offer for offer in registry.offers if not offer.built_in]
    if not given:
        for offer in offers:
            yield f"{offer.kind} {offer.record.name}", test_of(registry, offer, {}, processes)
    for text in given:
        component = parse_component(text, text)
        named = [one for one in offers if one.record.name == component.name]
        if not named:
            names = ", ".join(one.record.name for one in offers)
            raise OptionError(f"the plugin has no component {component.name}. It has {names}.")
        for offer in named:
            test = test_of(registry, offer, component.values, processes)
            yield f"{offer.kind} {text}", test


def test_of(
    registry: Registry, offer: Offer, values: Mapping[str, Any], processes: int
) -> Callable[[], None] | str:
    """Return the test of a component, or why it cannot be tested.

    Raises:
        OptionError: an option is wrong.
    """
    more = {"processes": processes} if offer.kind in ("architecture", "metric") else {}
    check = partial(CHECKS[offer.kind], offer.record, **more)
    if offer.kind == "architecture" and not values:
        return check
    required = [one.name for one in describe(offer.record.options) if one.default == "required"]
    if required and not values:
        name = offer.record.name
        return f"give {first_of(required, 4)}, as in {name}:{required[0]}=..."
    chosen = choose(registry, offer.kind, {"name": offer.full_name, **values}, offer.kind)
    if offer.kind == "dataset":
        check = partial(check, parts=tuple(map(build_splits, chosen.parts)))
    return partial(check, chosen.options)


def attempted(name: str, test: Callable[[], None] | str) -> bool:
    """Run a test and print its result; return False if it failed."""
    if isinstance(test, str):
        say(f"skipped {name}", test)
        return True
    start = time.perf_counter()
    try:
        test()
    except AssertionError as error:
        say(f"FAILED  {name}", str(error))
    except Exception as error:  # a plugin's code may raise anything
        say(f"FAILED  {name}", reason_of(error))
    else:
        say(f"ok      {name} ({time.perf_counter() - start:.2f} s)")
        return True
    return False


def say(line: str, paragraph: str = "") -> None:
    """Print a line, and a paragraph below it."""
    sys.stdout.write(f"{line}\n" + (f"        {paragraph}\n" if paragraph else ""))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
