"""What each command does; torch is imported only after everything typed was checked."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from segacc.errors import WriteError
from segacc.folders import evaluation_folder, model_folder, writable
from segacc.hookspecs import Chosen
from segacc.plan import gather, make_plan
from segacc.registry import choose, load_registry, refuse_twins
from segacc.settings.config import CheckConfig, CompareConfig, EvaluateConfig, PredictConfig
from segacc.settings.sources import AUGMENT, Layer

if TYPE_CHECKING:
    from segacc.inference import Segmenter
    from segacc.registry import Registry


def is_main() -> bool:
    """Tell whether this is the process that speaks, before accelerate is there to ask."""
    return os.environ.get("RANK", "0") == "0"


def load_plugins() -> "Registry":
    """Load the registry; the main process warns of each broken plugin and each taken name."""
    registry = load_registry()
    if is_main():
        for failure in registry.failures:
            sys.stderr.write(f"warning: {failure.text()}\n")
        for clash in registry.clashes():
            sys.stderr.write(f"warning: {clash}\n")
    return registry


def train(layers: list[Layer]) -> int:
    """Train and show what happens; return 0, or 128 + N when signal N stopped it."""
    plan = make_plan(gather(layers), load_plugins(), started=process_start())
    console = Console(soft_wrap=True) if is_main() else Console(quiet=True)
    with console.status("Loading torch, the data and the weights ..."):
        quiet_libraries()
        from segacc.api import events
        from segacc.events import Stopped
        from segacc.parts import build_run

        run = build_run(plan)
    stopped: Stopped | None = None
    if not is_main():
        for event in events(run):
            stopped = event if isinstance(event, Stopped) else stopped
        return exit_code(stopped)
    from segacc.progress import Display

    with Display(
        console, names=run.labels.names, palette=run.labels.palette, best_by=run.config.best_by
    ) as screen:
        for event in events(run):
            try:
                screen.show(event)
            except (OSError, UnicodeError, SystemExit) as error:  # save, then end
                console.quiet = True
                run.signal.ask(unseen(error, run.folder))
            stopped = event if isinstance(event, Stopped) else stopped
    console.out(screen.summary(), highlight=False)
    return exit_code(stopped)


def unseen(error: BaseException, folder: Path) -> Exception:
    """Say why a run ended that could not show what it did; of a closed pipe, nobody is told.

    Rich leaves by SystemExit when nobody reads its pipe any more.
    """
    if isinstance(error, BrokenPipeError | SystemExit):
        return BrokenPipeError()
    return WriteError(
        f"what the run shows cannot be written: {error}. It was saved and has ended; go on with "
        f"--resume {folder}."
    )


def process_start() -> float:
    """Return when this process began, in time.monotonic's seconds."""
    import psutil

    return time.monotonic() - (time.time() - float(psutil.Process().create_time()))


def exit_code(stopped: Any) -> int:
    """Return 0 for a finished run, 128 + N for one that signal N stopped."""
    import signal

    if stopped is None or stopped.resume is None:
        return 0
    return 128 + int(signal.Signals[stopped.reason])


def quiet_libraries() -> None:
    """Keep libraries from talking over the display: their bars and advice, not their errors."""
    import logging
    import warnings

    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not (sys.stderr.isatty() and is_main()):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"torch(\.|$)|accelerate(\.|$)|transformers(\.|$)")


def evaluate(model: str, config: EvaluateConfig) -> int:
    """Score a model folder on a split, print the table, write the folder of the evaluation.

    Return 1 when `verify` finds that the scores are not what they should be.
    """
    registry = load_plugins()
    dataset = choose(registry, "dataset", config.dataset, "--dataset")
    metrics = [choose(registry, "metric", given, "--metric") for given in config.metric]
    refuse_twins([one.text for one in metrics], "--metric")
    place = evaluation_folder(model_folder(model, "MODEL_FOLDER"), config.output_dir)
    console = Console(soft_wrap=True) if is_main() else Console(quiet=True)
    with console.status("Loading torch, the data and the weights ..."):
        quiet_libraries()
        from segacc.evaluation.files import show, write_evaluation
        from segacc.evaluation.score import build_scoring, protocol_source, report, score
        from segacc.evaluation.verify import verify

        scoring, segmenter = build_scoring(model, dataset, metrics, config)
    labels, source = segmenter.labels, protocol_source(model, segmenter, config)
    console.out(f"protocol {scoring.protocol.text()}, {source}", highlight=False)
    found = score(scoring, labels.names, console)
    verified = verify(scoring, found, labels, config.verify) if config.verify else None
    if is_main():
        told = report(model, scoring, found, config, source)
        told |= {"verified": verified.to_dict()} if verified else {}
        counted = scoring.counted
        write_evaluation(place, found, told, labels=labels, metrics=metrics, counted=counted)
        show(console, found, labels, title=told["title"], terms=scoring.terms())
        console.out(f"written to {place}", highlight=False)
        if verified:
            (sys.stdout if verified.agrees else sys.stderr).write(f"{verified.text()}\n")
    scoring.accelerator.end_training()
    return int(verified is not None and not verified.agrees)


