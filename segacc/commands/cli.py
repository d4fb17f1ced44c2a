"""The command line: the table of all commands, and `train` with its recipes."""

from collections.abc import Mapping, Sequence

from pydantic import PositiveInt

from segacc.commands import arguments
from segacc.commands.arguments import ByHand, Command
from segacc.commands.parser import Once, Parser, add_flags, dashes, make_parser, parse
from segacc.contracts import VERSION
from segacc.errors import OptionError, cut, did_you_mean, expand
from segacc.settings.config import TrainConfig
from segacc.settings.options import check_value
from segacc.settings.recipes import read_recipe, recipe_names
from segacc.settings.sources import Layer, read_yaml

USAGE = """\
  segacc train [--arch NAME:key=value,...] [--dataset NAME:key=value,...]   train
  segacc evaluate MODEL [--dataset ...] [--split ...]                       score
  segacc compare A B | A... --with B...                                     compare
  segacc predict MODEL IMAGE_OR_FOLDER... [--output-dir DIR]                segment
  segacc report RUN... [--output FILE.html]                                 show runs
  segacc demo MODEL [--port N]                                              try in a browser
  segacc push FOLDER REPO [--private] [--dry-run]                           upload
  segacc export MODEL [--format onnx|openvino|pt2] [--half] [--argmax]      export
  segacc benchmark MODEL... [--images ...] [--json]                         benchmark
  segacc check-data --dataset ... [--sample N] [--json]                     check data
  segacc convert SOURCE TARGET [--format coco|yolo|labelme|...]             convert labels
  segacc plugins [NAME] [--json|--markdown]                                 list plugins
  segacc plugins new NAME                                                   new plugin
  segacc info [--json]                                                      versions, devices"""


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
        "--seeds",
        metavar="N",
        action=Once,
        help="Train N times, with the seeds --seed, --seed + 1, ..., in folders seed-* of the run "
        "folder, and print mean and range of the scores. Started again, it goes on with what is "
        "missing.",
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
    seeds = check_value(PositiveInt | None, typed.pop("seeds", None), "--seeds")
    recipe, config = typed.pop("recipe", None), typed.pop("config", None)
    dry_run, device_memory = typed.pop("dry_run", False), typed.pop("device_memory", None)
    if device_memory is not None and not dry_run:
        raise OptionError("--device-memory: only used with --dry-run; add it.")
    layers = [] if recipe is None else [read_recipe(recipe)]
    layers += [read_yaml(expand(config, "--config"))] if config else []
    layers.append(Layer(typed, "command line"))
    from segacc.commands.train import launch_command, to_launch, train_command

    if seeds:
        if dry_run:
            raise OptionError("--seeds: --dry-run builds a single run; leave one of them out.")
        from segacc.commands.evaluate.seeds import seeds_command

        return seeds_command(layers, seeds, processes or 1, args)
    count = to_launch(processes)
    if dry_run and not count:
        from segacc.commands.dry_run import dry_run_command

        return dry_run_command(layers, device_memory)
    return launch_command(layers, count, args) if count else train_command(layers)


COMMANDS: Mapping[str, Command | ByHand] = {
    "train": ByHand(train_parser, _train),
    **{command.name: command for command in arguments.COMMANDS},
    "plugins": ByHand(arguments.plugins_parser, arguments.run_plugins),
    "plugins new": ByHand(arguments.new_plugin_parser, arguments.run_new_plugin),
    "info": ByHand(arguments.info_parser, arguments.run_info),
}
