"""`segacc train --seeds N`: a run for each of several seeds, and the spread of their scores."""

import gc
import json
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from segacc.commands.evaluate.bootstrap import Intervals, intervals_of_runs
from segacc.commands.evaluate.command import check, finish, load
from segacc.commands.evaluate.per_image import REPORT
from segacc.commands.evaluate.sides import DIFFER, Side, read_sides
from segacc.commands.terminal.console import Patient, console_of
from segacc.commands.terminal.tables import interval_text, print_columns
from segacc.commands.train import launch_command, train_command
from segacc.data.atomic import replacing
from segacc.data.splits import ALSO, VALIDATION
from segacc.errors import OptionError, SegaccError, count_of, first_of
from segacc.evaluation.model_folder import SETTINGS, side_file
from segacc.evaluation.scores import finite, flat
from segacc.kernels.counts import iou
from segacc.registry import load_registry
from segacc.settings.config import TrainConfig
from segacc.settings.secrets import HIDDEN
from segacc.settings.sources import Layer, Settings, merge, plain, plain_values, read_yaml
from segacc.training.folders import seed_folders
from segacc.training.limits.launchers import start_command
from segacc.training.limits.signals import Starting
from segacc.training.plan import make_plan

SEEDS = "seeds.json"
"""File in the folder of a group: the scores of its runs, and their spread."""
APART = "seeds"
"""Folder in the evaluation of a run for the scores of SEEDS, if the user's are others."""
OWN = {"--seeds": 1, "--seed": 1, "--output-dir": 1, "--resume": 1, "--overwrite": 0}
"""Flags that differ between the runs of a group, and whether they take a value."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only."""

    folder: Path
    seeds: range
    layers: list[Layer]
    """The sources of the settings that the user gave."""
    args: list[str]
    """The arguments of `segacc train`, without OWN."""
    overwrite: bool
    """Whether runs that are there already are replaced."""
    begun: Layer | None
    """The settings of a run that has a checkpoint; those without one begin with them, too."""

    def run_folder(self, seed: int) -> Path:
        """Return the run folder of a seed."""
        return self.folder / f"seed-{seed}"

    def command(self) -> str:
        """Return the command that goes on with the runs that are not finished."""
        words = [*self.args, "--seeds", str(len(self.seeds))]
        words += ["--seed", str(self.seeds.start), "--output-dir", str(self.folder)]
        return f"{start_command()} {shlex.join(words)}"

    def layers_of(self, seed: int) -> list[Layer]:
        """Return the sources of the settings of a run."""
        folder = self.run_folder(seed)
        place = {
            "seed": seed,
            "output_dir": str(folder),
            "resume": None if self.overwrite else "auto",
            "overwrite": self.overwrite,
        }
        begun = [self.begun] if self.begun and not has_checkpoint(folder) else []
        return [*begun, *self.layers, Layer(place, "command line")]

    def start(self, seed: int, processes: int) -> int:
        """Train the run of a seed, or go on with it; return the exit code."""
        layers, folder = self.layers_of(seed), self.run_folder(seed)
        if processes == 1:
            return train_command(layers, started=time.monotonic())
        words = ["--seed", str(seed), "--output-dir", str(folder)]
        words += ["--overwrite"] if self.overwrite else ["--resume", "auto"]
        typed = {word.partition("=")[0] for word in self.args}
        if self.begun is layers[0] and not {"--config", "--recipe"} & typed:
            words += ["--config", self.begun.source]
        return launch_command(layers, processes, [*self.args, *words])


