"""The commands after training: their arguments, and the function that runs each of them.

A command is imported after its arguments are parsed, so that `--help` and errors are fast.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from segacc.commands.parser import Once, Parser, add_flags, make_parser, parse
from segacc.errors import OptionError
from segacc.settings.commands import (
    BenchmarkConfig,
    CheckConfig,
    CompareConfig,
    ConvertConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    PushConfig,
    ReportConfig,
)
from segacc.settings.sources import Layer


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command whose flags are the fields of a dataclass."""

    name: str
    about: str
    """The first paragraph of its `--help`."""
    words: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Arguments that are no settings, in order: by name, what `add_argument` takes."""
    config: type[Any]
    """The dataclass of its settings."""
    short: Mapping[str, str] = field(default_factory=dict)
    """Short flags, and the switches that they stand for."""
    target: str
    """`MODULE.FUNCTION` in segacc.commands. It is given the values of `words`, None for one that is
    left out, and the Layer of the settings; it returns the exit code."""

    def parser(self) -> Parser:
        """Return the parser of its arguments."""
        parser = make_parser(prog=f"segacc {self.name}", description=self.about)
        for name, how in self.words.items():
            parser.add_argument(name, **how)
        add_flags(parser, self.config)
        for name, switch in self.short.items():
            text = f"the same as --{switch}"
            parser.add_argument(name, dest=switch, action="store_true", help=text)
        return parser

    def run(self, args: list[str]) -> int:
        """Run it with these arguments and return the exit code."""
        typed = parse(self.parser(), args)
        words = [typed.pop(name.lstrip("-"), None) for name in self.words]
        module, _, function = self.target.rpartition(".")
        command = getattr(import_module(f"segacc.commands.{module}"), function)
        code: int = command(*words, Layer(typed, "command line"))
        return code


@dataclass(frozen=True)
class ByHand:
    """A command whose arguments are written out."""

    parser: Callable[[], Parser]
    """Creates the parser of its arguments."""
    run: Callable[[list[str]], int]
    """Runs it with these arguments and returns the exit code."""


def word(metavar: str, text: str, **more: Any) -> Mapping[str, Any]:
    """Return what `add_argument` takes, see `Command.words`."""
    return {"metavar": metavar, "help": text, **more}


FOLDERS = "a run folder (its best/), best/, last/, a checkpoint, any transformers folder"
MODEL = word("MODEL", f"{FOLDERS}, a file of `segacc export`, or a Hub id such as USER/NAME")

COMMANDS = (
    Command(
        name="evaluate",
        about="Score a model on a split of a data set. For a model in a run folder, the data set, "
        "split, val_fraction, train_split and seed are those of the run unless given.",
        words={"model": MODEL},
        config=EvaluateConfig,
        target="evaluate.command.evaluate_command",
    ),
    Command(
        name="compare",
        about="Test whether B scores better than A by a paired bootstrap over the images.",
        words={
            "runs": word(
                "A B",
                "A and B: a run folder (its best/), model folder or checkpoint that was evaluated, "
                "an output folder of `segacc evaluate`, or the folder of a group that --seeds has "
                "trained",
                nargs="+",
            ),
            "--with": word(
                "B",
                "Several runs on each side, which differ in their seed, as in `segacc compare A1 "
                "A2 --with B1 B2`.",
                nargs="+",
                action=Once,
            ),
        },
        config=CompareConfig,
        target="evaluate.command.compare_command",
    ),
    Command(
        name="predict",
        about="Segment images; write PNGs of label ids, overlays, and on request class "
        "probabilities and areas.",
        words={
            "model": MODEL,
            "inputs": word(
                "IMAGE_OR_FOLDER",
                "images, folders of images, or patterns such as 'photos/*.jpg'",
                nargs="+",
            ),
        },
        config=PredictConfig,
        short={"-r": "recursive"},
        target="predict.command.predict_command",
    ),
    Command(
        name="report",
        about="Write one HTML file that shows runs: scores, curves, classes, the worst images, "
        "settings and commands. It needs no network, and a run may still be training.",
        words={"runs": word("RUN", "run folders to show side by side", nargs="+")},
        config=ReportConfig,
        target="report.command.report_command",
    ),
    Command(
        name="demo",
        about="Serve a page to this machine on which pictures are segmented, until Ctrl+C; needs "
        "`pip install gradio`.",
        words={"model": MODEL},
        config=DemoConfig,
        target="demo.demo_command",
    ),
    Command(
        name="push",
        about="Upload a model with its model card to the Hugging Face Hub. Log in first with `hf "
        "auth login`. An interrupted upload goes on when the command is run again.",
        words={
            "folder": word(
                "FOLDER", "a run folder (its best/), best/, last/, or any transformers folder"
            ),
            "repo": word(
                "REPO", "USER/NAME, or NAME for one of your own; it is created if it does not exist"
            ),
        },
        config=PushConfig,
        target="push.push_command",
    ),
    Command(
        name="export",
        about="Write a model as a file of ONNX, OpenVINO or torch.export, and prove on real images "
        "that it predicts the same.",
        words={"model": word("MODEL", f"{FOLDERS}, or a Hub id such as USER/NAME")},
        config=ExportConfig,
        target="export.command.export_command",
    ),
    Command(
        name="benchmark",
        about="Measure the speed, memory, size and score of a model and its exported files on the "
        "CPU, in turns on the same images.",
        words={
            "models": word(
                "MODEL",
                "a model folder, see `segacc predict --help`, or a file of `segacc export`",
                nargs="+",
            )
        },
        config=BenchmarkConfig,
        target="export.benchmark.benchmark_command",
    ),
    Command(
        name="check-data",
        about="Scan a data set and report problems; exit code 1 if training would fail.",
        config=CheckConfig,
        target="check_data.command.check_data_command",
    ),
    Command(
        name="convert",
        about="Write a data set as the files of an annotation tool, or as a folder of images and "
        "PNGs of class indices.",
        words={
            "source": word(
                "SOURCE",
                "data set: the path of a folder, or e.g. `coco:annotations=FILE,images=DIR`",
            ),
            "target": word("TARGET", "folder to create"),
        },
        config=ConvertConfig,
        target="convert.command.convert_command",
    ),
)


def plugins_parser() -> Parser:
    """Return the parser of `segacc plugins`."""
    parser = make_parser(
        prog="segacc plugins", description="List all components, and plugins that failed to load."
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        default=None,
        help="show the options of this component, or list those of a kind, such as `loss`",
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", default=False, help="print JSON")
    forms.add_argument(
        "--markdown", action="store_true", default=False, help="print docs/architectures.md"
    )
    return parser


def run_plugins(args: list[str]) -> int:
    """Run `segacc plugins` with these arguments; return the exit code."""
    typed = parse(plugins_parser(), args)
    from segacc.commands.plugins.command import plugins_command

    if typed["name"] and typed["markdown"]:
        raise OptionError("--markdown: prints all architectures; leave the name out.")
    form = "json" if typed["json"] else "markdown" if typed["markdown"] else "text"
    return plugins_command(typed["name"], form=form)


def new_plugin_parser() -> Parser:
    """Return the parser of `segacc plugins new`."""
    parser = make_parser(
        prog="segacc plugins new",
        description="Write an installable plugin with an architecture and its test.",
    )
    parser.add_argument(
        "name", metavar="NAME", help="name of the architecture; the folder will be segacc-NAME"
    )
    return parser


def run_new_plugin(args: list[str]) -> int:
    """Run `segacc plugins new` with these arguments; return the exit code."""
    typed = parse(new_plugin_parser(), args)
    from segacc.commands.plugins.command import new_plugin_command

    return new_plugin_command(typed["name"])


def info_parser() -> Parser:
    """Return the parser of `segacc info`."""
    parser = make_parser(
        prog="segacc info",
        description="Print versions, devices, what accelerate would start, and the extras and "
        "plugins that are installed.",
    )
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    return parser


def run_info(args: list[str]) -> int:
    """Run `segacc info` with these arguments; return the exit code."""
    typed = parse(info_parser(), args)
    from segacc.commands.info import info_command

    return info_command(as_json=typed["json"])
