"""`segacc evaluate` and `segacc compare`, and their Python forms."""

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from segacc.commands.evaluate.stored import from_run, refuse_absent, where_of
from segacc.commands.terminal.console import (
    Patient,
    Where,
    console_of,
    load_plugins,
    loading,
    quiet_libraries,
    text_of,
)
from segacc.errors import OptionError, count_of, expand, is_main, listed
from segacc.evaluation.model_folder import (
    SETTINGS,
    Model,
    find_model,
)
from segacc.hookspecs import Chosen
from segacc.model.exported import runtime_of
from segacc.registry import choose, refuse_twins
from segacc.settings.commands import CompareConfig, EvaluateConfig
from segacc.settings.sources import Layer, config_of, flag, keywords_of
from segacc.training.folders import evaluation_folder, writable

if TYPE_CHECKING:
    from segacc.commands.evaluate.bootstrap import Intervals
    from segacc.commands.evaluate.compare import Comparison
    from segacc.commands.evaluate.verify import Verified
    from segacc.evaluation.scores import Scores
    from segacc.evaluation.scoring import Scoring
    from segacc.labels import LabelMap


def evaluate_command(model: str, layer: Layer) -> int:
    """Score a model on a split, print the scores and write the evaluation folder.

    Args:
        model: the model; see `find_model`.
        layer: the given flags.

    Returns:
        1 if `--verify` finds a difference, else 0.
    """
    checked = check(model, layer)
    console = console_of(kind=Patient)
    if line := checked.taken():
        console.out(line, highlight=False)
    with loading(console, "torch, the data and the weights"):
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
def evaluate(
    model: str | Path, dataset: str | dict[str, Any] | None = None, **settings: Any
) -> "EvaluationResult":
    """Score a model on a split, as `segacc evaluate` does, and write the evaluation folder.

    A progress bar is shown on a terminal and in a notebook. On several processes all must call it.

    Args:
        model: a run folder (its best/), `best/` or `last/` of a run, a checkpoint, any transformers
            folder, or a Hub id.
        dataset: the data set, such as `folder:root=data/camvid`. Default: that of the model's run,
            with the run's split, val_fraction, train_split and seed unless given.
        **settings: the options of `segacc evaluate`, whose `--help` explains them.

    Raises:
        SegaccError: a setting is invalid, the network or the data set cannot be read, or their
            classes differ.
    """
    given = {} if dataset is None else {"dataset": dataset}
    layer = Layer({**given, **settings}, "segacc.evaluate")
    loaded = load(check(str(model), layer))
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
        from segacc.commands.terminal.tables import print_scores

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


Scored = str | Path | EvaluationResult
"""What `compare` takes for an evaluation."""


@dataclass(frozen=True)
class Checked:
    """An evaluation whose settings were checked, before torch is imported."""

    model: Model
    config: EvaluateConfig
    stored: Collection[str]
    """Names of the settings that are from the model's run."""
    where: Where
    dataset: Chosen
    metrics: list[Chosen]
    folder: Path
    """The folder to write."""

    def taken(self) -> str:
        """Return a line on the model that was found, and the settings from its run; or nothing."""
        model = self.model
        values = {**asdict(self.config), "dataset": self.dataset.text}
        flags = [f"{flag(key)} {values[key]}" for key in self.stored]
        settings = f"{' '.join(flags)} from {model.run}/{SETTINGS}" if flags else ""
        told = model.told or (f"model {model.name}" if flags else "")
        return "; ".join(filter(None, (told, settings)))


@dataclass(frozen=True)
class Loaded:
    """An evaluation with its network and data."""

    checked: Checked
    scoring: "Scoring"
    labels: "LabelMap"
    protocol_source: str
    """Where the protocol comes from."""


def check(given: str, layer: Layer) -> Checked:
    """Check what can be checked without torch.

    Args:
        given: the model; see `find_model`.
        layer: the given settings.

    Raises:
        SegaccError: a setting is invalid, a component is unknown, or there is no model.
    """
    stored = from_run(given, layer)
    config = config_of(EvaluateConfig, replace(layer, values={**stored, **layer.values}))
    where = where_of(given, stored, layer.where)
    registry = load_plugins()
    dataset = choose(registry, "dataset", config.dataset, where("dataset"))
    if "dataset" in stored:
        refuse_absent(dataset, where("dataset"), layer.where("dataset"))
    if dataset.found:  # stored as in config.yaml, so that comparisons see that it is the same
        config = replace(config, dataset=dict(dataset.found.values))
    metrics = [choose(registry, "metric", one, where("metric")) for one in config.metric]
    refuse_twins([one.text for one in metrics], where("metric"))
    model = find_model(given, where("model"), files=True)
    runtime_of(model.about, config.runtime, where("runtime"))
    if model.exported and config.mixed_precision:
        raise OptionError(
            f"{where('mixed_precision')}: {model.name} has the precision it was exported with; "
            "leave it out."
        )
    folder = evaluation_folder(model, config.output_dir)
    return Checked(model, config, stored, where, dataset, metrics, folder)


