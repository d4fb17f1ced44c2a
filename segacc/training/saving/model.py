"""Write the model folders best/ and last/: weights, side file and model card."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from segacc.contracts import VERSION
from segacc.errors import OptionError, WriteError
from segacc.evaluation.model_folder import NETWORK, SIDE_FILE
from segacc.evaluation.scores import Weights, finite
from segacc.evaluation.scoring import SHARDED
from segacc.model.adapters import merged
from segacc.model.checksums import WEIGHTS_SUMS, seal_weights
from segacc.registry import options_text
from segacc.settings.secrets import shown
from segacc.training import checkpoint
from segacc.training.checkpoint import write_folder
from segacc.training.events import Saved
from segacc.training.optim.adapters import FOLDER, save_adapters
from segacc.training.optim.ema import Ema
from segacc.training.optim.lora import choose_lora
from segacc.training.plan import Plan
from segacc.training.processes import bare, bare_names
from segacc.training.run import Run
from segacc.training.saving.card import write_card


def save_model(run: Run, name: str) -> Path:
    """Save the network as the folder `name`/ with the newest scores; called on all processes.

    With `--ema` the averaged weights are saved; the raw weights are in the checkpoints.
    """
    folder = run.folder / name
    with using(run, kinds(run)[-1]):
        state_dict = bare_names(run.accelerator.get_state_dict(bare(run.model)))

        def fill(part: Path) -> None:
            if run.accelerator.is_main_process:
                whole = apart(run, part, state_dict)
                run.network.save_pretrained(part, names=run.labels.names, state_dict=whole)
                (part / SIDE_FILE).write_text(json.dumps(side_file(run), indent=1, default=str))
                write_card(run, part)

        write_folder(folder, fill, run.accelerator, last=seal_weights)
    if run.accelerator.is_main_process:
        drop_twin(folder, run.progress.step)
    return folder


def drop_twin(folder: Path, step: int) -> None:
    """Remove the best-step-N/ of a killed run once it goes on and has made the same weights."""
    twin = checkpoint.aside(folder, step)
    sums = [one / WEIGHTS_SUMS for one in (folder, twin)]
    if sums[1].is_file() and sums[0].read_bytes() == sums[1].read_bytes():
        shutil.rmtree(twin, ignore_errors=True)


def forget_best(run: Run) -> None:
    """Reset the best score if best/ does not exist any more; the next evaluation is then the best.

    A best-step-N/ of a step to come was made by a killed run: going on, it makes a best/ there.
    """
    progress = run.progress
    if progress.best is None:
        return
    best, left = run.folder / "best", progress.step < run.max_steps
    newest = max(run.folder.glob("best-step-*"), default=best)
    to_come = left and newest > checkpoint.aside(best, progress.step)
    (there,) = broadcast_object_list([best.is_dir() or to_come])
    if not there:
        progress.best = progress.best_step = None
        run.notes.append("best/ was removed, so the next evaluation counts as the best")


def apart(run: Run, part: Path, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Write the adapters of `--lora` to a folder of their own; return the tensors, merged."""
    if (options := choose_lora(run.plan.settings)) is None:
        return state_dict
    base = run.base.name if run.base and run.base.on_hub else None
    save_adapters(part / FOLDER, run.network, options, state_dict, base)
    return merged(state_dict, options.scale)


def attempt(run: Run, save: Callable[[], Saved]) -> Saved | None:
    """Save; if it fails with `--on-save-error continue`, warn and return None.

    Raises:
        WriteError: on all processes, if one could not write and the run is to stop.
    """
    try:
        return save()
    except WriteError as error:
        if run.config.on_save_error == "stop":
            raise
        if run.accelerator.is_main_process:
            sys.stderr.write(
                shown(f"warning: {error} The run goes on (--on-save-error continue).\n")
            )
        return None


def save_description(run: Run) -> None:
    """Write what describes the network of the run's checkpoints, all but its weights."""
    folder = run.folder / NETWORK
    folder.mkdir(exist_ok=True)
    run.network.save_settings(folder)
    if not (folder / "config.json").is_file():
        names = {"id2label": dict(enumerate(run.labels.names))}
        (folder / "config.json").write_text(json.dumps(names, indent=1))
    (folder / SIDE_FILE).write_text(json.dumps(side_file(run), indent=1, default=str))


def side_file(run: Run) -> dict[str, Any]:
    """Return the content of segacc.json, the side file for what transformers does not store."""
    lora = choose_lora(run.plan.settings)
    return {
        "segacc_version": VERSION,
        "step": run.progress.step,
        "architecture": options_text(run.plan.arch),
        "plugin": {"distribution": run.plan.arch.distribution, "version": run.plan.arch.version},
        "facts": dataclasses.asdict(run.facts),
        "labels": run.labels.to_dict(),
        "bits": run.plan.dataset.bits,
        "protocol": run.scoring.protocol.text(),
        "terms": dataclasses.asdict(run.scoring.terms()),
        "size_rule": dataclasses.asdict(run.network.size_rule),
        "normalization": {"mean": run.network.mean, "std": run.network.std},
        "lora": lora.to_dict() if lora else None,
        "base_model": run.base.to_dict() if run.base else None,
        "scores": finite(run.progress.scores),
        "scored_at_step": run.progress.evaluated,
    }


def kinds(run: Run) -> tuple[Weights, ...]:
    """Return the kinds of weights that are scored; the last one decides what is best and saved."""
    return ("raw", "ema") if run.ema else ("raw",)


def build_ema(plan: Plan, model: Any, accelerator: Accelerator) -> Ema | None:
    """Build the moving average of the weights, if `--ema` is given.

    Raises:
        OptionError: the network is sharded in another way than by FSDP2.
    """
    decay, kind = plan.settings.config.ema, accelerator.distributed_type
    if decay is None:
        return None
    if kind in SHARDED and not accelerator.is_fsdp2:
        where = plan.settings.where("ema")
        raise OptionError(
            f"{where}: not supported with {kind.value}; the only sharding it supports is FSDP2."
        )
    return Ema(model, decay)


@contextmanager
def using(run: Run, weights: Weights) -> Iterator[None]:
    """Use these weights for the network inside the block, identical on all processes."""
    run.scoring.weights = weights
    with run.ema.in_place_of(run.model) if run.ema and weights == "ema" else nullcontext():
        if run.accelerator.num_processes > 1:
            for buffer in run.network.buffers():  # batch norm statistics differ by process
                torch.distributed.broadcast(buffer, 0)
        yield


def average(run: Run) -> None:
    """Update the EMA after an optimizer step, if there is one.

    Steps that fp16's gradient scaler skipped do not count. For a fused optimizer accelerate does
    not notice them, but `guard.overflow` does.
    """
    skipped = run.accelerator.optimizer_step_was_skipped or run.guard.overflow
    if run.ema and not skipped:
        run.ema.update(run.model)
