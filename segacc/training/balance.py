"""Class weights, class shares and rare-class sampling, from label counts of the training split."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object

from segacc.contracts import Facts
from segacc.data.atomic import replacing
from segacc.data.batches import Source
from segacc.data.label_counts import (
    Counts,
    class_chances,
    class_weights,
    count_labels,
    rare_class_chances,
    shares,
)
from segacc.errors import DataError, OptionError, count_of, first_of
from segacc.hookspecs import Stream
from segacc.labels import LabelMap
from segacc.training.class_weights import RULES, read_class_weights
from segacc.training.folders import BALANCE
from segacc.training.plan import Plan, as_stored
from segacc.training.processes import on_all

MANY = 16
"""Largest number of classes whose weights are all printed; else the lowest and the highest."""


@dataclass(frozen=True)
class Balance:
    """The class balance of a run."""

    chances: Sequence[float] | None = None
    """Relative sampling weight of each training sample; None: each one once per epoch."""
    notes: tuple[str, ...] = ()
    class_weights: tuple[float, ...] | None = None
    """K factors of the losses."""
    class_shares: tuple[float, ...] | None = None
    """K shares of the labelled pixels of the training split, 0..1."""
    table: Mapping[str, Any] | None = None
    """The content of class_balance.json; None if no setting needs it."""

    def inform(self, facts: Facts) -> Facts:
        """Return the facts for losses and augmentations, with class weights and shares."""
        return replace(facts, class_weights=self.class_weights, class_shares=self.class_shares)

    def write(self, folder: Path) -> None:
        """Write class_balance.json, if there is a table."""
        if self.table is not None:
            with replacing(folder / BALANCE) as part:
                part.write_text(json.dumps(self.table, indent=1), encoding="utf-8")


def balance(
    plan: Plan,
    train: Source | Stream,
    labels: LabelMap,
    chances: Sequence[float] | None,
    accelerator: Any,
) -> Balance:
    """Compute class weights, class shares and sampling weights, as far as the settings need them.

    Labels are counted at most once per run: a resumed run reads the stored counts, so the order of
    its samples stays the same. All processes call it and share the counting.

    Args:
        plan: the plan of the run.
        train: the training split.
        labels: the label map of the data set.
        chances: sampling weights given by the data set, multiplied with those of rare-class
            sampling.
        accelerator: the accelerator of the run.

    Raises:
        SegaccError: a label is invalid, the file of weights does not fit the classes, or a setting
            needs label counts and the data set is a stream.
    """
    config = plan.settings.config
    rule, temperature = config.class_weights, config.rare_class_sampling
    if rule is None and temperature is None and not _wants_shares(plan):
        return Balance(chances)
    _refuse_stream(plan, train)
    (weights, counts), notes = _stored(plan, labels, train), list[str]()
    by_count = temperature is not None or _wants_shares(plan) or (rule in RULES and not weights)
    if by_count and counts is None:
        assert isinstance(train, Source)  # streams were refused above
        counts, notes = count(plan, train, accelerator)
    if rule is not None and weights is None:
        if counts is not None and rule in RULES:
            weights = class_weights(rule, counts)
        else:
            where = plan.settings.where("class_weights")
            weights = read_class_weights(rule, labels.names, where)
    if weights is not None:
        notes += _weights_notes(str(rule), labels.names, weights, counts)
    if temperature is not None:
        assert counts is not None
        rare = rare_class_chances(counts, temperature)
        drawn: list[float] = (rare if chances is None else rare * np.asarray(chances)).tolist()
        notes.append(_sampling_note(temperature, labels.names, counts, drawn))
        chances = drawn
    told = None if counts is None else tuple(shares(counts).tolist())
    return Balance(chances, tuple(notes), weights, told, _table(plan, labels, weights, counts))


def _wants_shares(plan: Plan) -> list[str]:
    """Return the names of the augmentations that need class shares."""
    return [one.name for one in plan.aug if one.record.wants_shares]


def _refuse_stream(plan: Plan, train: Source | Stream) -> None:
    config, where = plan.settings.config, plan.settings.where
    if not isinstance(train, Stream):
        return
    if config.class_weights in RULES:
        raise OptionError(
            f"{where('class_weights')}: {config.class_weights} needs the pixel count of each "
            "class, for which the whole stream would have to be read. Give a file of weights "
            "(--class-weights FILE)."
        )
    if config.rare_class_sampling is not None:
        raise OptionError(
            f"{where('rare_class_sampling')}: a stream is read in order, so no image of it can be "
            "drawn more often than others. Leave this out, or use a data set on disk."
        )
    if names := _wants_shares(plan):
        raise OptionError(
            f"{where('aug')}: {names[0]} needs the pixel count of each class, for which the whole "
            "stream would have to be read. Leave it out, or use a data set on disk."
        )


def count(plan: Plan, train: Source, accelerator: Any) -> tuple[Counts, list[str]]:
    """Count the labels of the training split; each process counts its share.

    Returns:
        Pixel counts (n, K) of the n samples, on every process, and the notes to print.

    Raises:
        SegaccError: on every process, the error of the first process that has one.
    """
    config, unreadable = plan.settings.config, set[str]()
    turn = slice(accelerator.process_index, None, accelerator.num_processes)
    places, workers = range(len(train))[turn], config.num_workers
    mine = on_all(
        accelerator, lambda: count_labels(train, workers, places=places, unreadable=unreadable)
    )
    counts: Counts = np.zeros((len(train), len(train.labels.names)), np.int64)
    for one, rows, some in gather_object([(turn, mine, unreadable)]):
        counts[one] = rows
        unreadable |= some
    notes = _passed_over(unreadable, config.skip_unreadable)
    if not counts.any():
        raise DataError(
            f"{plan.settings.where('train_split')}: the {len(train)} labels in "
            f"{config.train_split} have no pixel of any class: all are ignored."
        )
    return counts, notes


def _passed_over(unreadable: set[str], allowed: int) -> list[str]:
    """Return a note on unreadable labels, or refuse them if there are too many."""
    if len(unreadable) > allowed:
        reason = sorted(unreadable)[allowed]
        limit = f" ({allowed} are allowed by --skip-unreadable)" if allowed else ""
        raise DataError(f"{reason} To skip up to N such files, add --skip-unreadable N{limit}.")
    many = count_of(len(unreadable), "label")
    return [f"{many} could not be read and were not counted"] if unreadable else []


def _weights_notes(
    rule: str, names: Sequence[str], weights: Sequence[float], counts: Counts | None
) -> list[str]:
    """Return a line with the class weights, and one with the classes that never occur."""
    by = "by" if rule in RULES else "from"
    told = [f"{name} {weight:.3g}" for name, weight in zip(names, weights, strict=True)]
    if len(told) > MANY:
        ranked = sorted(range(len(told)), key=lambda k: weights[k])
        ends = [*ranked[: MANY // 2], *ranked[-MANY // 2 :]]
        told = [told[k] for k in ends]
        told.insert(MANY // 2, "...")
        told.append(f"all in {BALANCE}")
    lines = [f"class weights {by} {rule}: {', '.join(told)}"]
    if counts is not None and rule in RULES:
        absent = [name for name, total in zip(names, counts.sum(0), strict=True) if not total]
        if absent:
            lines.append(f"absent from the training labels (weight 1): {', '.join(absent)}")
    return lines


def _sampling_note(
    temperature: float, names: Sequence[str], counts: Counts, chances: Sequence[float]
) -> str:
    """Return a line with the most sampled classes and the range of the images' frequencies."""
    wanted = class_chances(counts, temperature)
    first = np.argsort(-wanted, kind="stable")[:3]
    told = ", ".join(f"{names[k]} {wanted[k]:.0%}" for k in first)
    epoch = np.asarray(chances) * (len(chances) / sum(chances))
    return (
        f"rare-class sampling, temperature {temperature:g}: most sampled classes {told}; each "
        f"image is drawn {epoch.min():.2g} to {epoch.max():.2g} times per epoch on average"
    )


