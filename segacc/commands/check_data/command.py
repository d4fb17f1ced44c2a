"""`segacc check-data` and its Python form."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from segacc.commands.terminal.console import (
    PlainConsole,
    Where,
    console_of,
    load_plugins,
    text_of,
)
from segacc.errors import NoClassesError, OptionError, is_main
from segacc.hookspecs import Chosen
from segacc.registry import Registry, choose
from segacc.settings.commands import CheckConfig
from segacc.settings.sources import AUGMENT, Layer, config_of, keywords_of
from segacc.training.folders import writable

if TYPE_CHECKING:
    from segacc.commands.check_data.check import Findings
    from segacc.commands.check_data.fixes import Fix
    from segacc.commands.check_data.verdict import Finding


def check_data_command(layer: Layer) -> int:
    """Scan a data set and report what it contains; return 1 if training would fail.

    Args:
        layer: the given flags.
    """
    config = config_of(CheckConfig, layer)
    refuse_unused(config, layer)
    if not is_main():
        return 0
    told = run_check(config, layer.where, PlainConsole(stderr=True))
    from segacc.commands.check_data.text import print_report, to_json, would_stop

    shown = sys.stdout.isatty()  # only there, lines are broken between words
    console = PlainConsole(soft_wrap=not shown, width=None if shown else 120)
    if config.json:
        console.out(json.dumps(to_json(*told), indent=1), highlight=False)
    else:
        print_report(console, *told)
    return 1 if would_stop(told.findings) else 0


@keywords_of(CheckConfig, but=["json"])
def check_data(dataset: str | dict[str, Any], **settings: Any) -> "CheckResult":
    """Scan a data set and report what it contains, as `segacc check-data` does.

    It writes data_check.png, too. A progress bar is shown on a terminal and in a notebook.

    Args:
        dataset: the data set, such as `folder:root=data/camvid`.
        **settings: the options of `segacc check-data`, whose `--help` explains them, except `json`.

    Raises:
        SegaccError: a setting is invalid, or the data set cannot be opened. Problems with its files
            are in the result.
    """
    layer = Layer({"dataset": dataset, **settings}, "segacc.check_data")
    config = config_of(CheckConfig, layer, but=["json"])
    refuse_unused(config, layer)
    told = run_check(config, layer.where, console_of(stderr=True))
    from segacc.commands.check_data.text import print_report, to_json, would_stop

    return CheckResult(
        ok=not would_stop(told.findings),
        findings=tuple(told.findings),
        report=json.loads(json.dumps(to_json(*told))),
        pictures=tuple(told.pictures),
        text=text_of(lambda console: print_report(console, *told)),
    )


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What `check_data` found; `print` shows it as `segacc check-data` does."""

    ok: bool
    """Whether no problem would make training fail."""
    findings: "tuple[Finding, ...]"
    """The problems, then the warnings, then facts, each with `level`, `split`, `text` and
    `files`."""
    report: dict[str, Any] = field(repr=False)
    """The content of `segacc check-data --json`."""
    pictures: tuple[Path, ...]
    """data_check.png, and augmented.png with `show_augmented`."""
    text: str = field(repr=False)
    """The printed report."""

    def __str__(self) -> str:
        """Return the report."""
        return self.text


class Told(NamedTuple):
    """All that is reported of a data set."""

    found: "Findings"
    findings: "Sequence[Finding]"
    fixes: "Sequence[Fix]"
    pictures: Sequence[Path]


def run_check(config: CheckConfig, where: Where, progress: Console) -> Told:
    """Scan a data set, with progress on a console, and draw its pictures.

    Raises:
        SegaccError: a setting is invalid, or the data set cannot be opened.
    """
    registry = load_plugins()
    dataset = choose_data(registry, config, where)
    if dataset.found and config.val_fraction is None and config.eval_split == "validation":
        config = dataclasses.replace(config, val_fraction=dataset.found.val_fraction)
    changes = augmentations(registry, config, where)
    folder = writable(config.output_dir, where("output_dir"))
    from segacc.commands.check_data.check import check, open_data
    from segacc.commands.check_data.fixes import fixes
    from segacc.commands.check_data.pictures import draw_augmented, draw_check
    from segacc.commands.check_data.text import print_report
    from segacc.commands.check_data.verdict import judge

    refuse_foreign(folder, config, where)
    with progress.status("Opening the data set ..."):
        data = open_data(dataset, config)
    found = check(data, progress)
    pictures = [folder / "data_check.png"]
    told = Told(found, judge(found), fixes(found), pictures)
    try:
        with progress.status("Drawing ..."):
            draw_check(found, pictures[0])
            if config.show_augmented:
                pictures.append(folder / "augmented.png")
                draw_augmented(found, changes, pictures[1])
    except OSError:  # as on a full disk
        print_report(progress, *told._replace(pictures=[]))
        raise
    return told


def refuse_foreign(folder: Path, config: CheckConfig, where: Where) -> None:
    """Refuse to replace pictures that segacc did not write.

    Raises:
        OptionError: one exists where a picture would be written.
    """
    from segacc.data.pictures import is_own

    for name in ("data_check.png", *(["augmented.png"] if config.show_augmented else [])):
        if (folder / name).is_file() and not is_own(folder / name):
            raise OptionError(
                f"{where('output_dir')} {folder}: {folder / name} would be overwritten, and it was "
                "not written by segacc. Choose another folder, or remove the file."
            )


def choose_data(registry: Registry, config: CheckConfig, where: Where) -> Chosen:
    """Look up the data set, after writing a class list for its folder if asked to.

    Raises:
        SegaccError: see `choose`; or there is no class list to write.
    """
    try:
        dataset = choose(registry, "dataset", config.dataset, where("dataset"))
    except NoClassesError as missing:
        if not config.write_classes:
            raise
        writable(missing.path.parent, where("write_classes"))
        missing.path.write_text(missing.content, encoding="utf-8")
        return choose(registry, "dataset", config.dataset, where("dataset"))
    if config.write_classes:
        raise OptionError(
            f"{where('write_classes')}: nothing is written, since {dataset.text} has class names, "
            "or is not given by its path, as in --dataset data/mine. Leave this out."
        )
    return dataset


def refuse_unused(config: CheckConfig, given: Layer) -> None:
    """Refuse settings that would have no effect, or that exclude each other.

    Raises:
        OptionError: one of them was given.
    """
    typed, where = given.values, given.where
    if config.show_augmented:
        if "aug" in typed and "augment" in typed:
            told = f"{where('aug')} and {where('augment')}"
            raise OptionError(f"{told} exclude each other; give one.")
        return
    if key := next((key for key in ("aug", "augment") if key in typed), ""):
        raise OptionError(
            f"{where(key)}: only has an effect with --show-augmented; add that, or leave it out."
        )
    if "seed" in typed and "val_fraction" not in typed:
        raise OptionError(
            f"{where('seed')}: only has an effect with --val-fraction or --show-augmented; add "
            "one, or leave it out."
        )


def augmentations(registry: Registry, config: CheckConfig, where: Where) -> list[Chosen]:
    """Return the augmentation pipeline that --augment or --aug names.

    Raises:
        SegaccError: a name or an option is unknown.
    """
    names = AUGMENT[config.augment] if config.augment else config.aug
    if names == ("none",):
        return []
    key = "augment" if config.augment else "aug"
    return [choose(registry, "augmentation", one, where(key)) for one in names]
