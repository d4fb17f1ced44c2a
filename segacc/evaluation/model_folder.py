"""Read a model folder's side file segacc.json, and find the architecture of its weights."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from segacc.errors import WeightsError
from segacc.registry import Offer, Registry

SIDE_FILE = "segacc.json"
"""File that segacc adds to a transformers folder: label map, protocol, architecture, plugin."""
WHOLE = ("architecture", "facts", "labels", "protocol", "size_rule")
"""Keys of the side file that inference needs."""


def side_file(folder: Path, needed: Collection[str] = ()) -> dict[str, Any]:
    """Read segacc.json; an empty dict if there is none.

    Raises:
        WeightsError: it is damaged, or lacks a needed key.
    """
    path = folder / SIDE_FILE
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not a mapping")
    except ValueError as error:
        raise WeightsError(f"{path}: damaged: {error}. Copy the folder again.") from None
    if missing := [key for key in needed if key not in found]:
        raise WeightsError(
            f"{path}: {', '.join(missing)} missing: it was written by another version of segacc "
            "or edited by hand. Without this file the folder is loaded as a transformers model."
        )
    return found


def architecture_of(registry: Registry, folder: Path, where: str) -> dict[str, Any]:
    """Return the name and options of the architecture that a folder's weights belong to.

    For a transformers model it is found by the model_type in config.json, otherwise in segacc.json.

    Raises:
        WeightsError: no known architecture reads these weights, or its plugin is not installed.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{where}: config.json cannot be read: {reason} ({path}).") from None
    kind = config.get("model_type")
    if offer := reader(registry, kind):
        name = offer.record.name if offer.built_in else offer.full_name
        return {"name": name, "config": str(folder)}
    side = side_file(folder)
    if own := side.get("architecture"):
        refuse_missing(registry, side, where)
        named: dict[str, Any] = own
        return named
    known = sorted(one for offer in registry.of_kind("architecture") for one in types(offer))
    raise WeightsError(
        f"{where}: {f'the model type {kind}' if kind else 'a config.json without model_type'} is "
        "not a segmentation model that segacc knows. If it is an encoder, give an architecture "
        "that uses it, as --arch upernet:backbone=NAME. Known model types: "
        f"{', '.join(known)}."
    )


def refuse_missing(registry: Registry, side: dict[str, Any], where: str) -> None:
    """Refuse an architecture whose plugin is not installed, or was not loaded.

    Args:
        registry: the known components.
        side: the side file; without `plugin` if an earlier version of segacc wrote it.
        where: origin of the weights, for errors.

    Raises:
        WeightsError: its plugin is missing; the message says what to install.
    """
    match side:
        case {
            "architecture": {"name": str(name)},
            "plugin": {"distribution": str(distribution), "version": str(version)},
        }:
            offers = registry.of_kind("architecture")
            if any(name in (one.record.name, one.full_name) for one in offers):
                return
            failed = [one for one in registry.failures if one.distribution == distribution]
            reason = f"which is not installed. Install it: pip install {distribution}=={version}"
            raise WeightsError(
                f'{where}: the network is the architecture "{name}" of the plugin {distribution} '
                f"{version}, {f'but {failed[0].text()}' if failed else reason}."
            )


def reader(registry: Registry, model_type: str | None) -> Offer | None:
    """Return the architecture that reads a model_type, preferring built-ins; None if none does."""
    offers = [one for one in registry.of_kind("architecture") if model_type in types(one)]
    return offers[0] if offers else None


def types(offer: Offer) -> tuple[str, ...]:
    """Return the model_types that an architecture reads."""
    found: tuple[str, ...] = offer.record.model_types
    return found
