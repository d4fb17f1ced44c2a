"""The arguments of the commands after training, and what runs each of them.

A command is imported after its arguments are parsed, so that `--help` and errors are fast.
"""

from pathlib import Path

from segacc.commands.parser import Once, Parser, add_flags, make_parser, parse
from segacc.errors import OptionError, count_of, expand
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
from segacc.settings.sources import Layer, config_of


def _add_model(parser: Parser) -> None:
    text = "a run folder (its best/), best/, last/, a checkpoint, any transformers folder, a file "
    text += "of `segacc export`, or a Hub id such as USER/NAME"
    parser.add_argument("model", metavar="MODEL", help=text)


def evaluate_parser() -> Parser:
    """Return the parser of `segacc evaluate`."""
    parser = make_parser(
        prog="segacc evaluate",
        description="Score a model on a split of a data set. For a model in a run folder, the "
        "data set, split, val_fraction, train_split and seed are those of the run unless given.",
    )
    _add_model(parser)
    add_flags(parser, EvaluateConfig)
    return parser


def run_evaluate(args: list[str]) -> int:
    """Run `segacc evaluate` with these arguments; return the exit code."""
    typed = parse(evaluate_parser(), args)
    from segacc.commands.evaluate.command import evaluate_command

    return evaluate_command(typed.pop("model"), Layer(typed, "command line"))


def compare_parser() -> Parser:
    """Return the parser of `segacc compare`."""
    parser = make_parser(
        prog="segacc compare",
        description="Test whether B scores better than A by a paired bootstrap over the images.",
    )
    text = "A and B: a run folder (its best/), model folder or checkpoint that was evaluated, an "
    text += "output folder of `segacc evaluate`, or the folder of a group that --seeds has trained"
    parser.add_argument("runs", metavar="A B", nargs="+", help=text)
    parser.add_argument(
        "--with",
        metavar="B",
        nargs="+",
        action=Once,
        help="Several runs on each side, which differ in their seed, as in `segacc compare A1 A2 "
        "--with B1 B2`.",
    )
    add_flags(parser, CompareConfig)
    return parser


def run_compare(args: list[str]) -> int:
    """Run `segacc compare` with these arguments; return the exit code."""
    typed = parse(compare_parser(), args)
    a, b = sides_of(typed.pop("runs"), typed.pop("with", None))
    config = config_of(CompareConfig, Layer(typed, "command line"))
    from segacc.commands.evaluate.command import compare_command

    return compare_command(a, b, config)


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


def predict_parser() -> Parser:
    """Return the parser of `segacc predict`."""
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


def run_predict(args: list[str]) -> int:
    """Run `segacc predict` with these arguments; return the exit code."""
    typed = parse(predict_parser(), args)
    model, inputs = typed.pop("model"), typed.pop("inputs")
    config = config_of(PredictConfig, Layer(typed, "command line"))
    from segacc.commands.predict.command import predict_command

    return predict_command(model, inputs, config)


def report_parser() -> Parser:
    """Return the parser of `segacc report`."""
    parser = make_parser(
        prog="segacc report",
        description="Write one HTML file that shows runs: scores, curves, classes, the worst "
        "images, settings and commands. It needs no network, and a run may still be training.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders to show side by side")
    add_flags(parser, ReportConfig)
    return parser


def run_report(args: list[str]) -> int:
    """Run `segacc report` with these arguments; return the exit code."""
    typed = parse(report_parser(), args)
    runs = typed.pop("runs")
    config = config_of(ReportConfig, Layer(typed, "command line"))
    from segacc.commands.report.command import report_command

    return report_command(runs, config)


def demo_parser() -> Parser:
    """Return the parser of `segacc demo`."""
    parser = make_parser(
        prog="segacc demo",
        description="Serve a page to this machine on which pictures are segmented, until Ctrl+C; "
        "needs `pip install gradio`.",
    )
    _add_model(parser)
    add_flags(parser, DemoConfig)
    return parser


def run_demo(args: list[str]) -> int:
    """Run `segacc demo` with these arguments; return the exit code."""
    typed = parse(demo_parser(), args)
    model = typed.pop("model")
    config = config_of(DemoConfig, Layer(typed, "command line"))
    from segacc.commands.demo import demo_command

    return demo_command(model, config)


def push_parser() -> Parser:
    """Return the parser of `segacc push`."""
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


def run_push(args: list[str]) -> int:
    """Run `segacc push` with these arguments; return the exit code."""
    typed = parse(push_parser(), args)
    folder, repo = typed.pop("folder"), typed.pop("repo")
    config = config_of(PushConfig, Layer(typed, "command line"))
    from segacc.commands.push import push_command

    return push_command(folder, repo, config)


def export_parser() -> Parser:
    """Return the parser of `segacc export`."""
    parser = make_parser(
        prog="segacc export",
        description="Write a model as a file of ONNX, OpenVINO or torch.export, and prove on real "
        "images that it predicts the same.",
    )
    text = "a run folder (its best/), best/, last/, a checkpoint, any transformers folder, "
    parser.add_argument("model", metavar="MODEL", help=f"{text}or a Hub id such as USER/NAME")
    add_flags(parser, ExportConfig)
    return parser


def run_export(args: list[str]) -> int:
    """Run `segacc export` with these arguments; return the exit code."""
    typed = parse(export_parser(), args)
    from segacc.commands.export.command import export_command

    return export_command(typed.pop("model"), Layer(typed, "command line"))


def benchmark_parser() -> Parser:
    """Return the parser of `segacc benchmark`."""
    parser = make_parser(
        prog="segacc benchmark",
        description="Measure the speed, memory, size and score of a model and its exported files "
        "on the CPU, in turns on the same images.",
    )
    text = "a model folder, see `segacc predict --help`, or a file of `segacc export`"
    parser.add_argument("models", metavar="MODEL", nargs="+", help=text)
    add_flags(parser, BenchmarkConfig)
    return parser


def run_benchmark(args: list[str]) -> int:
    """Run `segacc benchmark` with these arguments; return the exit code."""
    typed = parse(benchmark_parser(), args)
    from segacc.commands.export.benchmark import benchmark_command

    return benchmark_command(typed.pop("models"), Layer(typed, "command line"))


def check_data_parser() -> Parser:
    """Return the parser of `segacc check-data`."""
    parser = make_parser(
        prog="segacc check-data",
        description="Scan a data set and report problems; exit code 1 if training would fail.",
    )
    add_flags(parser, CheckConfig)
    return parser


def run_check_data(args: list[str]) -> int:
    """Run `segacc check-data` with these arguments; return the exit code."""
    typed = parse(check_data_parser(), args)
    from segacc.commands.check_data.command import check_data_command

    return check_data_command(typed)


def convert_parser() -> Parser:
    """Return the parser of `segacc convert`."""
    parser = make_parser(
        prog="segacc convert",
        description="Write a data set as the files of an annotation tool, or as a folder of "
        "images and PNGs of class indices.",
    )
    text = "data set: the path of a folder, or e.g. `coco:annotations=FILE,images=DIR`"
    parser.add_argument("source", metavar="SOURCE", help=text)
    parser.add_argument("target", metavar="TARGET", help="folder to create")
    add_flags(parser, ConvertConfig)
    return parser


def run_convert(args: list[str]) -> int:
    """Run `segacc convert` with these arguments; return the exit code."""
    typed = parse(convert_parser(), args)
    source, target = typed.pop("source"), typed.pop("target")
    config = config_of(ConvertConfig, Layer(typed, "command line"))
    from segacc.commands.convert.command import convert_command

    return convert_command(source, target, config)


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
