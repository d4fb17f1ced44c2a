"""Train low-rank adapters in place of the encoder's weights, `--lora`, with peft.

peft replaces each adapted layer inside the network, so the network's class, its other names and
what `SegmentationModel.is_head` says of them stay as they are.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from segacc.errors import OptionError, count_of, did_you_mean, first_of
from segacc.evaluation.scoring import SHARDED
from segacc.model import SegmentationModel
from segacc.model.adapters import ADAPTER, adapters_of, is_adapter
from segacc.settings.sources import Settings
from segacc.training.optim.freezing import keep_statistics
from segacc.training.optim.lora import LoraOptions, choose_lora

FOLDER = "adapters"
"""Folder in best/ and last/ with the adapters alone, in peft's own format."""
ASKED = ("stride", "kernel_size", "padding", "dilation")
"""Attributes of a convolution that peft's layer in its place lacks."""
MANY = 12
"""Number of layer names that an error lists."""


def add_adapters(network: SegmentationModel, settings: Settings, accelerator: Accelerator) -> None:
    """Give the encoder's layers adapters and freeze its own weights, with `--lora`.

    The frozen batch norms of the encoder keep their statistics, as with `--freeze encoder`.

    Raises:
        OptionError: no layer of the encoder can have an adapter, or a target matches none; or the
            network is sharded in another way than by FSDP2.
    """
    if (options := choose_lora(settings)) is None:
        return
    from peft import inject_adapter_in_model

    where, kind = settings.where("lora"), accelerator.distributed_type
    if kind in SHARDED and not accelerator.is_fsdp2:
        raise OptionError(
            f"{where}: not supported with {kind.value}; the only sharding it supports is FSDP2."
        )
    layers = choose_layers(network, options, where)
    head = [one for name, one in network.named_parameters() if network.is_head(name)]
    learns = [one for one in head if one.requires_grad]
    own = {name: network.get_submodule(name) for name in layers}
    inject_adapter_in_model(lora_config(options, layers), network)
    for name, convolution in own.items():  # some networks read these, such as MobileNetV2
        for key in ASKED if isinstance(convolution, nn.Conv2d) else ():
            setattr(network.get_submodule(name), key, getattr(convolution, key))
    for one in learns:  # peft has frozen all but the adapters
        one.requires_grad_(True)
    keep_statistics(network, settings)


def lora_config(options: LoraOptions, layers: Sequence[str], **more: Any) -> Any:
    """Return peft's config for layers by their full names."""
    from peft import LoraConfig

    config = LoraConfig(
        r=options.r, lora_alpha=options.scale, lora_dropout=options.dropout, bias="none", **more
    )
    config.target_modules = sorted(layers)  # peft would make it a set, written in any order
    return config


def choose_layers(network: SegmentationModel, options: LoraOptions, where: str) -> list[str]:
    """Return the names of the layers that get an adapter, in the order of the network.

    Raises:
        OptionError: see `add_adapters`.
    """
    layers = candidates(network)
    if not options.targets:
        if linear := [name for name, one in layers.items() if isinstance(one, nn.Linear)]:
            return linear
        way = f" Name convolutions in `targets`: {_known(layers)}." if layers else ""
        raise OptionError(
            f"{where}: the encoder of the architecture has no linear layer, which get adapters by "
            f"default.{way or ' Leave this out.'}"
        )
    for target in options.targets:
        if not any(_matches(name, target) for name in layers):
            near = did_you_mean(target, map(_ending, layers))
            raise OptionError(
                f"{where}: targets: {target}: no linear layer or convolution of the encoder has "
                f"this name. {near}Known: {_known(layers) or 'none'}; * matches anything."
            )
    return [name for name in layers if any(_matches(name, one) for one in options.targets)]


