"""What commands that score a model take from config.yaml of its run."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from segacc.commands.terminal.console import Where
from segacc.data.splits import ALSO, VALIDATION
from segacc.errors import OptionError
from segacc.evaluation.model_folder import SETTINGS, local_model, run_settings
from segacc.hookspecs import Chosen
from segacc.settings.sources import Layer


def from_run(given: str, layer: Layer) -> dict[str, Any]:
    """Return the settings of the data that a model's run was scored on, unless typed.

    With `--dataset`, none are taken; with another `--split`, those of a held-out split are not.

    Args:
        given: the model, as the user typed it.
        layer: the given settings.
    """
    typed, where = layer.values, layer.where
    model = None if "dataset" in typed else local_model(given, where("model"), files=True)
    run = run_settings(model, where("model")) if model else None
    if run is None:
        return {}
    found: dict[str, Any] = {"dataset": run.dataset, "split": run.eval_split}
    same = typed.get("split", run.eval_split) in (run.eval_split, VALIDATION, *ALSO)
    if same and (run.val_fraction is not None or "val_fraction" in typed):
        keys = ("val_fraction", "train_split", "seed")
        found |= {key: getattr(run, key) for key in keys}
    return {key: value for key, value in found.items() if key not in typed}


def where_of(given: str, stored: Collection[str], where: Where) -> Where:
    """Return where settings are from: config.yaml of the model's run for those `stored` there.

    Args:
        given: the model, as the user typed it.
        stored: names of the settings that `from_run` returned.
        where: where the others were typed.
    """
    model = local_model(given, where("model"), files=True) if stored else None
    run = model.run if model else None
    return lambda key: f"{run / SETTINGS}: {key}" if run and key in stored else where(key)


def refuse_absent(dataset: Chosen, where: str, instead: str) -> None:
    """Refuse the data set of a run if its folder is not there, as seen from another folder.

    Args:
        dataset: the data set.
        where: where it is stored.
        instead: what gives another one.

    Raises:
        OptionError: the folder, or that of a part, does not exist.
    """
    for root in (getattr(one.options, "root", None) for one in (dataset, *dataset.parts)):
        if isinstance(root, Path) and not root.exists():
            raise OptionError(
                f"{where}: root={root} does not exist (looked in {root.resolve()}). A relative "
                "path of a run begins at the folder in which its training was started: start this "
                f"command there, or give the data set with {instead}."
            )
