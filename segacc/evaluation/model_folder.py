"""Find a model by what the user typed; read its segacc.json and the settings of its run."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.errors import WeightsError, expand
from segacc.model.checksums import refuse_damaged
from segacc.model.exported import description, is_exported
from segacc.model.hub import INSTEAD, find, local_folder, weight_file
from segacc.registry import Offer, Registry
from segacc.settings.config import TrainConfig
from segacc.settings.sources import merge, read_yaml

if TYPE_CHECKING:
    from segacc.model import SegmentationModel
    from segacc.model.transfer import LoadReport

SIDE_FILE = "segacc.json"
"""File that segacc adds to a transformers folder: label map, protocol, architecture, plugin."""
WHOLE = ("architecture", "facts", "labels", "protocol", "size_rule")
"""Keys of the side file that inference needs."""
NETWORK = "network"
"""Folder in a run folder that describes the network of its checkpoints, without weights."""
SETTINGS = "config.yaml"
"""File in a run folder with its settings."""
PROGRESS, COMPLETE = "progress.json", "SHA256SUMS"
"""Files in a checkpoint; the second is written last."""
RAW, AVERAGES = "model.safetensors", "ema/averages.safetensors"
"""Files in a checkpoint: the trained weights, and their moving average if the run has one."""


@dataclass(frozen=True)
class Model:
    """A model that was found."""

    folder: Path
    """A model folder, a checkpoint, an exported file or a file of weights."""
    about: Path
    """The folder with its config.json and segacc.json; for a checkpoint, one of its run folder."""
    name: str
    """The folder, or the Hub id."""
    weights: Path | None = None
    """The file of a checkpoint's weights; None if they are in `folder`."""
    run: Path | None = None
    """The run folder that it belongs to."""
    told: str = ""
    """What was found for the user's input; empty for a model folder."""

    @property
    def exported(self) -> bool:
        """Whether it is a file of `segacc export`."""
        return self.folder.is_file()

    @property
    def on_hub(self) -> bool:
        """Whether it is from the Hub, so that nothing should be written to its folder."""
        return self.name != str(self.folder)

    def load_into(
        self,
        network: "SegmentationModel",
        *,
        class_names: Sequence[str] = (),
        fresh_head: bool = False,
    ) -> "LoadReport":
        """Load the weights into a network; see `SegmentationModel.load_weights`."""
        given: Any = {"class_names": tuple(class_names), "fresh_head": fresh_head}
        if self.folder.is_file():
            return network.load_file(self.folder, **given)
        if self.weights is None:
            refuse_damaged(self.folder)
            report = network.load_weights(str(self.folder), **given)
        else:
            refuse_damaged(
                self.folder, COMPLETE, [self.weights.relative_to(self.folder).as_posix()]
            )
            report = network.load_checkpoint(self.weights, self.about, **given)
        if not (self.about / "preprocessor_config.json").is_file():  # a network of plain torch
            colors = side_file(self.about).get("normalization", {})
            for name, values in colors.items():
                setattr(network, name, tuple(values))
        return report


def initial_model(given: str, where: str) -> Model | None:
    """Find the initial weights of a run on disk: a model or a file of weights; None for a Hub id.

    Raises:
        WeightsError: see `local_model`.
    """
    if file := weight_file(given, where):
        return Model(file, file, str(file))
    return local_model(given, where)


def find_model(given: str, where: str, *, only_config: bool = False, files: bool = False) -> Model:
    """Find a model: a model folder, a run folder (its best/), a checkpoint or a Hub id.

    Args:
        given: what the user typed.
        where: where it was typed.
        only_config: of a model on the Hub, config.json is enough.
        files: whether it may be an exported file.

    Raises:
        WeightsError: there is no model; see `local_model`.
    """
    if found := local_model(given, where, files=files):
        return found
    instead = INSTEAD if where == "--weights" else "Give a folder on disk."
    folder = Path(find(given, only_config=only_config, where=where, instead=instead))
    return Model(folder, folder, given, told=f"model {given} of the Hub")


