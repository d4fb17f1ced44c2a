"""Parameter groups by encoder or head, depth and weight decay, and the table of them."""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from segacc.data.atomic import replacing
from segacc.errors import OptionError
from segacc.model import SegmentationModel
from segacc.model.adapters import is_adapter
from segacc.settings.sources import Settings
from segacc.training.optim.freezing import selected
from segacc.training.optim.lora import choose_lora

NO_DECAY = re.compile(
    r"(^|[._])(pos(ition(al)?)?_?emb\w*|rel(ative)?_pos\w*|(cls|mask|reg\w*)_token\w*|level_embed\w*"
    r"|continuous_position_bias_mlp|cpb_mlp)"
)
"""Names of embeddings without weight decay, including Swin V2's continuous position bias, as its
authors do."""
FILE = "parameter_groups.json"
"""File in the run folder."""
MANY = 14
"""Largest number of groups that are all printed; else half as many first and last ones."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A parameter group, as printed and as stored in parameter_groups.json."""

    name: str
    head: bool
    tensors: int
    parameters: int
    """Total number of elements of the tensors."""
    lr: float | None = None
    """Peak learning rate; None for parameters that are never trained."""
    weight_decay: float | None = None
    frozen_until: int | None = None
    """First step, counted from 0, in which it is trained; None for never."""
    names: tuple[str, ...]
    """Names of the parameters."""


