"""The steps of `segacc check-data`, in order."""

import dataclasses
import json
import sys

from rich.console import Console

from segacc.commands.console import load_plugins
from segacc.errors import NoClassesError, OptionError, is_main
from segacc.hookspecs import Chosen
from segacc.registry import Registry, choose
from segacc.settings.config import CheckConfig
from segacc.settings.sources import AUGMENT
from segacc.training.folders import writable


def check_data_command(config: CheckConfig) -> int:
    """Scan a data set and report what it contains; return 1 if training would fail."""
    if not is_main():
        return 0
    registry = load_plugins()
    dataset = choose_data(registry, config)
    if dataset.found and config.val_fraction is None and config.eval_split == "validation":
        config = dataclasses.replace(config, val_fraction=dataset.found.val_fraction)
    changes = augmentations(registry, config)
    folder = writable(config.output_dir.expanduser(), "--output-dir")
    from segacc.commands.check_data.check import check, open_data
    from segacc.commands.check_data.fixes import fixes
    from segacc.commands.check_data.pictures import draw_augmented, draw_check
    from segacc.commands.check_data.text import print_report, to_json, would_stop
    from segacc.commands.check_data.verdict import judge

    progress = Console(stderr=True)
    with progress.status("Opening the data set ..."):
        data = open_data(dataset, config)
    found = check(data, progress)
    pictures = [folder / "data_check.png"]
    with progress.status("Drawing ..."):
        draw_check(found, pictures[0])
        if config.show_augmented:
            pictures.append(folder / "augmented.png")
            draw_augmented(found, changes, pictures[1])
    told = found, judge(found), fixes(found), pictures
    wide = None if sys.stdout.isatty() else 120
    console = Console(soft_wrap=True, width=wide)
    if config.json:
        console.out(json.dumps(to_json(*told), indent=1), highlight=False)
    else:
        print_report(console, *told)
    return 1 if would_stop(told[1]) else 0


def choose_data(registry: Registry, config: CheckConfig) -> Chosen:
    """Look up the data set, after writing a class list for its folder if asked to.

    Raises:
        SegaccError: see `choose`; or there is no class list to write.
    """
    try:
        dataset = choose(registry, "dataset", config.dataset, "--dataset")
    except NoClassesError as missing:
        if not config.write_classes:
            raise
        writable(missing.path.parent, "--write-classes")
        missing.path.write_text(missing.content, encoding="utf-8")
        return choose(registry, "dataset", config.dataset, "--dataset")
    if config.write_classes:
        raise OptionError(
            f"--write-classes: nothing is written, since {dataset.text} has class names or is not "
            "given by its path, as in --dataset data/mine. Leave this out."
        )
    return dataset


def augmentations(registry: Registry, config: CheckConfig) -> list[Chosen]:
    """Return the augmentation pipeline that --augment or --aug names.

    Raises:
        SegaccError: a name or an option is unknown.
    """
    names = AUGMENT[config.augment] if config.augment else config.aug
    flag = "--augment" if config.augment else "--aug"
    if names == ("none",):
        return []
    return [choose(registry, "augmentation", one, flag) for one in names]
