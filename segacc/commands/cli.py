"""The command line: all commands with their arguments, and recipes.

Commands are imported after the arguments are parsed, so that `--help` and errors are fast.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import PositiveInt

from segacc.commands.parser import Once, Parser, add_flags, dashes, make_parser, parse
from segacc.contracts import VERSION
from segacc.errors import OptionError, cut, did_you_mean, expand
from segacc.settings.commands import (
    BenchmarkConfig,
    CheckConfig,
    CompareConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    PushConfig,
    ReportConfig,
)
from segacc.settings.config import TrainConfig
from segacc.settings.options import check_value
from segacc.settings.recipes import read_recipe, recipe_names
from segacc.settings.sources import Layer, config_of, read_yaml

USAGE = """\
  segacc train [--arch NAME:key=value,...] [--dataset NAME:key=value,...]   train
  segacc evaluate MODEL [--dataset ...] [--split ...]                       score
  segacc compare MODEL MODEL                                                compare
  segacc predict MODEL IMAGE_OR_FOLDER... [--output-dir DIR]                segment
  segacc report RUN... [--output FILE.html]                                 show runs
  segacc demo MODEL [--port N]                                              try in a browser
  segacc push FOLDER REPO [--private] [--dry-run]                           upload
  segacc export MODEL [--format onnx|openvino|pt2] [--half] [--argmax]      export
  segacc benchmark MODEL... [--images ...] [--json]                         benchmark
  segacc check-data --dataset ... [--sample N] [--json]                     check data
  segacc plugins [NAME] [--json|--markdown]                                 list plugins
  segacc plugins new NAME                                                   new plugin
  segacc info [--json]                                                      versions, devices"""


@dataclass(frozen=True)
class Command:
    """A command of segacc."""

    parser: Callable[[], Parser]
    """Creates the parser of its arguments."""
    run: Callable[[list[str]], int]
    """Runs it with these arguments and returns the exit code."""


def run(argv: Sequence[str]) -> int:
    """Run a command line and return the exit code.

    Raises:
        SegaccError: an argument is invalid.
    """
    args = [dashes(arg) for arg in argv]
    if not args or args[0].startswith("-"):
        return _train(args)
    if args[0] not in COMMANDS:
        known = [name for name in COMMANDS if " " not in name]
        raise OptionError(
            f'unknown command "{cut(args[0])}". {did_you_mean(args[0], known)}'
            f"Commands: {', '.join(known)}; without a command segacc trains."
        )
    words = 2 if " ".join(args[:2]) in COMMANDS else 1
    return COMMANDS[" ".join(args[:words])].run(args[words:])


def train_parser() -> Parser:
    """Return the parser of `segacc train`, which is also that of `segacc` without a command."""
    parser = make_parser(usage="\n" + USAGE, description="Train a semantic segmentation model.")
    parser.add_argument("--version", action="version", version=f"segacc {VERSION}")
    parser.add_argument(
        "--config", metavar="FILE", action=Once, help="YAML file of settings; flags override it."
    )
    names = ", ".join(recipe_names())
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        action=Once,
        help=f"Published settings, overridden by --config and flags: {names}",
    )
    parser.add_argument(
        "--processes",
        metavar="N",
        action=Once,
        help="Number of processes to start on this machine: one per GPU, or on the CPU if there is "
        "no GPU. Other setups are started with `accelerate launch -m segacc train`.",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="Build the run, take a few steps, and print memory, the largest micro-batch, time and "
        "disk of the whole run; nothing stays on the disk.",
    )
    parser.add_argument(
        "--device-memory",
        metavar="SIZE",
        action=Once,
        help="With --dry-run: memory of the GPU to plan for, such as 24GB; it need not be there.",
    )
    add_flags(parser, TrainConfig)
    return parser


def _train(args: list[str]) -> int:
    typed = parse(train_parser(), args)
    processes = check_value(PositiveInt | None, typed.pop("processes", None), "--processes")
    recipe, config = typed.pop("recipe", None), typed.pop("config", None)
    dry_run, device_memory = typed.pop("dry_run", False), typed.pop("device_memory", None)
    if device_memory is not None and not dry_run:
        raise OptionError("--device-memory: only used with --dry-run; add it.")
    layers = [] if recipe is None else [read_recipe(recipe)]
    layers += [read_yaml(expand(config, "--config"))] if config else []
    layers.append(Layer(typed, "command line"))
    from segacc.commands.train import launch_command, to_launch, train_command

    count = to_launch(processes)
    if dry_run and not count:
        from segacc.commands.dry_run import dry_run_command

        return dry_run_command(layers, device_memory)
    return launch_command(layers, count, args) if count else train_command(layers)


def _add_model(parser: Parser) -> None:
    text = "a run folder (its best/), best/, last/, a checkpoint, any transformers folder, a file "
    text += "of `segacc export`, or a Hub id such as USER/NAME"
    parser.add_argument("model", metavar="MODEL", help=text)


def _evaluate_parser() -> Parser:
    parser = make_parser(
        prog="segacc evaluate",
        description="Score a model on a split of a data set. For a model in a run folder, the "
        "data set, split, val_fraction, train_split and seed are those of the run unless given.",
    )
    _add_model(parser)
    add_flags(parser, EvaluateConfig)
    return parser


def _evaluate(args: list[str]) -> int:
    typed = parse(_evaluate_parser(), args)
    from segacc.commands.evaluate.command import evaluate_command

    return evaluate_command(typed.pop("model"), Layer(typed, "command line"))


def _compare_parser() -> Parser:
    parser = make_parser(
        prog="segacc compare",
        description="Test whether B scores better than A by a paired bootstrap over the images.",
    )
    text = "a run folder (its best/), model folder or checkpoint that was evaluated, or the output "
    text += "folder of `segacc evaluate`"
    parser.add_argument("a", metavar="A", help=text)
    parser.add_argument("b", metavar="B", help="another one, evaluated on the same images")
    add_flags(parser, CompareConfig)
    return parser


def _compare(args: list[str]) -> int:
    typed = parse(_compare_parser(), args)
    a, b = (expand(typed.pop(name)) for name in ("a", "b"))
    config = config_of(CompareConfig, Layer(typed, "command line"))
    from segacc.commands.evaluate.command import compare_command

    return compare_command(a, b, config)


def _predict_parser() -> Parser:
    parser = make_parser(
        prog="segacc predict",
        description="Segment images; write PNGs of label ids, overlays, and on request class "
        "probabilities and areas.",
    )
    _add_model(parser)
    parser.add_argument(
        "inputs",
        metavar="IMAGE_OR_FOLDER",
        nargs="+",
        help="images, folders of images, or patterns such as 'photos/*.jpg'",
    )
    add_flags(parser, PredictConfig)
    parser.add_argument("-r", dest="recursive", action="store_true", help="the same as --recursive")
    return parser


def _predict(args: list[str]) -> int:
    typed = parse(_predict_parser(), args)
    model, inputs = typed.pop("model"), typed.pop("inputs")
    config = config_of(PredictConfig, Layer(typed, "command line"))
    from segacc.commands.predict.command import predict_command

    return predict_command(model, inputs, config)


def _report_parser() -> Parser:
    parser = make_parser(
        prog="segacc report",
        description="Write one HTML file that shows runs: scores, curves, classes, the worst "
        "images, settings and commands. It needs no network, and a run may still be training.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders to show side by side")
    add_flags(parser, ReportConfig)
    return parser


def _report(args: list[str]) -> int:
    typed = parse(_report_parser(), args)
    runs = typed.pop("runs")
    config = config_of(ReportConfig, Layer(typed, "command line"))
    from segacc.commands.report.command import report_command

    return report_command(runs, config)


def _demo_parser() -> Parser:
    parser = make_parser(
        prog="segacc demo",
        description="Serve a page to this machine on which pictures are segmented, until Ctrl+C; "
        "needs `pip install gradio`.",
    )
    _add_model(parser)
    add_flags(parser, DemoConfig)
    return parser


def _demo(args: list[str]) -> int:
    typed = parse(_demo_parser(), args)
    model = typed.pop("model")
    config = config_of(DemoConfig, Layer(typed, "command line"))
    from segacc.commands.demo import demo_command

    return demo_command(model, config)


def _push_parser() -> Parser:
    parser = make_parser(
        prog="segacc push",
        description="Upload a model with its model card to the Hugging Face Hub. Log in first with "
        "`hf auth login`. An interrupted upload goes on when the command is run again.",
    )
    text = "a run folder (its best/), best/, last/, or any transformers folder"
    parser.add_argument("folder", metavar="FOLDER", help=text)
    text = "USER/NAME, or NAME for one of your own; it is created if it does not exist"
    parser.add_argument("repo", metavar="REPO", help=text)
    add_flags(parser, PushConfig)
    return parser


def _push(args: list[str]) -> int:
    typed = parse(_push_parser(), args)
    folder, repo = typed.pop("folder"), typed.pop("repo")
    config = config_of(PushConfig, Layer(typed, "command line"))
    from segacc.commands.push import push_command

    return push_command(folder, repo, config)


def _export_parser() -> Parser:
    parser = make_parser(
        prog="segacc export",
        description="Write a model as a file of ONNX, OpenVINO or torch.export, and prove on real "
        "images that it predicts the same.",
    )
    text = "a run folder (its best/), best/, last/, a checkpoint, any transformers folder, "
    parser.add_argument("model", metavar="MODEL", help=f"{text}or a Hub id such as USER/NAME")
    add_flags(parser, ExportConfig)
    return parser


def _export(args: list[str]) -> int:
    typed = parse(_export_parser(), args)
    from segacc.commands.export.command import export_command

    return export_command(typed.pop("model"), Layer(typed, "command line"))


def _benchmark_parser() -> Parser:
    parser = make_parser(
        prog="segacc benchmark",
        description="Measure the speed, memory, size and score of a model and its exported files "
        "on the CPU, in turns on the same images.",
    )
    text = "a model folder, see `segacc predict --help`, or a file of `segacc export`"
    parser.add_argument("models", metavar="MODEL", nargs="+", help=text)
    add_flags(parser, BenchmarkConfig)
    return parser


def _benchmark(args: list[str]) -> int:
    typed = parse(_benchmark_parser(), args)
    from segacc.commands.export.benchmark import benchmark_command

    return benchmark_command(typed.pop("models"), Layer(typed, "command line"))


def _check_data_parser() -> Parser:
    parser = make_parser(
        prog="segacc check-data",
        description="Scan a data set and report problems; exit code 1 if training would fail.",
    )
    add_flags(parser, CheckConfig)
    return parser


def _check_data(args: list[str]) -> int:
    typed = parse(_check_data_parser(), args)
    from segacc.commands.check_data.command import check_data_command

    return check_data_command(typed)


def _plugins_parser() -> Parser:
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


def _plugins(args: list[str]) -> int:
    typed = parse(_plugins_parser(), args)
    from segacc.commands.plugins.command import plugins_command

    if typed["name"] and typed["markdown"]:
        raise OptionError("--markdown: prints all architectures; leave the name out.")
    form = "json" if typed["json"] else "markdown" if typed["markdown"] else "text"
    return plugins_command(typed["name"], form=form)


def _new_plugin_parser() -> Parser:
    parser = make_parser(
        prog="segacc plugins new",
        description="Write an installable plugin with an architecture and its test.",
    )
    parser.add_argument(
        "name", metavar="NAME", help="name of the architecture; the folder will be segacc-NAME"
    )
    return parser


def _new_plugin(args: list[str]) -> int:
    typed = parse(_new_plugin_parser(), args)
    from segacc.commands.plugins.command import new_plugin_command

    return new_plugin_command(typed["name"])


def _info_parser() -> Parser:
    parser = make_parser(
        prog="segacc info",
        description="Print versions, devices, what accelerate would start, and the extras and "
        "plugins that are installed.",
    )
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    return parser


def _info(args: list[str]) -> int:
    typed = parse(_info_parser(), args)
    from segacc.commands.info import info_command

    return info_command(as_json=typed["json"])


COMMANDS = {
    "train": Command(train_parser, _train),
    "evaluate": Command(_evaluate_parser, _evaluate),
    "compare": Command(_compare_parser, _compare),
    "predict": Command(_predict_parser, _predict),
    "report": Command(_report_parser, _report),
    "demo": Command(_demo_parser, _demo),
    "push": Command(_push_parser, _push),
    "export": Command(_export_parser, _export),
    "benchmark": Command(_benchmark_parser, _benchmark),
    "check-data": Command(_check_data_parser, _check_data),
    "plugins": Command(_plugins_parser, _plugins),
    "plugins new": Command(_new_plugin_parser, _new_plugin),
    "info": Command(_info_parser, _info),
}
