"""Checks that a data set's samples can be decoded and have labels inside its label map."""

import json
import re
from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any

import torch

from segacc.contracts import IGNORE
from segacc.data.order import seeded
from segacc.data.sample_pair import read_sample
from segacc.hookspecs import Dataset, DataSplits, Sample, Stream
from segacc.testing.tools import Report, few


def check_dataset(
    record: Dataset,
    options: Any = None,
    *,
    parts: tuple[DataSplits, ...] = (),
    num_samples: int = 8,
) -> None:
    """Check that a data set implements the interface of the hook correctly.

    Splits have samples; ids are unique; images and labels can be decoded, have equal size and
    contain known ids only; a second build gives the same samples in the same order.

    Args:
        record: the record that the hook returns.
        options: options of the data set, such as its folder; default `record.options()`.
        parts: the built data sets that it is made of, if it has `parts`.
        num_samples: number of evenly spaced samples of each split to decode; all ids are compared.

    Raises:
        AssertionError: a check failed; the message says what was expected and found.
    """
    options = record.options() if options is None else options
    report, given = Report(record, options), (options, parts) if record.parts else (options,)
    with seeded(0), report.attempt("the data set to be built and read"):
        data: DataSplits = record.build(*given)
        report.require(isinstance(data, DataSplits), "DataSplits", type(data).__name__)
        report.require(data.splits, "at least one split", "none")
        known(report, data)
    with seeded(1), report.attempt("the data set to be built and read a second time"):
        again: DataSplits = record.build(*given)
        report.require(
            (list(again.splits), again.labels) == (list(data.splits), data.labels),
            "the same splits and label map from a second build",
            "other ones",
        )
    with report.attempt("the samples of all splits to be read"):
        for name, given_split in data.splits.items():
            samples, others = (
                streamed(report, name, split, num_samples) if isinstance(split, Stream) else split
                for split in (given_split, again.splits[name])
            )
            listed(report, name, samples)
            same(report, name, samples, others, num_samples)
            seen = decoded(report, name, samples, data, num_samples)
            report.require(seen, f"some labelled pixels in split {name}", "ignored ones only")


def streamed(report: Report, name: str, stream: Stream, count: int) -> list[Sample]:
    """Read the start of each shard, and check that each position leads to the next sample."""
    found: list[Sample] = []
    for shard in stream.shards:
        pairs = list(islice(stream.read(shard, None), count))
        for (_, position), (after, _) in pairwise(pairs):
            plain = json.loads(json.dumps(position))
            report.require(plain == position, "positions of plain JSON", f"{position!r}")
            went_on = next(stream.read(shard, position), (None, None))[0]
            report.require(
                went_on == after,
                f"split {name} to resume after a position with the next sample",
                "another one",
            )
        found += [sample for sample, _ in pairs]
    return found


def known(report: Report, data: DataSplits) -> None:
    """Check the label map and crop size."""
    labels = data.labels
    equal = len(labels.names) == len(labels.palette)
    found = f"{len(labels.names)} names, {len(labels.palette)} colours"
    report.require(equal, "a colour for each class", found)
    missing = [n for k, n in enumerate(labels.names) if k not in labels.classes.values()]
    report.require(not missing, "a raw label id for each class", f"none for {few(missing)}")
    wrong = [one for one in labels.palette if not all(0 <= part <= 255 for part in one)]
    report.require(not wrong, "colours of 0..255", few([str(one) for one in wrong]))
    fine = data.crop_size is None or min(data.crop_size) > 0
    report.require(fine, "a crop_size (height, width) above 0", f"{data.crop_size}")


def places(count: int, wanted: int) -> list[int]:
    """Return evenly spaced indices of a split."""
    wanted = min(count, wanted)
    return [k * count // wanted for k in range(wanted)]


def listed(report: Report, name: str, samples: Sequence[Sample]) -> None:
    """Check that a split has samples with unique ids."""
    report.require(len(samples) > 0, f"samples in split {name}", "none")
    kinds = {type(samples[k]) for k in places(len(samples), 2)}
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    report.require(kinds == {Sample}, f"segacc.Sample in split {name}", found)
    ids = [samples[k].id for k in range(len(samples))]
    twice = sorted({one for one in ids if ids.count(one) > 1}) if len({*ids}) < len(ids) else []
    report.require(not twice, f"one id for each sample of split {name}", f"{few(twice)} twice")
    broken = [one for one in ids if not one or re.search(r"[\n\r\0]", one)]
    report.require(not broken, f"single-line ids in split {name}", few([*map(repr, broken)]))


def same(
    report: Report,
    name: str,
    samples: Sequence[Sample],
    again: Sequence[Sample],
    num_samples: int,
) -> None:
    """Check that a second build gives the same samples in the same order."""
    count = len(samples)
    report.require(len(again) == count, f"{count} samples in split {name} again", f"{len(again)}")
    changed = [k for k in range(count) if samples[k].id != again[k].id]
    changed += [k for k in places(count, num_samples) if samples[k] != again[k]]
    report.require(
        not changed,
        f"split {name} to be the same, in the same order, when built again",
        f"another sample at index {changed[0] if changed else 0}: sort the contents of folders "
        "and sets, and use seeded generators only",
    )


def decoded(
    report: Report, name: str, samples: Sequence[Sample], data: DataSplits, num_samples: int
) -> bool:
    """Check that samples decode to uint8 with known classes; return whether any is labelled."""
    seen = False
    for k in places(len(samples), num_samples):
        sample = samples[k]
        with report.attempt(f"sample {sample.id} of split {name} to decode"):
            image, label = read_sample(sample, data.labels)
        kinds = (image.dtype, label.dtype) == (torch.uint8, torch.uint8)
        report.require(kinds, "uint8 images and labels", f"{image.dtype}, {label.dtype}")
        seen = seen or bool((label != IGNORE).any())
    return seen