def seeds_command(layers: list[Layer], count: int, processes: int, args: list[str]) -> int:
    """Train a run for each seed, one after the other, then print and write their scores.

    Args:
        layers: the sources of the settings.
        count: number of seeds.
        processes: number of processes of each run.
        args: the arguments of `segacc train`.

    Returns:
        0, or the exit code of a run that was stopped.
    """
    group, console = group_of(layers, count, args), console_of(kind=Patient)
    for number, seed in enumerate(group.seeds, 1):
        folder = group.run_folder(seed)
        console.out(f"seed {seed} ({number} of {count}): {folder}", highlight=False)
        try:
            code = group.start(seed, processes)
        except SegaccError as error:
            same = f"the same command{', without --overwrite,' * group.overwrite}"
            told = f"Once this is fixed, {same} goes on with the seeds that are missing."
            error.args = (f"{error} {told}",)
            raise
        gc.collect()  # the run's tensors, before the next one is built
        if code:
            console.out(f"`{group.command()}` goes on with all seeds", highlight=False)
            return code
    Starting(lambda name: f"{name}: all runs are trained; `{group.command()}` scores them.")
    given = merge(layers).config
    spread = spread_of(group, [evaluate_run(group.run_folder(seed), given) for seed in group.seeds])
    spread.show(console)
    with replacing(group.folder / SEEDS) as part:
        part.write_text(json.dumps(spread.to_dict(), indent=1), encoding="utf-8")
    console.out(f"written to {group.folder / SEEDS}", highlight=False)
    return 0


