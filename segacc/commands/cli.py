"""The command line: commands, flags made from the config dataclasses, and recipes.

Commands are imported after the arguments are parsed, so that `--help` and errors are fast.
"""

import argparse
import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from pydantic import PositiveInt

from segacc.contracts import VERSION
from segacc.errors import OptionError, cut, did_you_mean, expand, quoted, unknown
from segacc.settings.config import (
    CheckConfig,
    CompareConfig,
    EvaluateConfig,
    PredictConfig,
    TrainConfig,
)
from segacc.settings.options import OptionDoc, check_value, describe, literal_choices
from segacc.settings.sources import Layer, config_of, read_yaml
from segacc.settings.synonyms import suggest

USAGE = """\
  segacc train [--arch NAME:key=value,...] [--dataset NAME:key=value,...]   train
  segacc evaluate MODEL [--dataset ...] [--split ...]                       score
  segacc compare MODEL MODEL                                                compare
  segacc predict MODEL IMAGE_OR_FOLDER... [--output-dir DIR]                segment
  segacc check-data --dataset ... [--sample N] [--json]                     check data
  segacc plugins [NAME] [--json|--markdown]                                 list plugins
  segacc plugins new NAME                                                   new plugin"""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of printing."""

    def error(self, message: str) -> NoReturn:
        """Raise OptionError with the message."""
        message = message.removeprefix("argument ")
        if switch := re.match(r"(--[\w-]+)/(--no-[\w-]+): ignored", message):
            message = f"{switch[1]}: takes no value; write {switch[1]} or {switch[2]}"
        raise OptionError(f"{message}. `python -m {self.prog} --help` lists all flags.")


class Once(argparse.Action):
    """Action of a flag that may be given only once."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Store the value; raise OptionError if the flag was given before."""
        if hasattr(namespace, self.dest):
            raise OptionError(
                f"{option_string}: given twice: {quoted(getattr(namespace, self.dest))} and "
                f"{quoted(values)}; give it once."
            )
        setattr(namespace, self.dest, values)


def dashes(arg: str) -> str:
    """Replace underscores by dashes in a flag, as in `--batch_size`, but not in its value."""
    flag, equals, value = arg.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else arg


def make_parser(**words: Any) -> Parser:
    """Return the parser of a command; flags that are not given have no attribute."""
    return Parser(
        **{"prog": "segacc", **words}, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )


def parse(parser: Parser, args: list[str]) -> dict[str, Any]:
    """Return the given arguments by name.

    Raises:
        OptionError: a flag or argument is unknown, or argparse refuses it.
    """
    namespace, unknown = parser.parse_known_args(args)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        word = unknown[0].partition("=")[0]
        raise OptionError(
            f"unknown {'flag' if word.startswith('-') else 'argument'} {cut(word)}. "
            f"{suggest(word, flags)}"
            f"`python -m {parser.prog} --help` lists all flags."
        )
    return vars(namespace)


def add_flags(parser: argparse.ArgumentParser, cls: type[Any]) -> None:
    """Add a flag for each field of a class, grouped by the comments in it as headings."""
    headings, hints = _headings(cls), typing.get_type_hints(cls)
    groups: dict[str, Any] = {}
    for option in describe(cls):
        heading = headings[option.name]
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        text = f"{option.doc} {_default(option.default)}".replace("%", "%%")
        kind = _flag_kind(option, hints[option.name])
        groups[heading].add_argument(f"--{option.name.replace('_', '-')}", help=text, **kind)


