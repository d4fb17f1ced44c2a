"""From the command line to settings; the flags come from the config dataclasses (flags.py).

The commands are imported when all that was typed is parsed: `--help` and a typo do without rich.
"""

from collections.abc import Sequence
from pathlib import Path

from segacc.contracts import VERSION
from segacc.errors import OptionError, did_you_mean
from segacc.flags import Once, add_flags, dashes, make_parser, parse
from segacc.recipe_files import read_recipe, recipe_names
from segacc.settings.config import (
    CheckConfig,
    CompareConfig,
    EvaluateConfig,
    PredictConfig,
    TrainConfig,
)
from segacc.settings.sources import Layer, check_layer, read_yaml

COMMANDS = ("evaluate", "compare", "predict", "check-data", "plugins")
USAGE = """\
  accelerate launch -m segacc --arch segformer [--dataset NAME:key=value,...]   train
  python -m segacc evaluate MODEL_FOLDER --dataset ... [--split ...]            score
  python -m segacc compare A/evaluation B/evaluation                            better?
  python -m segacc predict MODEL_FOLDER IMAGE_OR_FOLDER... [--output-dir DIR]   segment
  python -m segacc check-data --dataset ... [--sample N] [--json]               look at data
  python -m segacc plugins [NAME] [--json|--markdown]                           what there is"""


def run(argv: Sequence[str]) -> int:
    """Run a command line and return the exit code.

    Raises:
        SegaccError: something typed is wrong.
    """
    args = [dashes(arg) for arg in argv]
    if args and not args[0].startswith("-"):
        name, rest = args[0], args[1:]
        if name not in COMMANDS:
            raise OptionError(
                f'unknown command "{name}". {did_you_mean(name, COMMANDS)}'
                f"Commands: {', '.join(COMMANDS)}; "
                "without a command segacc trains."
            )
        run_command = {
            "evaluate": _evaluate,
            "compare": _compare,
            "predict": _predict,
            "check-data": _check_data,
            "plugins": _plugins,
        }[name]
        return run_command(rest)
    return _train(args)


def _train(args: list[str]) -> int:
    parser = make_parser(usage="\n" + USAGE, description="Train a semantic-segmentation network.")
    parser.add_argument("--version", action="version", version=f"segacc {VERSION}")
    parser.add_argument(
        "--config", metavar="FILE", action=Once, help="YAML of settings; flags go over it."
    )
    names = ", ".join(recipe_names())
    parser.add_argument(
        "--recipe", metavar="NAME", action=Once, help=f"Published settings, under --config: {names}"
    )
    add_flags(parser, TrainConfig)
    typed = parse(parser, args)
    recipe, config = typed.pop("recipe", None), typed.pop("config", None)
    layers = [] if recipe is None else [read_recipe(recipe)]
    layers += [read_yaml(Path(config).expanduser())] if config else []
    from segacc import commands

    return commands.train([*layers, Layer(typed, "command line")])


def _evaluate(args: list[str]) -> int:
    parser = make_parser(
        prog="segacc evaluate", description="Score a model folder on a split of a data set."
    )
    parser.add_argument(
        "model", metavar="MODEL_FOLDER", help="best/ or last/ of a run, or any transformers folder"
    )
    add_flags(parser, EvaluateConfig)
    typed = parse(parser, args)
    model = typed.pop("model")
    if "dataset" not in typed:
        raise OptionError("--dataset must be given, as in `--dataset folder:root=data/camvid`.")
    from segacc import commands

    return commands.evaluate(
        model, EvaluateConfig(**check_layer(EvaluateConfig, Layer(typed, "command line")))
    )


def _compare(args: list[str]) -> int:
    parser = make_parser(
        prog="segacc compare",
        description="Tell whether B scores better than A: a paired bootstrap over the images.",
    )
    parser.add_argument("a", metavar="A", help="folder that `segacc evaluate` wrote")
    parser.add_argument("b", metavar="B", help="another one, on the same images")
    add_flags(parser, CompareConfig)
    typed = parse(parser, args)
    a, b = (Path(typed.pop(name)).expanduser() for name in ("a", "b"))
    from segacc import commands

    return commands.compare(
        a, b, CompareConfig(**check_layer(CompareConfig, Layer(typed, "command line")))
    )


def _predict(args: list[str]) -> int:
    parser = make_parser(
        prog="segacc predict", description="Segment pictures: index PNGs and overlays."
    )
    parser.add_argument(
        "model", metavar="MODEL_FOLDER", help="best/ or last/ of a run, or any transformers folder"
    )
    parser.add_argument(
        "inputs", metavar="IMAGE_OR_FOLDER", nargs="+", help="pictures, or folders of pictures"
    )
    add_flags(parser, PredictConfig)
    parser.add_argument("-r", dest="recursive", action="store_true", help="the same as --recursive")
    typed = parse(parser, args)
    model, inputs = typed.pop("model"), [Path(given) for given in typed.pop("inputs")]
    from segacc import commands

    return commands.predict(
        model, inputs, PredictConfig(**check_layer(PredictConfig, Layer(typed, "command line")))
    )


def _check_data(args: list[str]) -> int:
    parser = make_parser(
        prog="segacc check-data",
        description="Read a data set as a run would; exit 1 when a run would stop at it.",
    )
    add_flags(parser, CheckConfig)
    typed = parse(parser, args)
    if "dataset" not in typed:
        raise OptionError("--dataset must be given, as in `--dataset folder:root=data/camvid`.")
    if not typed.get("show_augmented"):
        unused = [f"--{key}" for key in ("aug", "augment") if key in typed]
        if unused:
            raise OptionError(f"{unused[0]}: is for --show-augmented; add that, or leave it out.")
        if "seed" in typed and "val_fraction" not in typed:
            raise OptionError(
                "--seed: is for --val-fraction and --show-augmented; add one, or leave it out."
            )
    elif "aug" in typed and "augment" in typed:
        raise OptionError("--aug and --augment exclude each other; give one.")
    from segacc import commands

    return commands.check_data(
        CheckConfig(**check_layer(CheckConfig, Layer(typed, "command line")))
    )


def _plugins(args: list[str]) -> int:
    parser = make_parser(
        prog="segacc plugins", description="Show what can be named, and which plugins are broken."
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", default=None, help="a component, to show its options"
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", default=False, help="print JSON")
    forms.add_argument(
        "--markdown", action="store_true", default=False, help="print docs/architectures.md"
    )
    typed = parse(parser, args)
    from segacc import commands

    if typed["name"] and typed["markdown"]:
        raise OptionError("--markdown prints all architectures; leave the name out.")
    form = "json" if typed["json"] else "markdown" if typed["markdown"] else "text"
    return commands.plugins(typed["name"], form=form)
