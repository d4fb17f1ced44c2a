"""Transfers loaded weights to a network: matching tensors, class rows and input channels."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segacc.errors import WeightsError, first_of


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file in a folder of weights.

    Raises:
        WeightsError: the file is missing or not JSON.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(
            f"{path.parent}: {path.name} cannot be read: {reason} ({path})."
        ) from None
    return found


def read_tensors(folder: str | Path, name: str = "model.safetensors") -> dict[str, Tensor]:
    """Read a safetensors file in a folder.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    path = Path(folder) / name
    if not path.is_file():
        raise WeightsError(f"{folder}: no {name} in this folder.")
    try:
        found: dict[str, Tensor] = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{folder}: the weights cannot be read: {error}.") from None
    return found


def with_shared(found: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the tensors that share memory with another one, of which a checkpoint stores only one.

    Args:
        found: the stored tensors.
        own: the network's state dict, with the same names.
    """
    stored = {own[name].data_ptr(): name for name in found if name in own}
    missing = {name: stored.get(one.data_ptr()) for name, one in own.items() if name not in found}
    return {**found, **{name: found[other] for name, other in missing.items() if other}}


def stored_names(folder: Path) -> list[str]:
    """Return the class names in the config.json of a saved network; empty if there are none.

    Raises:
        WeightsError: the file cannot be read, or its id2label does not map ids to names.
    """
    path = folder / "config.json"
    names = (read_json(path) if path.is_file() else {}).get("id2label") or {}
    if not isinstance(names, dict) or not all(key.isdecimal() for key in names):
        raise WeightsError(
            f'{folder}: config.json: id2label must map ids to names, as {{"0": "road"}}.'
        )
    return [str(names[key]) for key in sorted(names, key=int)]


@dataclass(frozen=True)
class LoadReport:
    """What happened to a network's tensors when weights were loaded."""

    source: str
    """Origin of the weights; `random` if none were loaded."""
    loaded: int = 0
    """Number of tensors loaded, completely or by rows."""
    new: tuple[str, ...] = ()
    """Tensors that are initialized anew: missing in the weights, or of another shape."""
    dropped: tuple[str, ...] = ()
    """Tensors of the weights that the network does not have."""
    carried: tuple[str, ...] | None = None
    """Classes whose rows of the head were reused by name; None if the classes are equal or no head
    was found."""
    num_classes: int = 0
    """K, the number of classes."""
    adapted: tuple[str, ...] = ()
    """First convolutions that were adapted to another number of input channels."""
    resized: tuple[str, ...] = ()
    """Tensors that were resized to another image size or number of queries."""

    def text(self) -> str:
        """Return a one-line summary."""
        return "; ".join(self.lines()) if self.loaded else f"weights: {self.source}"

    def lines(self) -> list[str]:
        """Return a summary with one fact per line."""
        if not self.loaded:
            return [f"weights: {self.source}"]
        found = [f"weights: {self.source}: {self.loaded} tensors loaded"]
        if self.carried is not None:
            few = f": {_some(self.carried)}" if 0 < len(self.carried) < self.num_classes else ""
            known = f"{len(self.carried)} of {self.num_classes} classes"
            found.append(f"head: weights of {known} reused by name{few}")
        if self.adapted:
            found.append(f"input channels adapted: {_some(self.adapted)}")
        if self.resized:
            found.append(f"resized: {_some(self.resized)}")
        if self.new:
            found.append(f"new: {_some(self.new)}")
        if self.dropped:
            found.append(f"not used: {_some(self.dropped)}")
        return found


def _some(names: Sequence[str]) -> str:
    """List tensor names, or their modules if there are many."""
    names = [name.removeprefix("network.") for name in names]
    if len(names) <= 4:
        return ", ".join(names)
    parents = sorted({name.split(".")[0] for name in names})
    listed = first_of(parents, 6)
    return f"{len(names)} tensors of {listed}" if parents != sorted(names) else listed


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What has to be known of a network to load weights with another head or input."""

    is_head: Callable[[str], bool] = lambda name: False
    """True for the names of the head's tensors."""
    classifiers: tuple[str, ...] = ()
    """Name prefixes of modules whose tensors have one row per class, possibly followed by more
    rows."""
    class_names: tuple[str, ...] = ()
    """The names of this network's K classes."""
    num_channels: int = 3
    """Number of input channels."""
    fresh_head: bool = False
    """Do not load the head."""
    resize: Callable[[str, Tensor, Tensor], Tensor | None] = field(
        default=lambda name, found, own: None
    )
    """Resizes a tensor of another image size, e.g. position embeddings; None if it cannot."""


def carry_over(
    own: dict[str, Tensor],
    found: dict[str, Tensor],
    structure: Structure,
    *,
    source: str,
    found_names: Sequence[str] = (),
) -> tuple[dict[str, Tensor], LoadReport]:
    """Select and adapt the loaded tensors for a network.

    Args:
        own: the network's state dict, which is kept where nothing fits.
        found: the loaded state dict, with the same names.
        structure: what has to be known of the network.
        source: origin of the weights, for messages.
        found_names: class names of the weights' head in order; empty if unknown.

    Returns:
        The tensors to load, and the report.

    Raises:
        WeightsError: more than a tenth of the encoder's parameters would stay random.
    """
    state: dict[str, Tensor] = {}
    adapted: list[str] = []
    resized: list[str] = []
    if len(found_names) == 1 and len(structure.class_names) == 2:
        found, found_names = of_one_logit(found, structure, found_names[0])
    rows = class_rows(structure.class_names, found_names)
    carried: set[int] | None = None
    for name, mine in own.items():
        theirs = found.get(name)
        if theirs is None or (structure.fresh_head and structure.is_head(name)):
            continue
        if name.startswith(structure.classifiers) and structure.classifiers and mine.ndim:
            fitted = carry_rows(mine, theirs, rows, structure.class_names, found_names)
            known = found_names and structure.class_names != tuple(found_names)
            if fitted is not None and known:
                carried = {k for k, _ in rows}
        elif mine.shape == theirs.shape:
            fitted = theirs
        elif _other_channels(mine, theirs, structure.num_channels):
            fitted = fit_channels(theirs, structure.num_channels)
            adapted.append(name)
        else:
            fitted = structure.resize(name, theirs, mine) if theirs.numel() else None
            resized += [name] if fitted is not None else []
        if fitted is not None:
            state[name] = fitted
    report = LoadReport(
        source,
        len(state),
        tuple(sorted(set(own) - set(state))),
        tuple(sorted(set(found) - set(state))),
        None if carried is None else tuple(structure.class_names[k] for k in sorted(carried)),
        len(structure.class_names),
        tuple(adapted),
        tuple(resized),
    )
    return state, check_report(report, own, structure.is_head)


def of_one_logit(
    found: dict[str, Tensor], structure: Structure, name: str
) -> tuple[dict[str, Tensor], Sequence[str]]:
    """Convert a head with one logit and a sigmoid to one of two classes with the same softmax.

    The first class gets rows of zeros; `name` is that of the logit's class.

    Returns:
        The tensors, and the names of both classes.
    """
    ends = structure.classifiers
    heads = {key: one for key, one in found.items() if ends and key.startswith(ends)}
    two = {
        key: torch.cat([torch.zeros_like(one), one])
        for key, one in heads.items()
        if one.ndim and len(one) == 1
    }
    first, second = structure.class_names
    return {**found, **two}, (first, second if numbered([name]) else name)


def class_rows(mine: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """Match rows of classes with the same name: pairs (mine, theirs).

    Names are compared case-insensitively, with `_` and `-` as spaces, and up to the first comma or
    semicolon (ADE20K's `road, route` is `road`). If the weights' classes are only numbered
    (`LABEL_0`) and there are equally many, rows are matched by index.
    """
    if numbered(theirs) or tuple(mine) == tuple(theirs):
        return [(k, k) for k in range(len(mine))] if len(mine) == len(theirs) else []
    found: dict[str, int] = {}
    for index, name in enumerate(theirs):
        found.setdefault(plain_name(name), index)
    plain = [plain_name(name) for name in mine]
    return [(k, found[name]) for k, name in enumerate(plain) if name in found]


def numbered(names: Sequence[str]) -> bool:
    """True if the classes have no names of their own (`LABEL_0`, `LABEL_1`, ...)."""
    return all(name == f"LABEL_{k}" for k, name in enumerate(names))


def plain_name(name: str) -> str:
    """Normalize a class name for comparison."""
    first = name.replace(";", ",").split(",")[0]
    return " ".join(first.replace("_", " ").replace("-", " ").casefold().split())


def carry_rows(
    mine: Tensor,
    theirs: Tensor,
    rows: Sequence[tuple[int, int]],
    own_names: Sequence[str],
    found_names: Sequence[str],
) -> Tensor | None:
    """Copy the rows of known classes into a copy of `mine`: (K + more, ...) both.

    Rows after the classes, such as mask classification's "no object", are aligned at the end. If
    class names are unknown, a tensor of the same shape is used as a whole. None if nothing fits.
    """
    if not own_names or not found_names:
        return theirs if mine.shape == theirs.shape else None
    more = mine.shape[0] - len(own_names)
    if not rows or mine.shape[1:] != theirs.shape[1:] or theirs.shape[0] - len(found_names) != more:
        return None
    filled = mine.clone()
    for k, row in rows:
        filled[k] = theirs[row]
    if more:
        filled[-more:] = theirs[-more:]
    return filled


def _other_channels(mine: Tensor, theirs: Tensor, num_channels: int) -> bool:
    same = mine.shape[:1] == theirs.shape[:1] and mine.shape[2:] == theirs.shape[2:]
    inputs = mine.ndim == 4 and mine.shape[1] == num_channels and theirs.shape[1] in (1, 3, 4)
    return same and inputs


def fit_channels(weight: Tensor, num_channels: int) -> Tensor:
    """Adapt a first convolution (O, C, h, w) to other input channels: (O, num_channels, h, w).

    A single channel gets the sum of the filters; more channels repeat them cyclically, scaled so
    that the response to a grey image is unchanged (like timm's `adapt_input_conv`).
    """
    channels = weight.shape[1]
    if num_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    turns = [k % channels for k in range(num_channels)]
    return weight[:, turns] * (channels / num_channels)


def check_report(
    report: LoadReport, own: dict[str, Tensor], is_head: Callable[[str], bool]
) -> LoadReport:
    """Reject weights that leave more than a tenth of the encoder's parameters random.

    A replaced head is normal, but a partly loaded encoder would train badly without any error.

    Raises:
        WeightsError: too many parameters are missing.
    """
    encoder = {name: tensor.numel() for name, tensor in own.items() if not is_head(name)}
    if 10 * sum(encoder.get(name, 0) for name in report.new) > sum(encoder.values()):
        raise WeightsError(
            f"{report.source}: these weights do not belong to this network: {report.loaded} "
            f"tensors fit, {_some(report.new)} would stay random, "
            f"{_some(report.dropped) or 'nothing'} would not be used. Choose the architecture and "
            "variant that the weights were saved from, or use --weights none."
        )
    return report


def resize_positions(found: Tensor, own: Tensor, *, antialias: bool = False) -> Tensor | None:
    """Resize a ViT's position embedding (1, T, C) to another number of patches; None if not one.

    Tokens before the patches (class, registers) are those that exceed a square grid. Bicubic, like
    DINOv2; with `antialias`, like DINOv2 with registers, and timm.
    """
    if found.ndim != 3 or own.ndim != 3 or found.shape[::2] != own.shape[::2]:
        return None
    for front in range(8):
        old, new = found.shape[1] - front, own.shape[1] - front
        if old > 0 and new > 0 and int(old**0.5) ** 2 == old and int(new**0.5) ** 2 == new:
            side, size = int(old**0.5), (int(new**0.5), int(new**0.5))
            grid = found[:, front:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
            grid = torch.nn.functional.interpolate(
                grid, size=size, mode="bicubic", antialias=antialias
            )
            resized = grid.permute(0, 2, 3, 1).flatten(1, 2).to(found.dtype)
            return torch.cat([found[:, :front], resized], dim=1)
    return None


def resize_bias_table(found: Tensor, own: Tensor) -> Tensor | None:
    """Resize a table of relative position biases to another square window; None if not one.

    Args:
        found: (R, heads) with R = (2 side - 1) ** 2 rows for a window of side x side patches,
            followed by 0 or 3 rows for the class token, as in BEiT.
        own: (R', heads), for another side.

    Returns:
        Same shape as `own`; bilinear, like transformers' BEiT in each forward pass at another size.
    """
    if found.ndim != 2 or own.ndim != 2 or found.shape[1] != own.shape[1]:
        return None
    for extra in (0, 3):
        old, new = (max(one.shape[0] - extra, 0) for one in (found, own))
        side, size = math.isqrt(old), math.isqrt(new)
        if side * side == old and size * size == new and old and new:
            grid = found[:old].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
            grid = torch.nn.functional.interpolate(grid, size=(size, size), mode="bilinear")
            rows = grid.permute(0, 2, 3, 1).reshape(new, -1).to(found.dtype)
            return torch.cat([rows, found[old:]])
    return None


def extend(values: Sequence[float], channels: int) -> list[float]:
    """Extend an RGB mean or std to other numbers of channels; new channels get the mean of RGB."""
    if len(values) == channels:
        return list(values)
    middle = sum(values) / len(values)
    return [values[k] if channels > 1 and k < len(values) else middle for k in range(channels)]
