"""Finds plugins, records load failures, looks up components; built-ins use the same hooks."""

import dataclasses
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, distributions
from typing import Any

import pluggy

from segacc import hookspecs
from segacc.contracts import VERSION
from segacc.errors import OptionError, PluginError, expand, reason_of, twice_in, unknown
from segacc.hookspecs import (
    COMMON,
    Architecture,
    Augmentation,
    Chosen,
    Dataset,
    Found,
    Loss,
    Metric,
    NoOptions,
    Record,
)
from segacc.settings.options import Component, decode, name_first, parse_component
from segacc.settings.secrets import refuse_hidden, without_secrets

BUILT_IN = tuple(
    f"segacc.plugins.{folder}.{name}"
    for folder, names in {
        "architectures": (
            *("beit", "deeplabv3plus", "dpt", "eomt", "linear", "mask2former", "mobile"),
            *("oneformer", "pmt", "real_time", "segformer", "torchvision_networks", "upernet"),
        ),
        "augmentations": (
            *("color", "geometry", "mixing", "pixels", "rare_classes", "transforms_v2"),
            "trivial_augment",
        ),
        "datasets": (
            *("ade20k", "camvid", "cityscapes", "coco", "coco_stuff", "cvat", "folder", "hub"),
            *("labelme", "labelstudio", "mix", "nuclei", "shards", "voc", "yolo"),
        ),
        "losses": ("boundary", "pixel", "region"),
        "metrics": (
            "boundary",
            "evaluate_module",
            "overlap",
            "probabilities",
            "torchmetrics_class",
        ),
    }.items()
    for name in names
)
"""The modules of the built-in plugins."""

GROUP = "segacc"
HEAVY = ("torch", "transformers")
"""Packages whose import takes seconds."""
KINDS: Mapping[str, type[Record]] = {
    "architecture": Architecture,
    "dataset": Dataset,
    "augmentation": Augmentation,
    "loss": Loss,
    "metric": Metric,
}
HOOKS = {
    "architecture": "segacc_architectures",
    "dataset": "segacc_datasets",
    "augmentation": "segacc_augmentations",
    "loss": "segacc_losses",
    "metric": "segacc_metrics",
}


@dataclass(frozen=True)
class Offer:
    """A record and the distribution that provides it."""

    kind: str
    record: Any
    distribution: str
    version: str

    @property
    def built_in(self) -> bool:
        """True if segacc itself provides it."""
        return self.distribution == "segacc"

    @property
    def full_name(self) -> str:
        """Return `distribution/name`, which is never ambiguous."""
        return f"{self.distribution}/{self.record.name}"

    def chosen(self, options: Any, text: str = "", **more: Any) -> Chosen:
        """Return the record with the options it will be built with; `text` is what was typed."""
        more |= {"distribution": self.distribution, "version": self.version}
        return Chosen(self.record, options, text or self.record.name, **more)


@dataclass(frozen=True)
class Failure:
    """A plugin that could not be loaded, and the reason."""

    distribution: str
    version: str
    entry_point: str
    reason: str

    def text(self) -> str:
        """Return a one-line message."""
        who = " ".join(filter(None, (self.distribution, self.version)))
        return f"plugin {who} ({self.entry_point}) was not loaded: {self.reason}"


@dataclass
class Registry:
    """All components that can be named on a command line."""

    offers: list[Offer] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    """Messages about plugins that delay every command by what they import."""

    def clashes(self) -> list[str]:
        """Return a message for each plugin component whose plain name refers to a built-in one."""
        taken = {(offer.kind, offer.record.name) for offer in self.offers if offer.built_in}
        return [
            f'plugin {offer.distribution} {offer.version} offers the {offer.kind} "{name}", which '
            f"is the name of a built-in one; write {offer.full_name} for the plugin's."
            for offer in self.offers
            if not offer.built_in and (offer.kind, name := offer.record.name) in taken
        ]

    def of_kind(self, kind: str) -> list[Offer]:
        """Return the components of one kind by name, built-ins first."""
        mine = [offer for offer in self.offers if offer.kind == kind]
        return sorted(
            mine, key=lambda offer: (not offer.built_in, offer.record.name, offer.distribution)
        )

    def find(self, kind: str, name: str, where: str) -> Any:
        """Return the record named `name` or `distribution/name`.

        Raises:
            PluginError: as `offer`.
        """
        return self.offer(kind, name, where).record

    def offer(self, kind: str, name: str, where: str) -> Offer:
        """Return the component named `name` or `distribution/name`.

        Raises:
            PluginError: the name is unknown, or two plugins offer it and no built-in has it.
        """
        offers = self.of_kind(kind)
        found = [offer for offer in offers if name in (offer.record.name, offer.full_name)]
        if not found:
            broken = "".join(f" Note: {failure.text()}." for failure in self.failures)
            known = [offer.record.name for offer in offers]
            by_path = kind == "dataset" and "/" in name
            more = f"; there is no folder {name} either" if by_path else ""
            raise PluginError(f"{where}: {unknown(kind, name, known, more)}.{broken}")
        if len(found) > 1 and not found[0].built_in:
            choices = " or ".join(offer.full_name for offer in found)
            raise PluginError(f'{where}: two plugins offer the {kind} "{name}"; write {choices}.')
        return found[0]