def load(checked: Checked) -> Loaded:
    """Load the network and open the split.

    Raises:
        SegaccError: one of them is not found, or their classes differ.
    """
    from segacc.commands.evaluate.score import build_scoring, protocol_source

    model, config, where = checked.model, checked.config, checked.where
    given = model, checked.dataset, checked.metrics, config, where
    scoring, segmenter, split = build_scoring(*given)
    checked = replace(checked, config=replace(config, split=split))
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
    result = EvaluationResult(
        title=told["title"],
        scores=found.scores,
        folder=checked.folder,
        report=json.loads(json.dumps(told)),
        intervals=found.intervals,
        verified=verified,
        rules=scoring.terms().rules(),
        labels=labels,
    )
    if not is_main():
        return result
    try:
        files = write_evaluation(checked.folder, scoring, found, told, labels)
    except OSError:  # as on a full disk
        result.show(console)
        raise
    return replace(result, report={**result.report, "files": files})


def compare_command(runs: list[str], others: list[str] | None, layer: Layer) -> int:
    """Compare two evaluations; print a table and a verdict, write compare.json and compare.png.

    Args:
        runs: A and B; or A, if there are `others`.
        others: B.
        layer: the given flags.
    """
    a, b = sides_of(runs, others)
    config = config_of(CompareConfig, layer)
    if not is_main():
        return 0
    console = console_of()
    found = compare_folders(a, b, config, layer.where)
    found.show(console)
    folder = config.output_dir
    console.out(f"written to {folder / 'compare.json'}, {folder / 'compare.png'}", highlight=False)
    return 0


def sides_of(runs: list[str], others: list[str] | None) -> tuple[list[Path], list[Path]]:
    """Return the paths of A and of B.

    Raises:
        OptionError: without `--with`, there are not two.
    """
    if others is None and len(runs) != 2:
        raise OptionError(
            f"compare: expected A and B, found {count_of(len(runs), 'path')}. Several runs "
            "on a side are separated by --with, as in `segacc compare A1 A2 --with B1 B2`."
        )
    one, other = (runs[:1], runs[1:]) if others is None else (runs, others)
    return [expand(path) for path in one], [expand(path) for path in other]


@keywords_of(CompareConfig)
def compare(
    a: "Scored | Sequence[Scored]", b: "Scored | Sequence[Scored]", **settings: Any
) -> "Comparison":
    """Test whether B scores better than A, as `segacc compare` does; it writes the same files.

    Args:
        a: a run folder (its best/), model folder or checkpoint that was evaluated, or an output
            folder of `evaluate`, or its result; or several that differ in their seed, or the folder
            in which `--seeds` has trained them.
        b: another one, or several, evaluated on the same images.
        **settings: the options of `segacc compare`: `resamples`, `seed` and `output_dir`.

    Returns:
        The comparison: its `verdict()`, `mean_iou`, `per_category_iou` and `notes()`; `to_dict()`
        is the content of compare.json, and `print` shows it as `segacc compare` does.

    Raises:
        SegaccError: a setting is invalid, or the two evaluations cannot be compared.
    """
    layer = Layer(settings, "segacc.compare")
    sides = {"a": a, "b": b}
    one, other = (
        [expand(folder_of(path), layer.where(key)) for path in listed(side)]
        for key, side in sides.items()
    )
    return compare_folders(one, other, config_of(CompareConfig, layer), layer.where)


def folder_of(given: Any) -> Any:
    """Return the folder of a result of `evaluate`; what else was given unchanged."""
    return given.folder if isinstance(given, EvaluationResult) else given


def compare_folders(
    a: Sequence[Path], b: Sequence[Path], config: CompareConfig, where: Where
) -> "Comparison":
    """Compare two sides; the main process writes compare.json and compare.png.

    Raises:
        SegaccError: a folder is invalid, or the two cannot be compared.
    """
    folder = writable(config.output_dir, where("output_dir"))
    from segacc.commands.evaluate import compare as comparing
    from segacc.commands.evaluate.sides import read_sides

    sides = read_sides(a, "A"), read_sides(b, "B")
    found = comparing.compare(*sides, resamples=config.resamples, seed=config.seed)
    if is_main():
        comparing.draw_comparison(found, folder / "compare.png")
        text = json.dumps(found.to_dict(), indent=1)
        (folder / "compare.json").write_text(text, encoding="utf-8")
    return found