def compare(a: Path, b: Path, config: CompareConfig) -> int:
    """Compare two evaluations; print a table and a verdict, write a picture and the numbers."""
    if not is_main():
        return 0
    place = writable(config.output_dir.expanduser(), "--output-dir")
    from segacc.evaluation.compare import compare as compare_sides
    from segacc.evaluation.compare import read_side
    from segacc.evaluation.compare_view import draw_comparison, print_comparison

    found = compare_sides(
        read_side(a, "A"), read_side(b, "B"), resamples=config.resamples, seed=config.seed
    )
    console = Console(soft_wrap=True)
    print_comparison(console, found)
    draw_comparison(found, place / "compare.png")
    (place / "compare.json").write_text(json.dumps(found.to_dict(), indent=1), encoding="utf-8")
    console.out(f"written to {place / 'compare.json'}, {place / 'compare.png'}", highlight=False)
    return 0


def predict(model: str, inputs: Sequence[Path], config: PredictConfig) -> int:
    """Segment pictures; return 1 when some could not be segmented."""
    from segacc.prediction import find_pictures, segment_all

    model_folder(model, "MODEL_FOLDER")
    place = writable(config.output_dir, "--output-dir")
    jobs, notes = find_pictures(inputs, place, recursive=config.recursive)
    console = Console(stderr=True, soft_wrap=True) if is_main() else Console(quiet=True)
    for note in notes:
        console.out(note, highlight=False)
    with console.status("Loading torch and the weights ..."):
        quiet_libraries()
        segmenter = load_segmenter(model, config.protocol)
    failed = segment_all(segmenter, jobs, config, console)
    for reason in failed:
        sys.stderr.write(f"{reason}\n")
    console.print(
        f"{len(jobs) - len(failed)} of {len(jobs)} pictures written to {config.output_dir}",
        markup=False,
        highlight=False,
    )
    return 1 if failed else 0


def load_segmenter(model: str, protocol: str | None) -> "Segmenter":
    """Load a model folder under its own protocol or the one that was typed."""
    from segacc.inference import Segmenter
    from segacc.protocols.protocol import Protocol

    wanted = None if protocol is None else Protocol.parse(protocol, "--protocol")
    segmenter = Segmenter.from_pretrained(model)
    return segmenter if wanted is None else segmenter.with_protocol(wanted)


def check_data(config: CheckConfig) -> int:
    """Read a data set and tell what is in it; return 1 when a run would stop at it."""
    if not is_main():
        return 0
    registry = load_plugins()
    dataset = choose(registry, "dataset", config.dataset, "--dataset")
    changes = augmentations(registry, config)
    place = writable(config.output_dir.expanduser(), "--output-dir")
    from segacc.data_check.check import check, open_data
    from segacc.data_check.cures import cures
    from segacc.data_check.pictures import draw_augmented, draw_check
    from segacc.data_check.text import print_report, to_json
    from segacc.data_check.verdict import judge

    progress = Console(stderr=True)
    with progress.status("Opening the data set ..."):
        data = open_data(dataset, config)
    found = check(data, progress)
    pictures = [place / "data_check.png"]
    with progress.status("Drawing ..."):
        draw_check(found, pictures[0])
        if config.show_augmented:
            pictures.append(place / "augmented.png")
            draw_augmented(found, changes, pictures[1])
    told = found, judge(found), cures(found), pictures
    wide = None if sys.stdout.isatty() else 120
    console = Console(soft_wrap=True, width=wide)
    if config.json:
        console.out(json.dumps(to_json(*told), indent=1), highlight=False)
    else:
        print_report(console, *told)
    return 1 if any(finding.level == "problem" for finding in told[1]) else 0


def augmentations(registry: "Registry", config: CheckConfig) -> list[Chosen]:
    """Choose the row of augmentations that --augment or --aug names.

    Raises:
        SegaccError: an unknown name or option.
    """
    row = AUGMENT[config.augment] if config.augment else config.aug
    flag = "--augment" if config.augment else "--aug"
    if row == ("none",):
        return []
    return [choose(registry, "augmentation", one, flag) for one in row]


def plugins(name: str | None, *, form: str) -> int:
    """Show what can be named; return 1 when a plugin is broken."""
    from segacc.listing import listing_json, named, print_component, print_listing

    registry, console = load_registry(), Console(soft_wrap=True)
    if form == "markdown":
        quiet_libraries()
        from segacc.datasheet import markdown

        for line in markdown(registry):
            console.out(line, highlight=False)
    elif form == "json":
        console.out(json.dumps(listing_json(registry, name), indent=1), highlight=False)
    elif name is None:
        print_listing(registry, console)
    else:
        if any(offer.kind == "architecture" for offer in named(registry, name)):
            quiet_libraries()  # it will be built
        print_component(registry, name, console)
    return 1 if registry.failures else 0
