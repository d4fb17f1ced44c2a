"""`segacc plugins`: what can be named, where it comes from, and what is broken."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from segacc.errors import PluginError
from segacc.options import describe, did_you_mean
from segacc.registry import KINDS, Offer, Registry


def named(registry: Registry, name: str) -> list[Offer]:
    """Return the offers called `name`, of any kind.

    Raises:
        PluginError: there is none.
    """
    found = [offer for offer in registry.offers if name in (offer.record.name, offer.full_name)]
    if not found:
        known = sorted({offer.record.name for offer in registry.offers})
        broken = "".join(f" Note: {failure.text()}." for failure in registry.failures)
        raise PluginError(
            f'nothing is called "{name}". {did_you_mean(name, known)}'
            f"`python -m segacc plugins` lists all names.{broken}"
        )
    return found


def print_listing(registry: Registry, console: Console) -> None:
    """Print one table of all components, then the failures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("kind", "name", "from", "what it is"):
        table.add_column(heading, no_wrap=heading in ("kind", "name"))
    for kind in KINDS:
        for offer in registry.of_kind(kind):
            source = "built in" if offer.built_in else f"{offer.distribution} {offer.version}"
            table.add_row(kind, offer.record.name, source, offer.record.summary)
    console.print(table, soft_wrap=False)
    for failure in registry.failures:
        console.print(f"BROKEN  {failure.text()}", highlight=False)
    console.print("`segacc plugins NAME` shows the options of one.", highlight=False)


def print_component(registry: Registry, name: str, console: Console) -> None:
    """Print the options of all components called `name`."""
    for offer in named(registry, name):
        console.print(f"{offer.kind} {offer.full_name}: {offer.record.summary}", highlight=False)
        options = describe(offer.record.options)
        if not options:
            console.print("It has no options.")
            continue
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("option", "type", "default", "what it does"):
            table.add_column(heading, no_wrap=heading == "option")
        for option in options:
            table.add_row(option.name, option.type, str(option.default), option.doc)
        console.print(table, soft_wrap=False)


def listing_json(registry: Registry, name: str | None) -> dict[str, Any]:
    """Return the components, all or those called `name`, with their options, and the failures."""
    offers = registry.offers if name is None else named(registry, name)
    return {
        "components": [
            {
                "kind": offer.kind,
                "name": offer.record.name,
                "distribution": offer.distribution,
                "version": offer.version,
                "summary": offer.record.summary,
                "options": [
                    {"name": o.name, "type": o.type, "default": str(o.default), "doc": o.doc}
                    for o in describe(offer.record.options)
                ],
            }
            for offer in offers
        ],
        "failures": [failure.text() for failure in registry.failures],
    }
