"""The networks of SMP as segacc's: logits at the decoder's resolution, weights of encoders."""

import difflib
import inspect
import json
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
from segmentation_models_pytorch.encoders import encoders
from torch import Tensor

from segacc import Facts
from segacc.errors import OptionError
from segacc.model import Logits, SegmentationModel, SizeRule
from segacc_smp import CLASSES, TIMM, Options

SETTINGS = "smp.json"
"""File of `SMPModel.save_settings`."""


class SMPModel(SegmentationModel):
    """A network of SMP without the upsampling at its end.

    SMP's head resizes its logits to the image size. segacc's losses and predictions do that in
    parts and at the size of the label, so that logits of the full size are never stored.
    """

    head_prefixes = ("network.decoder.", "network.segmentation_head.")

    def __init__(self, options: Options, facts: Facts) -> None:
        """Build it with random weights.

        Raises:
            OptionError: there is no such encoder, or SMP refuses it for this decoder.
        """
        super().__init__()
        self.network = create(options, facts)
        self.size_rule = size_rule(options, self.network.encoder)
        last = "0" if options.decoder != "dpt" else "head.4"
        self.classifiers = (f"network.segmentation_head.{last}",)
        config = timm_config(options.encoder_name)
        if config is not None:
            self.mean, self.std = tuple(config.mean), tuple(config.std)

    def forward(self, images: Tensor) -> Logits:
        """Map normalized images (N, C, H, W) to logits (N, K, h, w).

        h and w are H and W divided by 1 for U-Net, U-Net++, MAnet and LinkNet, 2 for DPT, 8 for
        PSPNet and DeepLabV3, and 4 for the others, if the encoder has its default depth.
        """
        return Logits(self.network(images))

    def carry_over(self, found: dict[str, Tensor], source: str, **more: Any) -> Any:
        """Load a network of segacc or of SMP, or an encoder of SMP or timm; see the base class."""
        return super().carry_over(renamed(found, self.state_dict()), source, **more)

    def load_weights(self, source: str, **more: Any) -> Any:
        """Load weights, and the normalization of an encoder's config.json; see the base class."""
        report = super().load_weights(source, **more)
        path = Path(source) / "config.json"
        if path.is_file():
            self.take_colors(json.loads(path.read_text(encoding="utf-8")), source)
        return report

    def take_colors(self, config: dict[str, Any], source: str) -> None:
        """Normalize as the config.json of an encoder of SMP, or of a network of timm, tells.

        Raises:
            OptionError: the encoder expects other images than RGB.
        """
        config = config.get("pretrained_cfg", config)
        if "mean" not in config or "std" not in config:
            return
        if (space := config.get("input_space", "RGB")) != "RGB":
            raise OptionError(
                f"--arch smp: the encoder in {source} expects {space} images; segacc-smp supports "
                "encoders for RGB. Choose another encoder."
            )
        scale = float(config.get("input_range", (0, 1))[1])
        self.mean = tuple(value / scale for value in config["mean"])
        self.std = tuple(value / scale for value in config["std"])

    def save_settings(self, folder: Path) -> None:
        """Write the normalization, which the weights may have determined, for a resumed run."""
        (folder / SETTINGS).write_text(json.dumps({"mean": self.mean, "std": self.std}))

    def load_settings(self, folder: Path) -> None:
        """Read the normalization of `save_settings`."""
        if (folder / SETTINGS).is_file():
            found = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            self.mean, self.std = tuple(found["mean"]), tuple(found["std"])


