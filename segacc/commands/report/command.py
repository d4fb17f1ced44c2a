"""`segacc report` and its Python form: one HTML file that shows runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.commands.terminal.console import Where, console_of
from segacc.data.atomic import replacing
from segacc.errors import OptionError, count_of, expand, is_main, listed, twice_in
from segacc.settings.commands import ReportConfig
from segacc.settings.sources import Layer, config_of, keywords_of
from segacc.training.folders import seed_folders, writable

if TYPE_CHECKING:
    from segacc.commands.report.run import RunData


def report_command(runs: Sequence[str], layer: Layer) -> int:
    """Write the report of some run folders; say where it is, and what would add to it."""
    config = config_of(ReportConfig, layer)
    if not is_main():
        return 0
    console = console_of()
    found = read_runs(runs, "RUN")
    path = write_report(found, config, layer.where)
    for run in found:
        if run.evaluation is None and run.best is not None:
            told = "adds intervals and the worst images"
            console.out(f"{run.name}: `{run.evaluate()}` {told}", highlight=False)
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    console.out(f"{count_of(len(found), 'run')} written to {path} ({size})", highlight=False)
    return 0


@keywords_of(ReportConfig)
def report(runs: str | Path | Sequence[str | Path], **settings: Any) -> Path:
    """Write one HTML file that shows runs, as `segacc report` does.

    Args:
        runs: a run folder, or several that are shown side by side. A run may still be training.
        **settings: the options of `segacc report`: `output` and `num_images`.

    Returns:
        The path of the file, which needs no other file and no network.

    Raises:
        SegaccError: a setting is invalid, a folder is no run folder, or one of its files is
            damaged.
    """
    layer = Layer(settings, "segacc.report")
    config = config_of(ReportConfig, layer)
    return write_report(read_runs(listed(runs), layer.where("runs")), config, layer.where)


def read_runs(given: Sequence[str | Path], where: str) -> list["RunData"]:
    """Read run folders; each is called by its name, or by its path if the names are not unique.

    Raises:
        SegaccError: one is given twice or is no run folder, or a file is damaged.
    """
    from segacc.commands.report.run import read_run

    if not given:
        raise OptionError(f"{where}: no run folder is given.")
    runs: list[str | Path] = []
    for one in given:
        runs += seed_folders(expand(one, where)) or [one]
    folders = [expand(one, where).resolve() for one in runs]
    if twice := twice_in(map(str, folders)):
        raise OptionError(f"{where}: {twice[0]} is given twice; give each run folder once.")
    names = [folder.name for folder in folders]
    unique = not twice_in(names)
    return [
        read_run(one, where, name=name if unique else str(one))
        for one, name in zip(runs, names, strict=True)
    ]


def write_report(runs: Sequence["RunData"], config: ReportConfig, where: Where) -> Path:
    """Write the page of some runs and return its path.

    Raises:
        OptionError: the file is not a report, or cannot be written.
    """
    from segacc.commands.report.page import MARK, render

    path = expand(config.output, where("output"))
    if path.is_dir():
        raise OptionError(f"{where('output')}: {path} is a folder; give a file: {path}/report.html")
    if path.exists() and not path.read_bytes().startswith(MARK):
        raise OptionError(
            f"{where('output')}: {path} exists and is not a report of segacc, so it is not "
            "replaced. Give another name."
        )
    writable(path.parent, where("output"))
    page = render(runs, config.num_images)
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")
    return path