def load_registry() -> Registry:
    """Load the built-ins, then the installed plugins one by one, sorted by distribution and name.

    `SEGACC_LOAD_PLUGINS` names the distributions to load, separated by commas; empty loads only
    the built-ins.
    """
    registry = Registry()
    for module in BUILT_IN:
        offers = offers_of(importlib.import_module(module), module, "segacc", VERSION)
        registry.offers.extend(offers)
    found = list(installed_plugins())
    for distribution, version, point in found:
        try:
            module, slow = _loaded(point)
            if slow:
                registry.slow.append(f"plugin {distribution} {version} ({point.name}) {slow}")
            offers = offers_of(module, f"{distribution}:{point.name}", distribution, version)
            check_new(offers, registry.offers)
            registry.offers.extend(offers)
        except (Exception, SystemExit) as error:  # plugin code may raise anything
            failure = Failure(distribution, version, point.name, reason_of(error))
            registry.failures.append(failure)
    for absent in sorted((_wanted() or set()) - {"segacc", *(name for name, _, _ in found)}):
        reason = "no distribution of this name offers plugins for segacc"
        registry.failures.append(Failure(absent, "", "SEGACC_LOAD_PLUGINS", reason))
    return registry


def _loaded(point: EntryPoint) -> tuple[Any, str]:
    """Import a plugin, and return what it imports that takes seconds, if anything."""
    start, before = time.perf_counter(), set(sys.modules)
    module = point.load()
    heavy = " and ".join(name for name in HEAVY if name in set(sys.modules) - before)
    seconds = time.perf_counter() - start
    waits = f"imports {heavy}, for which every command waits {seconds:.1f} s; import it in `build`"
    return module, waits if heavy else ""


def installed_plugins() -> Iterator[tuple[str, str, EntryPoint]]:
    """Yield (distribution, version, entry point) of the entry point group `segacc`, sorted."""
    allowed = _wanted()
    seen: dict[str, tuple[str, list[EntryPoint]]] = {}
    for dist in distributions():
        points = [point for point in dist.entry_points if point.group == GROUP]
        name = _normal(dist.metadata["Name"]) if points else ""
        if points and name not in seen and (allowed is None or name in allowed):
            seen[name] = (dist.version, points)
    for name, (version, points) in sorted(seen.items()):
        for point in sorted(points, key=lambda point: point.name):
            yield name, version, point


def entry_points_of(distribution: str) -> list[EntryPoint]:
    """Return the entry points of one installed distribution, by name."""
    return [point for name, _, point in installed_plugins() if name == _normal(distribution)]


def _wanted() -> set[str] | None:
    """Return the distributions in SEGACC_LOAD_PLUGINS, or None if it is not set (load all)."""
    text = os.environ.get("SEGACC_LOAD_PLUGINS")
    return None if text is None else {_normal(name) for name in text.split(",") if name.strip()}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def offers_of(module: Any, key: str, distribution: str, version: str) -> list[Offer]:
    """Register one module with a new plugin manager, check its hooks, and collect its records.

    Raises:
        Exception: anything that is wrong with the module; the caller catches it.
    """
    manager = pluggy.PluginManager("segacc")
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=key)
    manager.check_pending()
    offers: list[Offer] = []
    for kind, hook in HOOKS.items():
        bare = getattr(module, hook, None)
        if callable(bare) and not manager.parse_hookimpl_opts(module, hook):
            raise PluginError(f"{hook} is not marked @segacc.hookimpl, so it is never called")
        answers = getattr(manager.hook, hook)()  # without None
        for answer in answers or ([None] if callable(bare) else []):
            records = _records(answer, kind, hook)
            offers += [Offer(kind, record, distribution, version) for record in records]
    if not offers:
        raise PluginError(
            "it offers no component: it needs a function marked @segacc.hookimpl that returns "
            f"records, one of {', '.join(HOOKS.values())}"
        )
    names = [(offer.kind, offer.record.name) for offer in offers]
    twice = sorted({name for kind, name in names if names.count((kind, name)) > 1})
    if twice:
        raise PluginError(f"it offers {', '.join(twice)} twice")
    return offers


