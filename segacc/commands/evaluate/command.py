"""`segacc evaluate` and `segacc compare`, and their Python forms."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from segacc.commands.console import (
    Where,
    console_of,
    flag,
    load_plugins,
    quiet_libraries,
    text_of,
)
from segacc.errors import is_main
from segacc.hookspecs import Chosen
from segacc.registry import choose, refuse_twins
from segacc.settings.config import CompareConfig, EvaluateConfig
from segacc.settings.sources import Layer, config_of, keywords_of
from segacc.training.folders import evaluation_folder, model_folder, writable

if TYPE_CHECKING:
    from segacc.commands.evaluate.bootstrap import Intervals
    from segacc.commands.evaluate.compare import Comparison
    from segacc.commands.evaluate.verify import Verified
    from segacc.evaluation.scores import Scores
    from segacc.evaluation.scoring import Scoring
    from segacc.labels import LabelMap


def evaluate_command(model: str, config: EvaluateConfig) -> int:
    """Score a model folder on a split, print the scores and write the evaluation folder.

    Return 1 if `--verify` finds a difference.
    """
    checked = check(model, config, flag)
    console = console_of()
    with console.status("Loading torch, the data and the weights ..."):
        quiet_libraries()
        loaded = load(checked)
    if checked.dataset.note:
        console.out(checked.dataset.note, highlight=False)
    protocol = loaded.scoring.protocol.text()
    console.out(f"protocol {protocol}, {loaded.protocol_source}", highlight=False)
    result = finish(loaded, console)
    verified = result.verified
    if is_main():
        result.show(console)
        console.out(f"written to {result.folder}", highlight=False)
        if verified:
            (sys.stdout if verified.agrees else sys.stderr).write(f"{verified.text()}\n")
    loaded.scoring.accelerator.end_training()
    return int(verified is not None and not verified.agrees)


@keywords_of(EvaluateConfig)
def evaluate(model: str | Path, **settings: Any) -> "EvaluationResult":
    """Score a model folder on a split, as `segacc evaluate` does, and write the evaluation folder.

    A progress bar is shown on a terminal and in a notebook. On several processes all must call it.

    Args:
        model: `best/` or `last/` of a run, or any transformers folder.
        **settings: the options of `segacc evaluate`, whose `--help` explains them; `dataset` must
            be given.

    Raises:
        SegaccError: a setting is invalid, the network or the data set cannot be read, or their
            classes differ.
    """
    layer = Layer(settings, "segacc.evaluate")
    loaded = load(check(str(model), config_of(EvaluateConfig, layer), layer.where))
    return finish(loaded, console_of(stderr=True))


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """The scores of a network on a split; `print` shows them as `segacc evaluate` does."""

    title: str
    """The network, the split, the number of images and the protocol."""
    scores: "Scores"
    """Scores by name, those of classes as dicts by class name; nan for a class that is in neither
    labels nor predictions."""
    folder: Path
    """The folder of evaluation.json, per_image.parquet and pictures/."""
    report: dict[str, Any] = field(repr=False)
    """The content of evaluation.json, with None in place of nan."""
    intervals: "Intervals" = field(repr=False)
    """The bootstrap intervals of mean_iou and of each class's IoU."""
    verified: "Verified | None" = field(repr=False)
    """The result of `verify`; its `agrees` says whether the scores are equal."""
    rules: str = field(repr=False)
    """How pixels and classes count, in one line."""
    labels: "LabelMap" = field(repr=False)
    """The classes, with names and palette."""

    def show(self, console: Console) -> None:
        """Print the scores."""
        from segacc.commands.tables import print_scores

        print_scores(
            console,
            self.scores,
            names=self.labels.names,
            palette=self.labels.palette,
            title=self.title,
            rules=self.rules,
            intervals=self.intervals if "mean_iou" in self.scores else None,
        )

    def __str__(self) -> str:
        """Return the table of scores."""
        return text_of(self.show)


@dataclass(frozen=True)
class Checked:
    """An evaluation whose settings were checked, before torch is imported."""

    model: str
    config: EvaluateConfig
    where: Where
    dataset: Chosen
    metrics: list[Chosen]
    folder: Path
    """The folder to write."""


@dataclass(frozen=True)
class Loaded:
    """An evaluation with its network and data."""

    checked: Checked
    scoring: "Scoring"
    labels: "LabelMap"
    protocol_source: str
    """Where the protocol comes from."""


