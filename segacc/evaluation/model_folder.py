"""What a saved folder says of itself: the architecture that it belongs to, and its options."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from segacc.errors import WeightsError
from segacc.registry import Offer, Registry

SIDE_FILE = "segacc.json"
"""What segacc keeps beside a transformers folder: label map, protocol, architecture."""
WHOLE = ("architecture", "facts", "labels", "protocol", "size_rule")
"""What it holds of a network that predicts."""


def side_file(folder: Path, needed: Collection[str] = ()) -> dict[str, Any]:
    """Read segacc.json; empty where there is none.

    Raises:
        WeightsError: it is damaged, or lacks something that is needed.
    """
    path = folder / SIDE_FILE
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no mapping")
    except ValueError as error:
        raise WeightsError(f"{path}: damaged: {error}. Copy the folder again.") from None
    if missing := [key for key in needed if key not in found]:
        raise WeightsError(
            f"{path}: {', '.join(missing)} missing: another version of segacc wrote it, or it was "
            "changed by hand. Without this file the folder is read as one of transformers."
        )
    return found


def architecture_of(registry: Registry, folder: Path, where: str) -> dict[str, Any]:
    """Name the architecture that a folder's weights belong to, with its options.

    A folder of transformers is known by the model_type in its config.json, any other by what segacc
    wrote beside it.

    Raises:
        WeightsError: no architecture here reads such weights.
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
    if own := side_file(folder).get("architecture"):
        named: dict[str, Any] = own
        return named
    known = sorted(one for offer in registry.of_kind("architecture") for one in types(offer))
    raise WeightsError(
        f"{where}: holds {f'a {kind} network' if kind else 'no network of transformers'}, "
        "which is no whole segmentation network that segacc knows. If it is an encoder, name the "
        "architecture that it goes into, as --arch upernet:backbone=NAME. Known by themselves: "
        f"{', '.join(known)}."
    )


def reader(registry: Registry, model_type: str | None) -> Offer | None:
    """Return the architecture that reads a model_type, built-ins first; None if there is none."""
    offers = [one for one in registry.of_kind("architecture") if model_type in types(one)]
    return offers[0] if offers else None


def types(offer: Offer) -> tuple[str, ...]:
    """Return the model_types that an architecture reads."""
    found: tuple[str, ...] = offer.record.model_types
    return found