def check_new(offers: list[Offer], before: list[Offer]) -> None:
    """Reject a component that another entry point of its distribution also offers."""
    taken = {(offer.kind, offer.full_name) for offer in before}
    for offer in offers:
        if (offer.kind, offer.full_name) in taken:
            raise PluginError(f"{offer.full_name} is offered by another of its entry points")


def _records(answer: Any, kind: str, hook: str) -> list[Record]:
    """Return the records of a hook's return value.

    Raises:
        PluginError: it is not a list, or a record is invalid.
    """
    if not isinstance(answer, Iterable):
        found, wanted = type(answer).__name__, KINDS[kind].__name__
        found = "None" if answer is None else found
        raise PluginError(f"{hook} returned {found}, expected a list of segacc.{wanted}")
    records = list(answer)
    for record in records:
        _check(record, kind, hook)
    return records


def _check(record: Any, kind: str, hook: str) -> None:
    if not isinstance(record, KINDS[kind]):
        raise PluginError(
            f"{hook} returned {type(record).__name__}, expected segacc.{KINDS[kind].__name__}"
        )
    if not re.fullmatch(r"[a-z0-9_]+", record.name):
        raise PluginError(f"{hook}: the name {record.name!r} must match [a-z0-9_]+")
    if not hasattr(record.options, "__dataclass_fields__"):
        raise PluginError(f"{hook}: the options of {record.name} must be a dataclass")
    if not record.options.__dataclass_params__.frozen:
        raise PluginError(
            f"{hook}: the options of {record.name} must be frozen, as in "
            "@dataclass(frozen=True, kw_only=True)"
        )


def choose(registry: Registry, kind: str, given: Any, where: str) -> Chosen:
    """Look up a component and decode its options.

    Raises:
        SegaccError: unknown name, unknown option, or invalid value.
    """
    refuse_hidden(given, where)
    by_path = kind == "dataset" and _is_path(registry, given)
    found = _recognized(registry, parse_component(given, where)) if by_path else None
    component = parse_component(found.values if found else given, where)
    offer = registry.offer(kind, component.name, where)
    record, label = offer.record, component.label
    given_values = name_first(record.options, component.values, label)
    own = {field.name for field in dataclasses.fields(record.options)}
    shared = COMMON.get(kind, NoOptions)
    every = {field.name for field in dataclasses.fields(shared)} - own
    mine = {key: value for key, value in given_values.items() if key not in every}
    options = decode(record.options, mine, label, others=sorted(every))
    rest = {key: value for key, value in given_values.items() if key in every}
    common = decode(shared, rest, label)
    values = ",".join(f"{key}={_text(value)}" for key, value in given_values.items())
    text = without_secrets(f"{component.name}:{values}" if values else component.name)
    inner = getattr(record, "parts", None)
    parts = tuple(choose(registry, kind, one, label) for one in inner(options)) if inner else ()
    return offer.chosen(options, text, parts=parts, common=common, found=found)


def _is_path(registry: Registry, given: Any) -> bool:
    """Return whether a data set is given by a path, as `./mine`, and not by the name of one."""
    name = given.strip().partition(":")[0] if isinstance(given, str) else ""
    offers = registry.of_kind("dataset")
    if not name or any(name in (one.record.name, one.full_name) for one in offers):
        return False
    formed = name in (".", "..") or name.startswith(("/", "./", "../", "~")) or name.endswith("/")
    return formed or expand(name).is_dir()


def _recognized(registry: Registry, path: Component) -> Found:
    """Ask the data sets how a folder is read, those of plugins first.

    Raises:
        SegaccError: none of them can read it.
    """
    given, typed = path.name, dict(path.values)
    for offer in reversed(registry.of_kind("dataset")):
        if offer.record.recognize is None:
            continue
        if found := offer.record.recognize(given, typed, path.where):
            values = {"name": found.name, **found.options, **typed}
            return Found(given, values, found.counts)
    raise PluginError(f"{path.where}: no data set reads the folder {given}.")


def _text(value: Any) -> str:
    """Format a value as it is typed: a plain list is joined with `/`."""
    if isinstance(value, str) and "," in value:
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(value, list | tuple) or any(set("/,:") & set(str(part)) for part in value):
        return str(value)
    return "/".join(map(str, value))


def refuse_twins(names: Sequence[str], where: str) -> None:
    """Reject two components with the same name.

    Raises:
        OptionError: two components have the same name, or there is none.
    """
    if not names:
        raise OptionError(f"{where}: at least one is needed.")
    if twice := twice_in(names):
        raise OptionError(f"{where}: {', '.join(twice)} is given twice.")


def options_text(chosen: Chosen) -> dict[str, Any]:
    """Return a component's name and full options, for segacc.json."""
    return {"name": chosen.text.partition(":")[0], **dataclasses.asdict(chosen.options)}