def candidates(network: SegmentationModel) -> dict[str, nn.Module]:
    """Return the encoder's linear layers and convolutions that can have an adapter, by name.

    The parts of torch's MultiheadAttention cannot: it reads their weights and never calls them. Nor
    do grouped convolutions, whose kernels are of low rank already.
    """
    whole = tuple(
        f"{name}."
        for name, one in network.named_modules()
        if isinstance(one, nn.MultiheadAttention)
    )
    return {
        name: one
        for name, one in network.named_modules()
        if isinstance(one, nn.Linear) or (isinstance(one, nn.Conv2d) and one.groups == 1)
        if not network.is_head(f"{name}.weight") and not name.startswith(whole)
    }


def _matches(name: str, target: str) -> bool:
    """Return whether a target is a layer's name, or its end after a dot."""
    return fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")


def _known(layers: dict[str, nn.Module]) -> str:
    return first_of(dict.fromkeys(map(_ending, layers)), MANY)


def _ending(name: str) -> str:
    """Return the last word of a name, with the numbers after it, as `fc1` or `block.1.0`."""
    parts = name.split(".")
    last = max((k for k, part in enumerate(parts) if not part.isdigit()), default=0)
    return ".".join(parts[last:])


def check_adapters(network: SegmentationModel, settings: Settings) -> str:
    """Return how many parameters are trained with `--lora`; an empty string without it.

    Raises:
        OptionError: no adapter is trained.
    """
    if (options := choose_lora(settings)) is None:
        return ""
    trained = {name: one for name, one in network.named_parameters() if one.requires_grad}
    adapters = [name for name in trained if is_adapter(name)]
    if not adapters:
        frozen = settings.where("freeze") if settings.config.freeze else "the architecture"
        raise OptionError(
            f"{settings.where('lora')}: no adapter would be trained: {frozen} freezes all of them, "
            "or the network does not use these layers. Leave one of the two out, or choose other "
            "layers with `targets`."
        )
    layers = {ADAPTER.sub("", name) for name in adapters}
    own, total = (
        sum(one.numel() for one in many) for many in (trained.values(), network.parameters())
    )
    alone = sum(trained[name].numel() for name in adapters)
    return (
        f"LoRA of rank {options.r} on {count_of(len(layers), 'layer')} of the encoder: {own:,} of "
        f"{total:,} parameters are trained ({own / total:.1%}), {alone:,} of them in adapters"
    )


def encoder_of(network: SegmentationModel) -> str:
    """Return the name of the smallest module that holds the encoder, such as `network.segformer`.

    A list of layers does not count: transformers' and timm's encoders contain theirs.
    """
    names = [name for name, _ in network.named_parameters() if not network.is_head(name)]
    common: list[str] = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    while common and isinstance(
        network.get_submodule(".".join(common)), nn.ModuleList | nn.ModuleDict | nn.Sequential
    ):
        common.pop()
    return ".".join(common)


def save_adapters(
    folder: Path,
    network: SegmentationModel,
    options: LoraOptions,
    state_dict: dict[str, Tensor],
    base: str | None,
) -> None:
    """Write the adapters alone; `peft.PeftModel.from_pretrained` loads them onto the encoder.

    Args:
        folder: the folder to create, with adapter_model.safetensors and adapter_config.json.
        network: the network.
        options: the options of `--lora`.
        state_dict: its tensors, by the names that they have in the network with adapters.
        base: Hub id of the weights that were adapted, or None.
    """
    folder.mkdir()
    inside = encoder_of(network)
    start = f"{inside}." if inside else ""
    found = {
        name.removeprefix(start): one.detach().cpu().contiguous()
        for name, one in adapters_of(state_dict).items()
    }
    stored = {f"base_model.model.{name.replace('.default.', '.')}": found[name] for name in found}
    save_file(stored, folder / "adapter_model.safetensors", {"format": "pt"})
    layers = sorted({ADAPTER.sub("", name) for name in found})
    encoder = type(network.get_submodule(inside))
    origin = {"base_model_class": encoder.__name__, "parent_library": encoder.__module__}
    config = lora_config(options, layers, base_model_name_or_path=base, inference_mode=True)
    config.save_pretrained(folder, auto_mapping_dict=origin)
