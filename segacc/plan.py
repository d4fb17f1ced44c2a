"""All that can be checked before torch is imported, so that a typo costs a fraction of a second."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segacc import checkpoint
from segacc.errors import OptionError
from segacc.options import decode
from segacc.registry import Registry
from segacc.settings import ABOUT_THE_PLACE, Layer, Settings, merge, read_yaml


@dataclass(frozen=True)
class Chosen:
    """A record and the options it will be built with."""

    record: Any
    options: Any
    text: str
    """As `name:key=value,...`."""

    @property
    def name(self) -> str:
        """The record's name."""
        return str(self.record.name)


@dataclass(frozen=True)
class Plan:
    """A run that is ready to be built."""

    settings: Settings
    arch: Chosen
    dataset: Chosen
    aug: tuple[Chosen, ...]
    loss: tuple[Chosen, ...]
    metric: tuple[Chosen, ...]
    folder: Path
    """The run folder."""
    resume: Path | None
    """The checkpoint to go on from."""


def choose(registry: Registry, kind: str, given: Any, where: str) -> Chosen:
    """Find a component and decode its options.

    Raises:
        SegaccError: unknown name, unknown option, wrong value.
    """
    record, component = registry.component(kind, given, where)
    label = f"{where} {component.name}" if where.startswith("--") else f"{where} ({component.name})"
    options = decode(record.options, component.values, label)
    values = ",".join(f"{key}={value}" for key, value in component.values.items())
    return Chosen(record, options, f"{component.name}:{values}" if values else component.name)


def gather(layers: list[Layer]) -> Settings:
    """Merge the sources; a run that is resumed starts from its own config.yaml.

    Raises:
        OptionError: see `merge`; or a changed setting that would not continue the same run.
    """
    settings = merge(layers)
    if not settings.config.resume:
        return settings
    folder, _ = checkpoint.find(settings.config.resume, settings.config.output_dir)
    if settings.config.output_dir and settings.config.output_dir.expanduser().resolve() != folder:
        raise OptionError(f"--resume goes on in {folder}; leave --output-dir out.")
    stored = read_yaml(folder / "config.yaml")
    place = Layer({"output_dir": folder, "resume": settings.config.resume}, str(folder))
    typed = [Layer(_without(layer.values, ABOUT_THE_PLACE), layer.source) for layer in layers]
    return merge([stored, *typed, place])


def _without(values: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def make_plan(settings: Settings, registry: Registry) -> Plan:
    """Check everything that can be checked without torch.

    Raises:
        SegaccError: the first thing that is wrong, and where it was typed.
    """
    config = settings.config

    def many(kind: str, key: str) -> tuple[Chosen, ...]:
        given = getattr(config, key)
        if given == ("none",):
            return ()
        return tuple(choose(registry, kind, one, settings.where(key)) for one in given)

    arch = choose(registry, "architecture", config.arch, settings.where("arch"))
    dataset = choose(registry, "dataset", config.dataset, settings.where("dataset"))
    plan = Plan(
        settings,
        arch,
        dataset,
        many("augmentation", "aug"),
        many("loss", "loss"),
        many("metric", "metric"),
        _run_folder(settings, arch, dataset),
        checkpoint.find(config.resume, config.output_dir)[1] if config.resume else None,
    )
    for key in ("loss", "metric"):
        if not getattr(plan, key):
            raise OptionError(f"{settings.where(key)}: at least one is needed.")
    _refuse_twins(plan)
    a_path = config.weights.startswith((".", "/", "~"))
    if a_path and not Path(config.weights).expanduser().is_dir():
        raise OptionError(f"{settings.where('weights')}: no such folder: {config.weights}.")
    return plan


def _refuse_twins(plan: Plan) -> None:
    for key in ("loss", "metric"):
        names = [chosen.name for chosen in getattr(plan, key)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise OptionError(f"{plan.settings.where(key)}: {', '.join(twice)} is given twice.")


def _run_folder(settings: Settings, arch: Chosen, dataset: Chosen) -> Path:
    config = settings.config
    if config.output_dir is None:
        base = Path("runs") / f"{arch.name}-{dataset.name}"
        return next(path for path in _numbered(base) if not path.exists())
    folder = config.output_dir.expanduser()
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{settings.where('output_dir')}: {folder} is a file.")
    in_use = folder.is_dir() and any(folder.iterdir())
    if in_use and not (config.resume or config.overwrite):
        raise OptionError(
            f"{settings.where('output_dir')}: {folder} is in use. Choose another folder, go on "
            "with "
            f"`--resume {folder}`, or delete what it holds with --overwrite."
        )
    if in_use and config.overwrite and not (folder / "config.yaml").is_file():
        raise OptionError(
            f"{settings.where('overwrite')}: {folder} does not look like a run folder (it has no "
            "config.yaml), "
            "so it is not deleted. Remove it yourself, or choose another folder."
        )
    return folder


def _numbered(base: Path) -> Iterator[Path]:
    yield base
    number = 2
    while True:
        yield base.with_name(f"{base.name}-{number}")
        number += 1


def options_text(chosen: Chosen) -> dict[str, Any]:
    """Return a component's full options, for segacc.json."""
    return {"name": chosen.record.name, **dataclasses.asdict(chosen.options)}