def local_model(given: str, where: str, *, files: bool = False) -> Model | None:
    """Find a model on disk; None for a Hub id. An exported file is found if `files` may be.

    Raises:
        WeightsError: the path does not exist, or is none of the three kinds of folders.
    """
    if files and is_exported(file := expand(given, where)):
        run = _run_of(file) or _run_of(file.parent)
        return Model(file, file, str(file), run=run)
    folder = local_folder(given, where)
    if folder is None:
        return None
    if (folder / "config.json").is_file():
        return Model(folder, folder, str(folder), run=_run_of(folder))
    if (folder / PROGRESS).is_file() and (folder / COMPLETE).is_file():
        return _checkpoint(folder, where)
    best = folder / "best"
    if (best / "config.json").is_file():
        step = side_file(best).get("step")
        of_step = "" if step is None else f", step {step}"
        told = f"model {best}, the best one of this run{of_step}"
        return Model(best, best, str(best), run=folder, told=told)
    raise WeightsError(
        f"{where}: {given} is not a model folder: it has no config.json.{_hint(folder)}"
    )


def _run_of(folder: Path) -> Path | None:
    """Return the run folder of a best/ or last/."""
    above = folder.resolve().parent if folder.name in ("", "..") else folder.parent
    return above if (above / SETTINGS).is_file() else None


def _hint(folder: Path) -> str:
    """Name a model in a folder that has no best/."""
    if (folder / "last" / "config.json").is_file():
        return f" It has no best/; did you mean {folder / 'last'}?"
    patterns = (f"step-*/{COMPLETE}", f"checkpoints/step-*/{COMPLETE}")
    checkpoints = sorted(path.parent for one in patterns for path in folder.glob(one))
    return f" Did you mean its newest checkpoint, {checkpoints[-1]}?" if checkpoints else ""


def _checkpoint(folder: Path, where: str) -> Model:
    """Return a checkpoint, with its moving average if it has one, as best/ would have it.

    Raises:
        WeightsError: it was moved out of its run folder, or its weights are in another format.
    """
    plain = len(folder.parts) > 2 and ".." not in folder.parts
    near = (folder if plain else folder.resolve()).parent.parent
    described = [near / name for name in (NETWORK, "last", "best")]
    about = next((one for one in described if side_file(one, WHOLE)), None)
    if about is None:
        raise WeightsError(
            f"{where}: {folder} is a checkpoint, which holds weights only; {SIDE_FILE}, which "
            f"describes its network, is missing in {', '.join(map(str, described))}. Give a "
            "checkpoint in its run folder, or a model folder."
        )
    weights = next((folder / name for name in (AVERAGES, RAW) if (folder / name).is_file()), None)
    if weights is None:
        raise WeightsError(
            f"{where}: {folder} has no {RAW}: its weights are in the format of FSDP or DeepSpeed, "
            f"which only --resume reads. Give best/ or last/ of {near}."
        )
    kind = "EMA weights" if weights == folder / AVERAGES else "weights"
    told = f"model {folder}: {kind} of this checkpoint"
    return Model(folder, about, str(folder), weights, near, told)


def run_settings(model: Model, where: str) -> TrainConfig | None:
    """Return the settings of the run that a model belongs to; None if there is none.

    Args:
        model: the model.
        where: where it was typed.

    Raises:
        OptionError: its config.yaml cannot be read.
    """
    path = model.run / SETTINGS if model.run else None
    return merge([read_yaml(path, where)]).config if path and path.is_file() else None


def side_file(folder: Path, needed: Collection[str] = ()) -> dict[str, Any]:
    """Read segacc.json, or that in an exported file; an empty dict if there is none.

    Raises:
        WeightsError: it is damaged, or lacks a needed key.
    """
    if is_exported(folder):
        return description(folder)
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
        config = json.loads(path.read_text(encoding="utf-8"))
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