def _table(
    plan: Plan, labels: LabelMap, weights: tuple[float, ...] | None, counts: Counts | None
) -> dict[str, Any]:
    """Return the content of class_balance.json."""
    names, config = labels.names, plan.settings.config
    named = None if weights is None else dict(zip(names, weights, strict=True))
    table: dict[str, Any] = {"split": config.train_split, "names": list(names)}
    table |= {"rule": config.class_weights, "class_weights": named}
    if counts is None:
        return table
    columns = zip(counts.sum(0), shares(counts), (counts > 0).sum(0), strict=True)
    table["classes"] = {
        name: {"pixels": int(pixels), "share": float(share), "images": int(images)}
        for name, (pixels, share, images) in zip(names, columns, strict=True)
    }
    table["images"] = [" ".join(f"{k}:{row[k]}" for k in np.flatnonzero(row)) for row in counts]
    return table


def _stored(
    plan: Plan, labels: LabelMap, train: Source | Stream
) -> tuple[tuple[float, ...] | None, Counts | None]:
    """Read the weights and counts in the class_balance.json of a resumed run.

    Both are None in a new run, the weights also if --class-weights was given again. With
    `--resume-anyway`, for data that have changed, all labels are counted again; only weights of a
    file stay, if the classes are the same.

    Raises:
        OptionError: it was written for other classes or images.
    """
    path = plan.folder / BALANCE
    if not (plan.resume and path.is_file()):
        return None, None
    table = json.loads(path.read_text(encoding="utf-8"))
    rows, named = table.get("images"), table["class_weights"]
    counted = None if rows is None or isinstance(train, Stream) else len(train)
    others = table["names"] != list(labels.names)
    if plan.settings.config.resume_anyway:
        rows, named = None, None if others or table["rule"] in RULES else named
    elif others or (rows and counted != len(rows)):
        was = f"{len(rows)} training images, " if rows else ""
        raise OptionError(
            f"--resume {plan.settings.config.resume}: {path} was written for {was}"
            f"{len(table['names'])} classes ({first_of(table['names'], 8)}), but the data set has "
            "changed since. Use the data of that run, add --resume-anyway to count them again, or "
            "start a new run."
        )
    same = named and as_stored(plan.settings, "class_weights", plan.folder)
    weights = tuple(named[name] for name in labels.names) if same else None
    return weights, None if rows is None else _counts(rows, len(labels.names))


def _counts(rows: Sequence[str], num_classes: int) -> Counts:
    """Parse the rows of class_balance.json, one `CLASS:PIXELS CLASS:PIXELS ...` per image."""
    counts: Counts = np.zeros((len(rows), num_classes), np.int64)
    for row, text in zip(counts, rows, strict=True):
        for pair in text.split():
            k, _, pixels = pair.partition(":")
            row[int(k)] = int(pixels)
    return counts
