"""The steps of `segacc evaluate` and `segacc compare`, in order."""

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from segacc.commands.console import load_plugins, quiet_libraries
from segacc.data.splits import ALSO, VALIDATION
from segacc.errors import is_main
from segacc.evaluation.model_folder import (
    SETTINGS,
    Model,
    find_model,
    local_model,
    run_settings,
)
from segacc.hookspecs import Chosen
from segacc.registry import choose, refuse_twins
from segacc.settings.config import CompareConfig, EvaluateConfig
from segacc.training.folders import evaluation_folder, writable


def from_run(given: str, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the data that a model's run was scored on, unless typed.

    With `--dataset`, none are taken; with another `--split`, those of a held-out split are not.

    Args:
        given: the model, as the user typed it.
        typed: the settings that the user typed.
    """
    model = None if "dataset" in typed else local_model(given, "MODEL")
    run = run_settings(model) if model else None
    if run is None:
        return {}
    found: dict[str, Any] = {"dataset": run.dataset, "split": run.eval_split}
    same = typed.get("split", run.eval_split) in (run.eval_split, VALIDATION, *ALSO)
    if same and (run.val_fraction is not None or "val_fraction" in typed):
        keys = ("val_fraction", "train_split", "seed")
        found |= {key: getattr(run, key) for key in keys}
    return {key: value for key, value in found.items() if key not in typed}


def evaluate_command(given: str, config: EvaluateConfig, stored: Collection[str] = ()) -> int:
    """Score a model on a split, print the scores and write the evaluation folder.

    Args:
        given: the model; see `find_model`.
        config: the settings.
        stored: names of the settings that are from the model's run.

    Returns:
        1 if `--verify` finds a difference, else 0.
    """
    registry = load_plugins()
    dataset = choose(registry, "dataset", config.dataset, "--dataset")
    metrics = [choose(registry, "metric", one, "--metric") for one in config.metric]
    refuse_twins([one.text for one in metrics], "--metric")
    model = find_model(given, "MODEL")
    folder = evaluation_folder(model, config.output_dir)
    console = Console(soft_wrap=True) if is_main() else Console(quiet=True)
    if line := taken(model, dataset, config, stored):
        console.out(line, highlight=False)
    with console.status("Loading torch, the data and the weights ..."):
        quiet_libraries()
        from segacc.commands.evaluate.report import write_evaluation
        from segacc.commands.evaluate.score import build_scoring, protocol_source, report, score
        from segacc.commands.evaluate.verify import verify
        from segacc.commands.tables import print_scores

        scoring, segmenter, split = build_scoring(model, dataset, metrics, config)
        config = replace(config, split=split)
    labels, source = segmenter.labels, protocol_source(model, segmenter, config)
    console.out(f"protocol {scoring.protocol.text()}, {source}", highlight=False)
    found = score(scoring, labels.names, console)
    verified = verify(scoring, found, labels, config.verify) if config.verify else None
    if is_main():
        told = report(model, scoring, found, config, source)
        told |= {"verified": verified.to_dict()} if verified else {}
        write_evaluation(folder, scoring, found, told, labels)
        print_scores(
            console,
            found.scores,
            names=labels.names,
            palette=labels.palette,
            title=told["title"],
            rules=scoring.terms().rules(),
            intervals=found.intervals if "mean_iou" in found.scores else None,
        )
        console.out(f"written to {folder}", highlight=False)
        if verified:
            (sys.stdout if verified.agrees else sys.stderr).write(f"{verified.text()}\n")
    scoring.accelerator.end_training()
    return int(verified is not None and not verified.agrees)


def taken(model: Model, dataset: Chosen, config: EvaluateConfig, stored: Collection[str]) -> str:
    """Return a line on which model was found, and which settings are from its run; or nothing."""
    values = {**asdict(config), "dataset": dataset.text}
    flags = [f"--{key.replace('_', '-')} {values[key]}" for key in stored]
    settings = f"{' '.join(flags)} from {model.run}/{SETTINGS}" if flags else ""
    told = model.told or (f"model {model.name}" if flags else "")
    return "; ".join(filter(None, (told, settings)))


def compare_command(a: Path, b: Path, config: CompareConfig) -> int:
    """Compare two evaluations; print a table and a verdict, write compare.json and compare.png."""
    if not is_main():
        return 0
    folder = writable(config.output_dir.expanduser(), "--output-dir")
    from segacc.commands.evaluate.compare import (
        compare,
        draw_comparison,
        evaluation_in,
        print_comparison,
        read_side,
    )

    sides = (read_side(evaluation_in(one, where), where) for one, where in ((a, "A"), (b, "B")))
    found = compare(*sides, resamples=config.resamples, seed=config.seed)
    console = Console(soft_wrap=True)
    print_comparison(console, found)
    draw_comparison(found, folder / "compare.png")
    (folder / "compare.json").write_text(json.dumps(found.to_dict(), indent=1), encoding="utf-8")
    console.out(f"written to {folder / 'compare.json'}, {folder / 'compare.png'}", highlight=False)
    return 0
