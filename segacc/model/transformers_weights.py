"""Reads folders of transformers and timm into tensors with a network's own names."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isclose, isfinite
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from segacc.errors import WeightsError, expand
from segacc.model.transfer import read_json, read_tensors, stored_names

BareNames = Mapping[str, Mapping[str, str]]
"""By model type of a bare encoder: prefixes of its tensors' names, and what replaces them."""


@contextmanager
def quiet_bars() -> Iterator[None]:
    """Suppress transformers' progress bars and load reports; segacc prints its own."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read a folder's config.json.

    Raises:
        WeightsError: the file is missing or not JSON.
    """
    return read_json(expand(folder) / "config.json")


def read_state(
    source: str,
    network: Any,
    encoder: str | None,
    *,
    kept: Sequence[str] = (),
    as_stored: Sequence[str] = (),
    bare: "BareNames | None" = None,
) -> dict[str, Tensor]:
    """Read a folder into tensors with the names of a transformers network.

    Tensors that are missing in the folder are left out; those that the network does not have are
    included with an empty tensor.

    Args:
        source: the folder: a network of this model_type, whole or only its encoder, or of the
            encoder's model_type, or weights of timm.
        network: the network to load into.
        encoder: name of its submodule for a bare encoder, or None.
        kept: config values that are taken from the folder if it has a whole network.
        as_stored: config values with which the folder is read, whatever the network's own are.
        bare: model types of bare encoders that fit although transformers names them otherwise.

    Raises:
        WeightsError: the folder has other weights, or is unreadable.
    """
    found, mine = read_config(source), network.config
    kind, inner = found.get("model_type"), inner_config(mine)
    if kind and kind in (mine.model_type, getattr(mine, "reads", None)):
        return _read_whole(source, network, found, kept, as_stored)
    if kind is None and "architecture" in found and encoder and _is_timm(inner):
        return _read_timm(source, network, encoder)
    if renamed := (bare or {}).get(str(kind)):
        return _read_renamed(source, found, renamed)
    if inner is not None and encoder and kind == inner.model_type:
        return _read_encoder(source, inner, found, encoder)
    others = [*(bare or ()), *([] if inner is None else [inner.model_type])]
    takes = " or ".join([mine.model_type, *others])
    nothing = "weights of timm" if "architecture" in found else "no network of transformers"
    holds = f"a {kind} network" if kind else nothing
    raise WeightsError(
        f"{source}: contains {holds}, but the chosen architecture needs {takes}. "
        "Give weights of the same kind, or choose the architecture that they belong to."
    )


def _read_whole(
    source: str,
    network: Any,
    found: dict[str, Any],
    kept: Sequence[str],
    as_stored: Sequence[str],
) -> dict[str, Tensor]:
    named = stored_names(Path(source))
    config, theirs = copy.deepcopy(network.config), type(network.config).from_dict(found)
    if type(network).__name__ in (found.get("architectures") or ()):
        for name in kept:
            setattr(config, name, getattr(theirs, name))
            setattr(network.config, name, getattr(theirs, name))
    for name in as_stored:
        setattr(config, name, getattr(theirs, name))
    names = named or [f"LABEL_{k}" for k in range(theirs.num_labels)]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: k for k, name in enumerate(names)}
    _take_input(config, theirs)
    _take_input(inner_config(config), inner_config(theirs))
    return _read(type(network), source, config)


def _read_encoder(
    source: str, inner: Any, found: dict[str, Any], encoder: str
) -> dict[str, Tensor]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

    config = copy.deepcopy(inner)
    _take_input(config, type(inner).from_dict(found))
    state = _read(MODEL_FOR_BACKBONE_MAPPING[type(config)], source, config)
    return {f"{encoder}.{name}": tensor for name, tensor in state.items()}


def _read_renamed(
    source: str, found: dict[str, Any], renamed: Mapping[str, str]
) -> dict[str, Tensor]:
    """Read a bare encoder and replace the prefixes of its names; a mask token is left out."""
    from transformers.models.auto.configuration_auto import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    config = AutoConfig.for_model(**found)
    state: dict[str, Tensor] = {}
    for name, tensor in _read(MODEL_MAPPING[type(config)], source, config).items():
        prefix = next((one for one in renamed if name.startswith(one)), "")
        if not name.endswith("mask_token"):  # of pretraining
            state[renamed.get(prefix, "") + name.removeprefix(prefix)] = tensor
    return state


def _read_timm(source: str, network: Any, encoder: str) -> dict[str, Tensor]:
    """Read weights of timm under the names of its feature extractors.

    These have the prefix `model.`, or `stages_0` for `stages.0`, or are unchanged.
    """
    prefix = f"{encoder}._backbone."
    own = {name.removeprefix(prefix) for name in network.state_dict() if name.startswith(prefix)}
    state: dict[str, Tensor] = {}
    for name, tensor in read_tensors(source).items():
        forms = (name, f"model.{name}", name.replace(".", "_", 1))
        state[prefix + next((form for form in forms if form in own), name)] = tensor
    return state