def parameter_groups(
    model: SegmentationModel,
    *,
    lr: float,
    head_lr_scale: float,
    adapter_lr_scale: float = 1.0,
    weight_decay: float,
    layer_decay: float = 1.0,
    layer_decay_rule: str = "beit",
    late: Collection[str] = (),
    frozen_until: int = 0,
) -> list[dict[str, Any]]:
    """Group the trainable parameters by part of the network, depth, `late` and weight decay.

    Norms, biases, scales and embeddings have no weight decay. With `layer_decay` below 1 the
    learning rate at a depth is multiplied by layer_decay ** `decay_power`, which is 1 for the head.

    Args:
        model: the network; permanently frozen parameters have requires_grad False.
        lr: peak learning rate of the encoder.
        head_lr_scale: factor on the learning rate of the head.
        adapter_lr_scale: factor on that of the adapters of `--lora`.
        weight_decay: weight decay of the parameters that have it.
        layer_decay: factor on the learning rate from a layer of the encoder to the one before it.
        layer_decay_rule: see `decay_power`.
        late: names of the parameters that are frozen until step `frozen_until`.
        frozen_until: that step, counted from 0.

    Returns:
        Parameter groups for a torch optimizer, the earliest encoder layer first. Each also has
        `name`, `head`, `initial_lr` (the peak) and `frozen_until` (0: trained from the start).
    """
    depths = model.parameter_depths() if layer_decay < 1 else {}
    deepest = max(depths.values(), default=0)
    scales = {"encoder": 1.0, "adapters": adapter_lr_scale, "head": head_lr_scale}
    groups: dict[tuple[bool, str, bool, int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of(model, name)
            order = name in late, -depths.get(name, 0), not decays(model, name)
            groups.setdefault((part == "head", part, *order), []).append(parameter)
    found = []
    for key in sorted(groups):
        head, part, waits, depth, plain = key
        peak = lr * scales[part] * layer_decay ** decay_power(-depth, deepest, layer_decay_rule)
        layer = -depth if depths and not head else None
        found.append(
            {
                "name": _name(part, layer, plain, frozen_until * waits),
                "head": head,
                "params": groups[key],
                "lr": peak,
                "initial_lr": peak,
                "weight_decay": 0.0 if plain else weight_decay,
                "frozen_until": frozen_until * waits,
            }
        )
    return found


def decay_power(depth: int, last: int, rule: str) -> int:
    """Return the power of the layer decay at a depth; 0 at the last one, of the head.

    Args:
        depth: 0 for embeddings, 1..L for the L blocks, L + 1 for later norms and the head.
        last: L + 1.
        rule: "beit": L + 1 - depth (Bao et al., ICLR 2022; optim_factory.py of unilm/beit). "eomt":
            L - depth for blocks, and for embeddings as for the first block (Kerssies et al., CVPR
            2025; training/lightning_module.py of tue-mps/eomt).
    """
    if rule == "eomt":
        return max(last - 1 - max(depth, 1), 0)
    return last - depth


def part_of(model: SegmentationModel, name: str) -> str:
    """Return to which part of the network a parameter belongs: encoder, its adapters, or head."""
    if model.is_head(name):
        return "head"
    return "adapters" if is_adapter(name) else "encoder"


def _name(part: str, depth: int | None, plain: bool, frozen_until: int) -> str:
    layer = "" if depth is None else f" layer {depth}"
    waits = f", from step {frozen_until}" if frozen_until else ""
    return part + layer + (", no decay" if plain else "") + waits


def decays(model: SegmentationModel, name: str) -> bool:
    """Return whether a parameter has weight decay: a weight of a linear layer or convolution.

    One-dimensional parameters (norms, biases, layer scale) and embeddings (by class or name) have
    none. Nor have parameters outside linear layers and convolutions of which only one dimension is
    longer than 1 (norms that keep the image's dimensions, scales of attention heads, tokens).
    """
    parameter, owner = model.get_parameter(name), model.get_submodule(name.rpartition(".")[0])
    if parameter.ndim <= 1 or NO_DECAY.search(name) or isinstance(owner, nn.Embedding):
        return False
    layer = isinstance(owner, nn.Linear | nn.modules.conv._ConvNd)
    return layer or sum(size > 1 for size in parameter.shape) > 1


def choose_groups(network: SegmentationModel, settings: Settings) -> list[dict[str, Any]]:
    """Group a network's parameters by the settings.

    Raises:
        OptionError: `--layer-decay`, its rule or `--encoder-warmup-steps` would have no effect, or
            `--freeze` matches no parameter.
    """
    config, where, lora = settings.config, settings.where("layer_decay"), choose_lora(settings)
    assert config.lr and config.head_lr_scale
    trained = [name for name, one in network.named_parameters() if one.requires_grad]
    if config.layer_decay_rule != "beit" and config.layer_decay == 1:
        raise OptionError(
            f"{settings.where('layer_decay_rule')}: {config.layer_decay_rule}: it has no effect "
            "without --layer-decay; give that too, or leave this out."
        )
    if config.layer_decay < 1 and not network.parameter_depths():
        raise OptionError(
            f"{where}: {config.layer_decay:g}: the parameter names of the architecture have no "
            "numbered layers. Leave this out, or set block_pattern or override parameter_depths "
            "in the plugin (segacc.model.SegmentationModel)."
        )
    if config.encoder_warmup_steps and all(network.is_head(name) for name in trained):
        raise OptionError(
            f"{settings.where('encoder_warmup_steps')}: {config.encoder_warmup_steps:g}: only the "
            "head is trained, not the encoder; leave this out."
        )
    if config.layer_decay < 1 and all(network.is_head(name) for name in trained):
        raise OptionError(
            f"{where}: {config.layer_decay:g}: only the head is trained, which has no layers for "
            "it; leave this out."
        )
    return parameter_groups(
        network,
        lr=config.lr,
        head_lr_scale=config.head_lr_scale,
        adapter_lr_scale=lora.lr_scale if lora else 1.0,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
        layer_decay_rule=config.layer_decay_rule,
        late=set(selected(network, settings)) if config.unfreeze_after else (),
        frozen_until=config.unfreeze_after or 0,
    )


def table(network: SegmentationModel, groups: Sequence[dict[str, Any]]) -> list[Row]:
    """Return a row for each group, and for the parameters that are never trained.

    Args:
        network: the network, not yet wrapped by accelerate.
        groups: its parameter groups.
    """
    called = {id(parameter): name for name, parameter in network.named_parameters()}
    told = ("name", "head", "weight_decay", "frozen_until")
    rows = []
    for group in groups:
        names = [called[id(parameter)] for parameter in group["params"]]
        known = {key: group[key] for key in told}
        rows.append(_row(network, names, lr=group["initial_lr"], **known))
    still = [name for name, one in network.named_parameters() if not one.requires_grad]
    for part in ("encoder", "adapters", "head"):
        if names := [name for name in still if part_of(network, name) == part]:
            rows.append(_row(network, names, name=f"{part}, no gradient", head=part == "head"))
    return rows


def _row(network: SegmentationModel, names: list[str], **known: Any) -> Row:
    numbers = sum(network.get_parameter(name).numel() for name in names)
    return Row(**known, tensors=len(names), parameters=numbers, names=tuple(names))


def lines(rows: Sequence[Row]) -> list[str]:
    """Return the lines of the table, with the peak learning rates."""
    told = [
        (
            row.name,
            f"{row.tensors:,}",
            f"{row.parameters:,}",
            *map(_rate, (row.lr, row.weight_decay)),
        )
        for row in rows
    ]
    if len(told) > MANY:
        between = (f"... all in {FILE}", "", "", "", "")
        told = [*told[: MANY // 2], between, *told[-MANY // 2 :]]
    told.insert(0, ("parameter group", "tensors", "parameters", "lr", "weight decay"))
    width = max(len(name) for name, *_ in told)
    return [
        f"{name:<{width}}{tensors:>9}{numbers:>14}{lr:>10}{decay:>14}".rstrip()
        for name, tensors, numbers, lr, decay in told
    ]


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def write(rows: Sequence[Row], folder: Path) -> None:
    """Write parameter_groups.json: each group with the names of its parameters."""
    with replacing(folder / FILE) as part:
        part.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