def create(options: Options, facts: Facts) -> Any:
    """Build SMP's network with random weights and without upsampling.

    Raises:
        OptionError: there is no such encoder, or SMP refuses it for this decoder.
    """
    name, kind = options.encoder_name, getattr(smp, CLASSES[options.decoder])
    refuse_unknown(name)
    known = inspect.signature(kind).parameters
    given: dict[str, Any] = dict(options.kwargs)
    if "upsampling" in known:
        given["upsampling"] = 1
    if options.depth is not None:
        given["encoder_depth"] = options.depth
    if options.decoder == "dpt":
        given.setdefault("dynamic_img_size", True)
    elif not name.startswith(TIMM):  # SMP would ignore them
        refuse_unused(set(options.kwargs) - set(known), kind)
    sizes = {"in_channels": facts.num_channels, "classes": facts.num_classes}
    try:
        network = kind(encoder_name=name, encoder_weights=None, **sizes, **given)
    except Exception as error:  # its own complaint about the encoder or its arguments
        reason = " ".join(str(error).split()).rstrip(".")
        raise OptionError(
            f"--arch smp: decoder={options.decoder} with encoder={name} cannot be built: "
            f"{type(error).__name__}: {reason}. Choose another encoder, or check depth and kwargs."
        ) from error
    if options.decoder == "dpt":
        network.segmentation_head.upsampling_factor = 1.0
    return network


def refuse_unknown(name: str) -> None:
    """Refuse an encoder that neither SMP nor timm has.

    Raises:
        OptionError: the text suggests similar names.
    """
    if name in encoders or is_timm(name):
        return
    names = [*encoders, *(f"{TIMM}{one}" for one in timm.list_models())]
    near = difflib.get_close_matches(name.partition(".")[0], names, 2)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    raise OptionError(
        f'--arch smp: there is no encoder "{name}". {meant}SMP\'s own are listed by '
        "segmentation_models_pytorch.encoders.get_encoder_names(), and timm's, written as "
        f"{TIMM}NAME, by timm.list_models()."
    )


def refuse_unused(names: set[str], kind: Any) -> None:
    """Refuse arguments that SMP would ignore.

    Raises:
        OptionError: there are some.
    """
    if names:
        known = [name for name in inspect.signature(kind).parameters if name.startswith("decoder_")]
        raise OptionError(
            f"--arch smp: kwargs: {kind.__name__} has no argument {', '.join(sorted(names))}. "
            f"It has, among others, {', '.join(known)}."
        )


def size_rule(options: Options, encoder: Any) -> SizeRule:
    """Return the accepted sizes: multiples of the encoder's stride, or its own size only."""
    stride, config = int(encoder.output_stride), timm_config(options.encoder_name)
    if config is not None and config.fixed_input_size and options.decoder != "dpt":
        return SizeRule(fixed=tuple(config.input_size[1:]))
    # PAN halves the last features three times.
    return SizeRule(multiple=stride, minimum=stride * (8 if options.decoder == "pan" else 1))


def timm_config(name: str) -> Any:
    """Return timm's settings of an encoder's published weights; None for SMP's own encoders."""
    return timm.models.get_pretrained_cfg(name.removeprefix(TIMM)) if is_timm(name) else None


def is_timm(name: str) -> bool:
    """Return whether timm has this encoder."""
    return name.startswith(TIMM) and timm.is_model(name.removeprefix(TIMM))


def encoder_hub_id(name: str) -> str | None:
    """Return the Hub id of an encoder's weights: of ImageNet, if there are several."""
    if name not in encoders:
        config = timm_config(name)
        return None if config is None else config.hf_hub_id
    published = encoders[name]["pretrained_settings"]
    chosen = published.get("imagenet") or next(iter(published.values()), None)
    return None if chosen is None else str(chosen["repo_id"])


def renamed(found: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return loaded tensors with this network's names.

    Args:
        found: of a network of segacc (`network.encoder.`), of SMP (`encoder.`), or of an encoder
            alone, by SMP or timm. timm's feature extractors have the prefix `model.`, or
            `stages_0` for `stages.0`.
        own: the network's state dict.
    """
    for start, prefix in (("network.encoder.", ""), ("encoder.", "network.")):
        if any(name.startswith(start) for name in found):
            return {f"{prefix}{name}": one for name, one in found.items()}
    state = {}
    for name, one in found.items():
        inner = f"model.{name}"
        forms = (name, inner, f"model.{inner}", f"model.{name.replace('.', '_', 1)}")
        names = [f"network.encoder.{form}" for form in forms]
        state[next((one for one in names if one in own), names[0])] = one
    return state
