"""Facts of an architecture from a dry pass, for `segacc plugins NAME` and docs/architectures.md."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from segacc.contracts import Facts
from segacc.errors import count_of
from segacc.model import SegmentationModel
from segacc.model.contract import build_fitting
from segacc.model.probe import probe
from segacc.registry import Offer, Registry
from segacc.settings.config import DEFAULT_CROP
from segacc.settings.options import decode, describe, parse_component

CLASSES = 150
"""Number of classes of the head, that of ADE20K."""


@dataclass(frozen=True)
class Datasheet:
    """Facts of one architecture with one set of options."""

    typed: str
    """Name and options, as for `--arch`."""
    parameters: int
    """Number of parameters with a head for 150 classes."""
    stride: float
    """Image pixels per logit, in height and width."""
    sizes: str
    """The supported image sizes."""
    min_batch_size: int
    unused: int
    """Number of trainable parameters without a gradient; they are frozen at the start."""
    checkpointing: bool
    """Whether gradient checkpointing is supported."""
    weights: str
    """Default weights; empty for none."""
    license: str

    def facts(self) -> list[tuple[str, str]]:
        """Return the facts as pairs of name and value."""
        frozen = f"{self.unused} tensors get no gradient and are frozen" if self.unused else "all"
        terms = f" ({self.license})" if self.weights and self.license else ""
        return [
            ("parameters", f"{self.parameters / 1e6:.2f} million, head for {CLASSES} classes"),
            ("logits", f"1/{self.stride:g} of the image's height and width"),
            ("image size", self.sizes),
            ("smallest batch", f"{count_of(self.min_batch_size, 'image')} per process in training"),
            ("trained", frozen),
            ("gradient checkpointing", "yes" if self.checkpointing else "no"),
            ("default weights", f"{self.weights or 'none'}{terms}"),
        ]


def datasheet(record: Any, typed: str = "") -> Datasheet:
    """Collect the facts of an architecture with the options `key=value,...`.

    Parameters are counted and the dry pass is run on torch's meta device. A network that needs
    tensor values is built for small images and run on the CPU instead.

    Raises:
        ModuleNotFoundError: it needs a package that is not installed.
    """
    where = f"{record.name}:{typed}" if typed else str(record.name)
    options = decode(record.options, parse_component(where, where).values, where)
    network, facts = construct(record, options, torch.device("meta"))
    parameters, sizes = sum(one.numel() for one in network.parameters()), network.size_rule.text()
    try:
        found = probe(network, facts.crop_size)
    except Exception:  # it needs values, which meta tensors do not have
        network, facts = construct(record, options, nullcontext(), size=(128, 128))
        found = probe(network, facts.crop_size)
    return Datasheet(
        typed=where,
        parameters=parameters,
        stride=found.stride,
        sizes=sizes,
        min_batch_size=max(network.min_batch_size, found.min_batch_size),
        unused=len(found.unused),
        checkpointing=network.enable_gradient_checkpointing(),
        weights=record.default_weights(options) or "",
        license=record.weights_license(options),
    )


def construct(
    record: Any,
    options: Any,
    device: AbstractContextManager[Any],
    size: tuple[int, int] = DEFAULT_CROP,
) -> tuple[SegmentationModel, Facts]:
    """Build a network on a device, for a crop size that fits it."""
    names = tuple(f"class {k}" for k in range(CLASSES))
    facts = Facts(num_classes=CLASSES, class_names=names, crop_size=size)
    with device:
        return build_fitting(partial(record.build, options), facts)


def markdown(registry: Registry) -> Iterator[str]:
    """Yield the lines of docs/architectures.md: a table of all variants, then all options."""
    yield from HEAD.splitlines()
    offers = [one for one in registry.of_kind("architecture") if one.built_in]
    for offer in offers:
        for typed in offer.record.variants:
            yield _row(datasheet(offer.record, typed))
    yield ""
    yield "## Options"
    for offer in offers:
        yield from _options(offer)


HEAD = f"""# Architectures

Written by `python -m segacc plugins --markdown`, from a dry pass through each network; a test holds
it to that. Parameters are counted with a head for {CLASSES} classes. *Logits* is the number of
image pixels, in height and width, for one of the logits; segacc resizes them to the label's size.
*Batch* is the smallest batch per process in training: 2 where a batch norm would see one value per
channel. *Frozen* tensors get no gradient and are frozen at the start. *Checkpointing* is
`--gradient-checkpointing`. The licence is that of the default weights where their page states it.

| `--arch` | default weights | parameters (million) | logits | image size | batch | frozen \
| checkpointing | licence |
|---|---|---:|---:|---|---:|---:|---|---|"""


def _row(sheet: Datasheet) -> str:
    cells = (
        f"`{sheet.typed}`",
        f"`{sheet.weights}`" if sheet.weights else "none",
        f"{sheet.parameters / 1e6:.2f}",
        f"{sheet.stride:g}",
        sheet.sizes,
        str(sheet.min_batch_size),
        str(sheet.unused or ""),
        "yes" if sheet.checkpointing else "",
        sheet.license if sheet.weights else "",
    )
    return f"| {' | '.join(cells)} |"


def _options(offer: Offer) -> Iterator[str]:
    yield ""
    yield f"### {offer.record.name}"
    yield ""
    yield f"{offer.record.summary}."
    yield ""
    yield "| option | type | default | what it does |"
    yield "|---|---|---|---|"
    for option in describe(offer.record.options):
        default = "" if option.default in (None, "", ()) else str(option.default)
        yield f"| `{option.name}` | {option.type} | {default} | {option.doc} |"
