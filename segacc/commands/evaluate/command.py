"""The steps of `segacc evaluate` and `segacc compare`, in order."""

import json
import sys
from pathlib import Path

from rich.console import Console

from segacc.commands.console import load_plugins, quiet_libraries
from segacc.errors import is_main
from segacc.registry import choose, refuse_twins
from segacc.settings.config import CompareConfig, EvaluateConfig
from segacc.training.folders import evaluation_folder, model_folder, writable


def evaluate_command(model: str, config: EvaluateConfig) -> int:
    """Score a model folder on a split, print the scores and write the evaluation folder.

    Return 1 if `--verify` finds a difference.
    """
    registry = load_plugins()
    dataset = choose(registry, "dataset", config.dataset, "--dataset")
    metrics = [choose(registry, "metric", given, "--metric") for given in config.metric]
    refuse_twins([one.text for one in metrics], "--metric")
    folder = evaluation_folder(model_folder(model, "MODEL_FOLDER"), config.output_dir)
    console = Console(soft_wrap=True) if is_main() else Console(quiet=True)
    with console.status("Loading torch, the data and the weights ..."):
        quiet_libraries()
        from segacc.commands.evaluate.report import write_evaluation
        from segacc.commands.evaluate.score import build_scoring, protocol_source, report, score
        from segacc.commands.evaluate.verify import verify
        from segacc.commands.tables import print_scores

        scoring, segmenter = build_scoring(model, dataset, metrics, config)
    labels, source = segmenter.labels, protocol_source(model, segmenter, config)
    if dataset.note:
        console.out(dataset.note, highlight=False)
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


def compare_command(a: Path, b: Path, config: CompareConfig) -> int:
    """Compare two evaluations; print a table and a verdict, write compare.json and compare.png."""
    if not is_main():
        return 0
    folder = writable(config.output_dir.expanduser(), "--output-dir")
    from segacc.commands.evaluate.compare import (
        compare,
        draw_comparison,
        print_comparison,
        read_side,
    )

    found = compare(
        read_side(a, "A"), read_side(b, "B"), resamples=config.resamples, seed=config.seed
    )
    console = Console(soft_wrap=True)
    print_comparison(console, found)
    draw_comparison(found, folder / "compare.png")
    (folder / "compare.json").write_text(json.dumps(found.to_dict(), indent=1), encoding="utf-8")
    console.out(f"written to {folder / 'compare.json'}, {folder / 'compare.png'}", highlight=False)
    return 0