def check(model: str, config: EvaluateConfig, where: Where) -> Checked:
    """Check what can be checked without torch.

    Raises:
        SegaccError: a component is unknown, or a folder is invalid.
    """
    registry = load_plugins()
    dataset = choose(registry, "dataset", config.dataset, where("dataset"))
    metrics = [choose(registry, "metric", given, where("metric")) for given in config.metric]
    refuse_twins([one.text for one in metrics], where("metric"))
    folder = evaluation_folder(model_folder(model, where("model")), config.output_dir)
    return Checked(model, config, where, dataset, metrics, folder)


def load(checked: Checked) -> Loaded:
    """Load the network and open the split.

    Raises:
        SegaccError: one of them is not found, or their classes differ.
    """
    from segacc.commands.evaluate.score import build_scoring, protocol_source

    model, config, where = checked.model, checked.config, checked.where
    scoring, segmenter = build_scoring(model, checked.dataset, checked.metrics, config, where)
    source = protocol_source(model, segmenter, config, where)
    return Loaded(checked, scoring, segmenter.labels, source)


def finish(loaded: Loaded, console: Console) -> EvaluationResult:
    """Score the split with a progress bar; the main process writes the folder."""
    from segacc.commands.evaluate.report import write_evaluation
    from segacc.commands.evaluate.score import report, score
    from segacc.commands.evaluate.verify import verify

    checked, scoring, labels = loaded.checked, loaded.scoring, loaded.labels
    config = checked.config
    found = score(scoring, labels.names, console)
    verified = verify(scoring, found, labels, config.verify) if config.verify else None
    told = report(checked.model, scoring, found, config, loaded.protocol_source)
    told |= {"verified": verified.to_dict()} if verified else {}
    if is_main():
        told |= {"files": write_evaluation(checked.folder, scoring, found, told, labels)}
    return EvaluationResult(
        title=told["title"],
        scores=found.scores,
        folder=checked.folder,
        report=json.loads(json.dumps(told)),
        intervals=found.intervals,
        verified=verified,
        rules=scoring.terms().rules(),
        labels=labels,
    )


def compare_command(a: Path, b: Path, config: CompareConfig) -> int:
    """Compare two evaluations; print a table and a verdict, write compare.json and compare.png."""
    if not is_main():
        return 0
    console = console_of()
    found = compare_folders(a, b, config, flag)
    found.show(console)
    folder = config.output_dir.expanduser()
    console.out(f"written to {folder / 'compare.json'}, {folder / 'compare.png'}", highlight=False)
    return 0


@keywords_of(CompareConfig)
def compare(a: str | Path, b: str | Path, **settings: Any) -> "Comparison":
    """Test whether B scores better than A, as `segacc compare` does; it writes the same files.

    Args:
        a: an output folder of `evaluate`, such as `runs/a/best/evaluation`.
        b: another one, for the same images.
        **settings: the options of `segacc compare`: `resamples`, `seed` and `output_dir`.

    Returns:
        The comparison: its `verdict()`, `mean_iou`, `per_category_iou` and `notes()`; `to_dict()`
        is the content of compare.json, and `print` shows it as `segacc compare` does.

    Raises:
        SegaccError: a setting is invalid, or the two evaluations cannot be compared.
    """
    layer = Layer(settings, "segacc.compare")
    sides = Path(a).expanduser(), Path(b).expanduser()
    return compare_folders(*sides, config_of(CompareConfig, layer), layer.where)


def compare_folders(a: Path, b: Path, config: CompareConfig, where: Where) -> "Comparison":
    """Compare two evaluations; the main process writes compare.json and compare.png.

    Raises:
        SegaccError: a folder is invalid, or the two cannot be compared.
    """
    folder = writable(config.output_dir.expanduser(), where("output_dir"))
    from segacc.commands.evaluate import compare as comparing

    sides = comparing.read_side(a, "A"), comparing.read_side(b, "B")
    found = comparing.compare(*sides, resamples=config.resamples, seed=config.seed)
    if is_main():
        comparing.draw_comparison(found, folder / "compare.png")
        text = json.dumps(found.to_dict(), indent=1)
        (folder / "compare.json").write_text(text, encoding="utf-8")
    return found
