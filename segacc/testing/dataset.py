"""Checks that a data set's samples can be decoded and have labels inside its label map."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any

from segacc.contracts import IGNORE
from segacc.data.order import seeded
from segacc.data.sample_pair import read_sample
from segacc.data.samples import evenly_spaced
from segacc.errors import first_of
from segacc.hookspecs import Dataset, DataSplits, Sample, Stream
from segacc.testing.tools import attempt, naming, require


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
    given = (options, parts) if record.parts else (options,)
    with naming(record, options):
        with seeded(0), attempt("the data set to be built and read"):
            data: DataSplits = record.build(*given)
            described(data)
        with seeded(1), attempt("the data set to be built and read a second time"):
            again: DataSplits = record.build(*given)
            same = (list(again.splits), again.labels) == (list(data.splits), data.labels)
            require(same, "the same splits and label map from a second build", "other ones")
        with attempt("the samples of all splits to be read"):
            for name in data.splits:
                samples, others = (
                    streamed(name, split, num_samples) if isinstance(split, Stream) else split
                    for split in (data.splits[name], again.splits[name])
                )
                listed(name, samples)
                equal(name, samples, others, num_samples)
                decoded(name, samples, data, num_samples)


def described(data: DataSplits) -> None:
    """Check the record that `build` returns; its label map checks itself."""
    require(isinstance(data, DataSplits), "DataSplits", type(data).__name__)
    require(data.splits, "at least one split", "none")
    missing = [n for k, n in enumerate(data.labels.names) if k not in data.labels.classes.values()]
    require(not missing, "a raw label id for each class", f"none for {first_of(missing, 4)}")
    fine = data.crop_size is None or min(data.crop_size) > 0
    require(fine, "a crop_size (height, width) above 0", f"{data.crop_size}")


def streamed(name: str, stream: Stream, count: int) -> list[Sample]:
    """Read the start of each shard, and check that each position leads to the next sample."""
    found: list[Sample] = []
    for shard in stream.shards:
        pairs = list(islice(stream.read(shard, None), count))
        for (_, position), (after, _) in pairwise(pairs):
            plain = json.loads(json.dumps(position))
            require(plain == position, "positions of plain JSON", f"{position!r}")
            went_on, _ = next(stream.read(shard, position), (None, None))
            expected = f"split {name} to resume after a position with the next sample"
            require(went_on == after, expected, "another one")
        found += [sample for sample, _ in pairs]
    return found


def listed(name: str, samples: Sequence[Sample]) -> None:
    """Check that a split has samples with unique ids."""
    require(len(samples) > 0, f"samples in split {name}", "none")
    kinds = {type(samples[k]) for k in evenly_spaced(len(samples), 2)}
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    require(kinds == {Sample}, f"segacc.Sample in split {name}", found)
    counts = Counter(samples[k].id for k in range(len(samples)))
    twice = sorted(one for one, count in counts.items() if count > 1)
    require(not twice, f"one id for each sample of split {name}", f"{first_of(twice, 4)} twice")
    broken = [repr(one) for one in counts if not one or re.search(r"[\n\r\0]", one)]
    require(not broken, f"single-line ids in split {name}", first_of(broken, 4))


def equal(name: str, samples: Sequence[Sample], again: Sequence[Sample], num_samples: int) -> None:
    """Check that a second build gives the same samples in the same order."""
    count = len(samples)
    require(len(again) == count, f"{count} samples in split {name} again", f"{len(again)}")
    changed = [k for k in range(count) if samples[k].id != again[k].id]
    changed += [k for k in evenly_spaced(count, num_samples) if samples[k] != again[k]]
    require(
        not changed,
        f"split {name} to be the same, in the same order, when built again",
        f"another sample at index {changed[0] if changed else 0}: sort the contents of folders "
        "and sets, and use seeded generators only",
    )


def decoded(name: str, samples: Sequence[Sample], data: DataSplits, num_samples: int) -> None:
    """Check that samples decode to known classes, and some pixels are labelled."""
    labelled = False
    for k in evenly_spaced(len(samples), num_samples):
        with attempt(f"sample {samples[k].id} of split {name} to decode"):
            _, label = read_sample(samples[k], data.labels)
        labelled = labelled or bool((label != IGNORE).any())
    require(labelled, f"some labelled pixels in split {name}", "ignored ones only")