def _take_input(config: Any, theirs: Any) -> None:
    """Copy the sizes of the input and of Swin's windows that the weights were saved with.

    Tensors of other sizes are adapted later; transformers would leave them out.
    """
    same = ("num_channels", "image_size", "stem_channels", "window_size")
    for name in same:  # HGNetV2 has channels twice
        if hasattr(config, name) and hasattr(theirs, name):
            setattr(config, name, getattr(theirs, name))


def _read(reader: Any, source: str, config: Any) -> dict[str, Tensor]:
    """Load a folder into a class of transformers, and return its tensors by name."""
    try:
        with quiet_bars():
            network, info = reader.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                local_files_only=True,
            )
    except UnpicklingError:
        raise WeightsError(
            f"{source}: the weights are a pickle with other objects than tensors; loading it could "
            "run code, so it is refused. Save them as model.safetensors."
        ) from None
    except (
        Exception
    ) as error:  # torch, pickle and safetensors may raise anything for a damaged file
        raise WeightsError(f"{source}: the weights cannot be read: {first_line(error)}.") from error
    random = info["missing_keys"] | {key[0] for key in info["mismatched_keys"]}
    unknown: dict[str, Tensor] = dict.fromkeys(info["unexpected_keys"], torch.empty(0))
    state = network.state_dict()
    return {**unknown, **{name: one for name, one in state.items() if name not in random}}


def read_colors(folder: str | Path) -> tuple[dict[str, Any], float]:
    """Read what a folder's preprocessor_config.json says about colours.

    Returns:
        Its entries that are not null, and the value that white has before it is normalized: 1, or
        255 without `do_rescale`.

    Raises:
        WeightsError: the file cannot be read, or mean, std or factor cannot be used.
    """
    path = Path(folder) / "preprocessor_config.json"
    given = {name: value for name, value in read_json(path).items() if value is not None}
    for name in ("image_mean", "image_std", "rescale_factor"):
        if name in given:
            given[name] = _numbers(given[name], f"{folder}: {path.name}: {name}")
    factor = given.get("rescale_factor", [1 / 255])[0] if given.get("do_rescale", True) else 1.0
    white = 1.0 if isclose(factor * 255, 1.0, rel_tol=1e-6) else factor * 255
    names = ("do_normalize", "image_mean", "image_std", "do_flip_channel_order")
    return {name: given[name] for name in names if name in given}, white


def _numbers(value: Any, where: str) -> list[float]:
    """Return a number, or one per channel, as a list with one per channel.

    Raises:
        WeightsError: it is something else, or not positive where it divides.
    """
    several = value if isinstance(value, list) else [value] * 3
    good = bool(several) and all(
        type(one) in (int, float) and isfinite(one) and (one > 0 or where.endswith("mean"))
        for one in several
    )
    if not good:
        more = "" if where.endswith("mean") else " greater than 0"
        raise WeightsError(f"{where} is {value!r}; expected a number{more}, or one per channel.")
    return [float(one) for one in several]


def renamed_as_loaded(found: Mapping[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Give tensors the names in a network's memory; transformers writes others into files.

    Args:
        found: tensors by name; names that transformers does not write stay.
        network: a network of transformers.
    """
    own = list(network.state_dict())
    if set(found) <= set(own):
        return dict(found)
    numbers = {name: torch.tensor([number]) for number, name in enumerate(own)}
    with TemporaryDirectory() as folder, quiet_bars():
        network.save_pretrained(folder, state_dict=numbers)
        written = read_tensors(folder)
    loaded = {name: own[int(number)] for name, number in written.items()}
    return {loaded.get(name, name): tensor for name, tensor in found.items()}


def first_line(error: Exception) -> str:
    """Return the first line of a library's error message, or the error's name."""
    plain = isinstance(error, OSError | ValueError | RuntimeError | SafetensorError)
    said = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return said if said and plain else ": ".join(filter(None, (type(error).__name__, said)))


def inner_config(config: Any) -> Any:
    """Return the config of a network's encoder if it has its own, or None.

    For a pyramid on a ViT, it is the ViT's.
    """
    inner = getattr(config, "backbone_config", None)
    return None if inner is None else inner_config(inner) or inner


def _is_timm(config: Any) -> bool:
    return config is not None and config.model_type == "timm_backbone"


def channels_of(config: Any) -> int:
    """Return the number of input channels in a config."""
    for part in (config, inner_config(config)):
        if getattr(part, "num_channels", None):
            return int(part.num_channels)
    return 3


def set_channels(config: Any, num_channels: int) -> None:
    """Set the number of input channels everywhere in a config."""
    config.num_channels = num_channels
    if hasattr(config, "stem_channels"):  # HGNetV2 has it twice
        config.stem_channels = [num_channels, *config.stem_channels[1:]]
