"""`segacc plugins`: list components and broken plugins, and show a component's options."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segacc.commands.plugins.new import write_plugin
from segacc.commands.terminal.console import PlainConsole, load_plugins, quiet_libraries
from segacc.contracts import VERSION
from segacc.errors import PluginError, cut, did_you_mean, reason_of
from segacc.evaluation import protocol_options
from segacc.hookspecs import COMMON, NoOptions
from segacc.registry import KINDS, Offer, Registry, load_registry
from segacc.settings.options import Listed, OptionDoc, describe
from segacc.training.optim import optimizers, schedule

LISTED = {
    "optimizer": optimizers.listed,
    "schedule": schedule.listed,
    "protocol": protocol_options.listed,
}
"""Kinds that plugins cannot add to; they are listed like those that plugins can."""
ALL_KINDS = (*KINDS, *LISTED)


def plugins_command(name: str | None, *, form: str) -> int:
    """List all components or those of a kind, or show one; return 1 if a plugin is broken."""
    registry, console = all_components(), PlainConsole(soft_wrap=True)
    offers = registry.offers if name is None else named(registry, name)
    if form == "markdown":
        quiet_libraries()
        from segacc.commands.plugins.datasheet import markdown

        for line in markdown(registry):
            console.out(line, highlight=False)
    elif form == "json":
        console.out(json.dumps(listing_json(registry, offers), indent=1), highlight=False)
    elif name is None or name in ALL_KINDS:
        print_listing(registry, console, ALL_KINDS if name is None else [name])
    else:
        for offer in offers:
            print_component(offer, console)
    return 1 if registry.failures else 0


def all_components() -> Registry:
    """Return the registry, with what plugins cannot add to as further kinds."""
    registry = load_registry()
    for kind, listed in LISTED.items():
        registry.offers += [Offer(kind, one, "segacc", VERSION) for one in listed()]
    return registry


def new_plugin_command(name: str) -> int:
    """Write the distribution of a new plugin into the working folder, and print the next steps."""
    folder, *files = write_plugin(name, load_plugins(), Path())
    for file in files:
        sys.stdout.write(f"{file}\n")
    sys.stdout.write(
        f"install it with   pip install -e {folder}\n"
        f"test it with      python -m pytest {folder}\n"
        f"train it with     segacc train --arch {name}\n"
    )
    return 0


def named(registry: Registry, name: str) -> list[Offer]:
    """Return the components called `name`, or those of the kind `name`.

    Raises:
        PluginError: the name is unknown.
    """
    if name in ALL_KINDS:
        return registry.of_kind(name)
    found = [offer for offer in registry.offers if name in (offer.record.name, offer.full_name)]
    if not found:
        known = sorted({*ALL_KINDS, *(offer.record.name for offer in registry.offers)})
        broken = "".join(f" Note: {failure.text()}." for failure in registry.failures)
        raise PluginError(
            f'unknown component "{cut(name)}". {did_you_mean(name, known)}'
            f"`python -m segacc plugins` lists all names.{broken}"
        )
    return found


def print_listing(registry: Registry, console: Console, kinds: Iterable[str]) -> None:
    """Print one table of the components of some kinds, then what is wrong with plugins."""
    rows = []
    for kind in kinds:
        for index, offer in enumerate(registry.of_kind(kind)):
            source = "built in" if offer.built_in else f"{offer.distribution} {offer.version}"
            rows.append(("" if index else kind, offer.record.name, source, offer.record.summary))
    _print_table(console, ("kind", "name", "from", "what it is"), rows)
    for failure in registry.failures:
        _say(console, f"BROKEN  {failure.text()}")
    for line in (*registry.clashes(), *registry.slow):
        _say(console, line)
    _say(console, "`segacc plugins NAME` shows the options of a component.")


def print_component(offer: Offer, console: Console) -> None:
    """Print the options of a component, and the facts of an architecture."""
    typed = offer.record.name if offer.kind in LISTED else offer.full_name
    _say(console, f"{offer.kind} {typed}: {offer.record.summary}")
    rows = [(o.name, o.type, default_of(o), o.doc) for o in options_of(offer)]
    if not rows:
        _say(console, "It has no options.")
        return
    _print_table(console, ("option", "type", "default", "what it does"), rows)
    if offer.kind == "architecture":
        print_datasheet(offer, console)


def print_datasheet(offer: Offer, console: Console) -> None:
    """Print the facts of an architecture from a dry run, or why it cannot be built."""
    quiet_libraries()
    from segacc.commands.plugins.datasheet import datasheet

    try:
        rows = datasheet(offer.record).facts()
    except ModuleNotFoundError as error:
        _say(console, f"It needs the package {error.name}, which is not installed.")
        return
    except Exception as error:  # a plugin's code may raise anything
        _say(console, f"It cannot be built with default options: {reason_of(error)}")
        return
    _print_table(console, ("with default options", ""), rows)


def options_of(offer: Offer) -> "Sequence[OptionDoc]":
    """List the options of a component, with those of every component of its kind."""
    if isinstance(offer.record, Listed):
        return offer.record.options
    own = describe(offer.record.options)
    common = describe(COMMON.get(offer.kind, NoOptions))
    return [*own, *(one for one in common if one.name not in {other.name for other in own})]


def default_of(option: OptionDoc) -> str:
    """Format a default as it is typed."""
    value = option.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and value:
        return ("x" if option.type.startswith("SIZE") else "/").join(map(str, value))
    return "-" if value in (None, ()) else str(value)


def _print_table(
    console: Console, headings: Sequence[str], rows: Sequence[tuple[str, ...]]
) -> None:
    """Print rows as a table; names are never wrapped, and brackets are not markup."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, no_wrap=index == 0 or heading == "name", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table, soft_wrap=False)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)


def listing_json(registry: Registry, offers: Iterable[Offer]) -> dict[str, Any]:
    """Return components with their options, and broken plugins."""
    return {
        "components": [
            {
                "kind": offer.kind,
                "name": offer.record.name,
                "distribution": offer.distribution,
                "version": offer.version,
                "summary": offer.record.summary,
                "options": [asdict(o) | {"default": str(o.default)} for o in options_of(offer)],
            }
            for offer in offers
        ],
        "failures": [failure.text() for failure in registry.failures],
    }