def _flag_kind(option: OptionDoc, hint: Any) -> dict[str, Any]:
    """Return the argparse settings of a flag: a switch, repeatable, or given once."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is tuple and typing.get_args(hint)[-1] is ...:
        return {"action": "append", "metavar": "NAME"}
    if option.name == "resume":
        return {"action": Once, "nargs": "?", "const": "auto", "metavar": "FOLDER"}
    if choices := literal_choices(hint):
        return {"action": Once, "metavar": "|".join(map(str, choices))}
    return {"action": Once, "metavar": _metavar(option.type)}


def _headings(cls: type[Any]) -> Mapping[str, str]:
    heading, found = "Settings", {}
    for line in inspect.getsource(cls).splitlines():
        if comment := re.match(r"    # (.+)", line):
            heading = comment[1]
        elif field := re.match(r"    (\w+):", line):
            found[field[1]] = heading
    return found


def _metavar(type_text: str) -> str:
    words = {
        "integer": "N",
        "number": "X",
        "text": "TEXT",
        "path": "DIR",
        "SIZE": "SIZE",
    }
    return words.get(type_text.split()[0], "VALUE") if "mapping" not in type_text else "NAME"


def _default(default: Any) -> str:
    if default is None or default is False or default == () or default == "required":
        return ""
    if default is True:
        return "[on]"
    return f"[{' '.join(default) if isinstance(default, tuple) else default}]"


def recipe_folder() -> Path:
    """Return the folder of the recipes: in the package, or next to it in a checkout."""
    package = Path(__file__).parent.parent
    shipped = package / "recipes"
    return shipped if shipped.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the recipes."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def read_recipe(name: str, where: str = "--recipe") -> Layer:
    """Read the settings of a recipe, with `--recipe NAME` as their source.

    Args:
        name: the name of the recipe.
        where: how it was given.

    Raises:
        OptionError: the name is unknown.
    """
    names = recipe_names()
    if name not in names:
        own = " Use --config for a file of your own." if where == "--recipe" else ""
        raise OptionError(f"{where}: {unknown('recipe', name, names)}.{own}")
    return replace(read_yaml(recipe_folder() / f"{name}.yaml"), source=f"{where} {name}")


def run(argv: Sequence[str]) -> int:
    """Run a command line and return the exit code.

    Raises:
        SegaccError: an argument is invalid.
    """
    commands = {
        "train": _train,
        "evaluate": _evaluate,
        "compare": _compare,
        "predict": _predict,
        "check-data": _check_data,
        "plugins": _plugins,
    }
    args = [dashes(arg) for arg in argv]
    if not args or args[0].startswith("-"):
        return _train(args)
    if args[0] not in commands:
        raise OptionError(
            f'unknown command "{cut(args[0])}". {did_you_mean(args[0], commands)}'
            f"Commands: {', '.join(commands)}; without a command segacc trains."
        )
    return commands[args[0]](args[1:])


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
    add_flags(parser, TrainConfig)
    return parser


def _train(args: list[str]) -> int:
    typed = parse(train_parser(), args)
    processes = check_value(PositiveInt | None, typed.pop("processes", None), "--processes")
    recipe, config = typed.pop("recipe", None), typed.pop("config", None)
    layers = [] if recipe is None else [read_recipe(recipe)]
    layers += [read_yaml(expand(config, "--config"))] if config else []
    layers.append(Layer(typed, "command line"))
    from segacc.commands.train import launch_command, to_launch, train_command

    count = to_launch(processes)
    return launch_command(layers, count, args) if count else train_command(layers)


def _evaluate(args: list[str]) -> int:
    parser = make_parser(
        prog="segacc evaluate",
        description="Score a model on a split of a data set. For a model in a run folder, the "
        "data set, split, val_fraction, train_split and seed are those of the run unless given.",
    )
    _add_model(parser)
    add_flags(parser, EvaluateConfig)
    typed = parse(parser, args)
    model = typed.pop("model")
    from segacc.commands.evaluate.command import evaluate_command

    return evaluate_command(model, Layer(typed, "command line"))


def _add_model(parser: Parser) -> None:
    text = "a run folder (its best/), best/, last/, a checkpoint, any transformers folder, "
    parser.add_argument("model", metavar="MODEL", help=f"{text}or a Hub id such as USER/NAME")


def _compare(args: list[str]) -> int:
    parser = make_parser(
        prog="segacc compare",
        description="Test whether B scores better than A by a paired bootstrap over the images.",
    )
    text = "a run folder (its best/), model folder or checkpoint that was evaluated, or the output "
    text += "folder of `segacc evaluate`"
    parser.add_argument("a", metavar="A", help=text)
    parser.add_argument("b", metavar="B", help="another one, evaluated on the same images")
    add_flags(parser, CompareConfig)
    typed = parse(parser, args)
    a, b = (expand(typed.pop(name)) for name in ("a", "b"))
    config = config_of(CompareConfig, Layer(typed, "command line"))
    from segacc.commands.evaluate.command import compare_command

    return compare_command(a, b, config)


def _predict(args: list[str]) -> int:
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
    typed = parse(parser, args)
    model, inputs = typed.pop("model"), typed.pop("inputs")
    config = config_of(PredictConfig, Layer(typed, "command line"))
    from segacc.commands.predict import predict_command

    return predict_command(model, inputs, config)


def _check_data(args: list[str]) -> int:
    parser = make_parser(
        prog="segacc check-data",
        description="Scan a data set and report problems; exit code 1 if training would fail.",
    )
    add_flags(parser, CheckConfig)
    typed = parse(parser, args)
    from segacc.commands.check_data.command import check_data_command

    return check_data_command(typed)


def _plugins(args: list[str]) -> int:
    if args[:1] == ["new"]:
        return _new_plugin(args[1:])
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
    typed = parse(parser, args)
    from segacc.commands.plugins import plugins_command

    if typed["name"] and typed["markdown"]:
        raise OptionError("--markdown: prints all architectures; leave the name out.")
    form = "json" if typed["json"] else "markdown" if typed["markdown"] else "text"
    return plugins_command(typed["name"], form=form)


def _new_plugin(args: list[str]) -> int:
    parser = make_parser(
        prog="segacc plugins new",
        description="Write an installable plugin with an architecture and its test.",
    )
    parser.add_argument(
        "name", metavar="NAME", help="name of the architecture; the folder will be segacc-NAME"
    )
    typed = parse(parser, args)
    from segacc.commands.plugins import new_plugin_command

    return new_plugin_command(typed["name"])