def group_of(layers: list[Layer], count: int, args: list[str]) -> Group:
    """Check the settings of a group of runs.

    Raises:
        SegaccError: a setting is invalid, or does not go with several seeds.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1:
        raise OptionError(
            f"--seeds: a launcher has started {launched} processes, which train a single run. Use "
            f"`segacc train --processes {launched} --seeds {count} ...`, or launch each run by "
            "itself with --seed 0 --output-dir DIR/seed-0 and so on; `segacc compare` and `segacc "
            "report` then take DIR."
        )
    given = merge(layers)
    refuse_single(given)
    if (folder := given.config.output_dir) and (folder / SETTINGS).is_file():
        raise OptionError(
            f"{given.where('output_dir')}: {folder} is a run folder; --seeds needs the folder of a "
            "group, in which it makes one for each seed. Choose another one."
        )
    anew, registry = given.config.overwrite, load_registry()
    there = seed_folders(folder) if folder and not anew else []
    ready = [read_yaml(one / SETTINGS, "--seeds") for one in there if has_checkpoint(one)]
    first = merge([*ready[:1], *layers]).config.seed
    seeds = range(first, first + count)
    refuse_left_out(there, seeds)
    if folder is None:
        folder = make_plan([*layers, Layer({"resume": None}, "command line")], registry).folder
    group = Group(folder, seeds, layers, without_own(args), anew, ready[0] if ready else None)
    plan = make_plan(group.layers_of(first), registry)
    refuse_held_out(plan.settings)
    if group.begun:
        refuse_changes(plan.settings, group.begun, folder)
    return group


def has_checkpoint(run: Path) -> bool:
    """Return whether a run folder has a checkpoint."""
    return any((run / "checkpoints").glob("step-*"))


def refuse_left_out(there: Sequence[Path], seeds: range) -> None:
    """Refuse a range of seeds without some that are in the folder of the group.

    Raises:
        OptionError: there are runs of other seeds.
    """
    found = [int(run.name.removeprefix("seed-")) for run in there]
    if others := [str(one) for one in found if one not in seeds]:
        low, high = min(*found, seeds[0]), max(*found, seeds[-1])
        raise OptionError(
            f"--seeds: {there[0].parent} has runs of other seeds, too ({first_of(others, 8)}). "
            f"Give --seed {low} --seeds {high - low + 1}, or choose another --output-dir."
        )


def refuse_changes(settings: Settings, begun: Layer, folder: Path) -> None:
    """Refuse settings by which the runs of a group would differ in more than their seed.

    Raises:
        OptionError: a setting is not that of the runs that have begun.
    """
    from segacc.training.tracking.identity import NUMBERS

    now, was = plain_values(settings), plain_values(merge([begun]))
    for key in ("arch", *NUMBERS, "batch_size", "gradient_accumulation_steps"):
        if key != "seed" and now.get(key) != was.get(key):
            raise OptionError(
                f"{settings.where(key)}: {now.get(key)}: the runs in {folder} were started with "
                f"{was.get(key)}, and differ in their seed only. Leave it out, or choose another "
                "--output-dir."
            )


def refuse_single(given: Settings) -> None:
    """Refuse settings that are those of a single run.

    Raises:
        OptionError: a run is resumed by its folder, or uploaded.
    """
    config, where = given.config, given.where
    if config.resume not in (None, "auto"):
        raise OptionError(
            f"{where('resume')}: {config.resume}: with --seeds, the runs in --output-dir are "
            "continued without it; leave it out."
        )
    if config.push_to_hub:
        raise OptionError(
            f"{where('push_to_hub')}: the runs of --seeds would overwrite each other; leave it out "
            "and upload one of them with `segacc push`."
        )


def refuse_held_out(settings: Settings) -> None:
    """Refuse a validation split that differs between seeds.

    Raises:
        OptionError: it is drawn with the seed.
    """
    config, where = settings.config, settings.where("val_fraction")
    if (share := config.val_fraction) is not None:
        first, train = f"{100 * (1 - share):.0f}%", config.train_split
        raise OptionError(
            f"{where}: {share:g} of {train} is drawn with the seed, so each of the --seeds would "
            f"be scored on other images. Give a fixed part: --train-split '{train}[:{first}]' "
            f"--eval-split '{train}[{first}:]'."
        )


def without_own(args: Sequence[str]) -> list[str]:
    """Return the arguments of `segacc train` without the flags in OWN and their values."""
    left, words = list[str](), list(args)
    while words:
        word = words.pop(0)
        name, equals, _ = word.partition("=")
        name = name.replace("--no-overwrite", "--overwrite")
        if name not in OWN:
            left.append(word)
        elif OWN[name] and not equals and words and not words[0].startswith("--"):
            words.pop(0)
    return left


def evaluate_run(folder: Path, given: TrainConfig) -> Path:
    """Score the best weights of a run on its validation split, unless that was done before.

    Return the folder: that of `segacc evaluate`, or APART in it if that has other scores.
    """
    stored = merge([read_yaml(folder / SETTINGS)]).config
    usual = folder / "best" / "evaluation"
    other = (usual / REPORT).is_file() and not is_own(usual, stored)
    place = usual / APART if other else usual
    if (place / REPORT).is_file():
        return place
    keys = ("metric", "num_workers", "skip_unreadable", "mixed_precision", "eval_batch_size")
    values = {"output_dir": place, **{key: getattr(stored, key) for key in keys}}
    if HIDDEN in str(stored.dataset):  # its password is in the given settings only
        values |= {"dataset": given.dataset, "split": stored.eval_split}
    loaded = load(check(str(folder), Layer(values, "command line")))
    finish(loaded, console_of(stderr=True))
    loaded.scoring.accelerator.end_training()
    return place


def is_own(evaluation: Path, stored: TrainConfig) -> bool:
    """Return whether an evaluation of best/ is on the run's validation split, by its rules."""
    try:
        report = dict(json.loads((evaluation / REPORT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return False
    base, bracket, part = stored.eval_split.partition("[")
    also = f"{VALIDATION}{bracket}{part}" if base in ALSO else stored.eval_split
    best = side_file(evaluation.parent)
    wanted = {"dataset": plain(stored.dataset), "carved": None, **best.get("terms", {})}
    return (
        report.get("split") in (stored.eval_split, also)
        and all(report.get(key, "") == value for key, value in wanted.items())
        and best.get("scores", {}).keys() - {"val_loss"} <= report.get("scores", {}).keys()
    )


@dataclass(frozen=True)
class Spread:
    """The scores of the runs of a group."""

    group: Group
    side: Side
    """The evaluations, in the order of the seeds."""
    best_by: str
    intervals: Intervals
    """Intervals of the means over the runs."""

    def scores(self, name: str) -> list[float]:
        """Return a score of each evaluation; nan if it has none."""
        stored = (side_file(self.group.run_folder(seed) / "best") for seed in self.group.seeds)
        found = [  # val_loss is a score of the training only
            flat({**one.get("scores", {}), **run.report["scores"]}).get(name)
            for one, run in zip(stored, self.side.runs, strict=True)
        ]
        return [float("nan") if one is None else one for one in found]

    def show(self, console: Console) -> None:
        """Print a row for each seed, and mean, standard deviation and range of the scores."""
        console.out(f"{self.data()}; {self.side.terms()}", highlight=False)
        rows = [f"seed {seed}" for seed in self.group.seeds]
        ends = [run.report["intervals"]["mean_iou"] for run in self.side.runs]
        columns = {
            name: {row: f"{x:.4f}" for row, x in zip(rows, self.scores(name), strict=True)}
            for name in self.names()
        }
        told = {row: interval_text(one) for row, one in zip(rows, ends, strict=True) if one}
        columns = {"mean_iou": columns.pop("mean_iou"), "95 % interval": told, **columns}
        steps = zip(rows, self.steps(), strict=True)
        columns["best step"] = {row: str(step) for row, step in steps}
        print_columns(console, columns, rows, heading="run")
        for line in self.lines():
            console.out(line, highlight=False)

    def data(self) -> str:
        """Return what was scored."""
        return f"{self.side.report['split']}, {count_of(len(self.side.images), 'image')}"

    def names(self) -> list[str]:
        """Return the scores that are shown: mean_iou, and the one that selects best/."""
        return list(dict.fromkeys(["mean_iou", self.best_by]))

    def steps(self) -> list[int]:
        """Return the step of each run's best weights."""
        folders = (self.group.run_folder(seed) / "best" for seed in self.group.seeds)
        return [side_file(folder).get("step", 0) for folder in folders]

    def lines(self) -> list[str]:
        """Return a line on the spread of each score, and on the interval of the mean."""
        lines = []
        for name in self.names():
            told = spread(self.scores(name))
            text = f"{name} of {count_of(len(self.group.seeds), 'run')}: mean {told['mean']:.4f}"
            if told["std"] is not None:
                text += f", standard deviation {told['std']:.4f}"
            lines.append(f"{text}, range {told['min']:.4f} to {told['max']:.4f}")
        if ends := self.intervals.mean_iou:
            over = f"{self.intervals.percent} interval of the mean of mean_iou"
            lines += [f"{over}: {interval_text(ends)}", self.intervals.text()]
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the content of seeds.json."""
        runs = zip(self.group.seeds, self.side.runs, self.steps(), strict=True)
        counts = np.stack([iou(run.images.total()) for run in self.side.runs])  # (M, K)
        classes = zip(self.side.images.names, counts.T.tolist(), strict=True)
        return {
            **{key: self.side.report[key] for key in DIFFER},
            "runs": [
                {
                    "seed": seed,
                    "folder": self.group.run_folder(seed).name,
                    "best_step": step,
                    "scores": run.report["scores"],
                    "intervals": run.report["intervals"],
                }
                for seed, run, step in runs
            ],
            **{name: finite(spread(self.scores(name))) for name in self.names()},
            "per_category_iou": {name: finite(spread(row)) for name, row in classes},
            "intervals": self.intervals.to_dict(),
        }


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean, standard deviation (M - 1; None for one value), minimum and maximum; no nan."""
    known = [one for one in values if one == one] or [float("nan")]
    deviation = float(np.std(known, ddof=1)) if len(known) > 1 else None
    mean = float(np.mean(known))
    return {"mean": mean, "std": deviation, "min": min(known), "max": max(known)}


def spread_of(group: Group, evaluations: Sequence[Path]) -> Spread:
    """Read the evaluations of a group, in the order of its seeds.

    Raises:
        SegaccError: one is missing or damaged, or they are of different images or rules.
    """
    side = read_sides(evaluations, "--seeds")
    stored: TrainConfig = merge([read_yaml(group.run_folder(group.seeds[0]) / SETTINGS)]).config
    both = frozenset.intersection(*(frozenset(run.images.ids) for run in side.runs))
    images = [run.images.among(both) for run in side.runs]
    return Spread(group, side, str(stored.best_by), intervals_of_runs(images))
