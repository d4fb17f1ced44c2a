"""Rows of samples are told apart by their ids: without reading them, and fast."""

import time
from collections.abc import Sequence
from typing import Any

from data_tools import random_sample
from dataset_hub_data import build, pairs, parquet
from segacc.data.samples import digest, ids_of
from segacc.data.splits import carve, pick_split
from segacc.hookspecs import DataSplits, Sample
from segacc.labels import LabelMap
from segacc.plugins.datasets.mix import MixOptions, build_mix

pytest_plugins = ["dataset_hub_fixtures"]
LABELS = LabelMap.plain(("sky", "road", "tree"))


class Heavy(Sequence[Sample]):
    """Samples that must not be read, of which only the ids are at hand."""

    def __init__(self, count: int) -> None:
        self.ids = [f"h{number}" for number in range(count)]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("a sample was read")


def told(splits: DataSplits, name: str) -> Sequence[str]:
    return ids_of(pick_split(splits, name, "--train-split"))  # type: ignore[arg-type]


def test_slices_and_carved_parts_tell_their_ids_without_reading() -> None:
    splits = DataSplits({"train": Heavy(6)}, LABELS)
    assert told(splits, "train") == ["h0", "h1", "h2", "h3", "h4", "h5"]
    assert told(splits, "train[2:4]") == ["h2", "h3"]
    carved = carve(splits, 0.5, 0, train="train", validation="validation", where="")
    parts = [told(carved, name) for name in ("train", "validation")]
    assert sorted([*parts[0], *parts[1]]) == splits.splits["train"].ids  # type: ignore[union-attr]
    assert told(carved, "train[1:]") == parts[0][1:]


def test_a_mix_tells_its_ids_without_reading() -> None:
    plain = [random_sample(k) for k in range(2)]
    parts = tuple(DataSplits({"train": some}, LABELS) for some in (Heavy(3), plain))
    mixed = build_mix(MixOptions(sets=("a", "b")), parts)
    assert told(mixed, "train") == ["a-h0", "a-h1", "a-h2", "b-s0", "b-s1"]
    assert told(mixed, "train[3:]") == [one.id for one in mixed.splits["train"][3:]]  # type: ignore[index]


def test_rows_that_have_only_numbers_keep_them_in_a_slice(hub_names: str, tmp_path: Any) -> None:
    file = str(parquet(tmp_path / "data" / "train.parquet", pairs(5)))
    ids = {}
    for split in ("train", "train[:2]", "train[2:4]"):
        samples = build(path=file, names=hub_names, split=split).splits["train"]
        assert not hasattr(samples, "num_samples")
        ids[split] = list(ids_of(samples))  # type: ignore[arg-type]
    assert ids == {"train": list("01234"), "train[:2]": ["0", "1"], "train[2:4]": ["2", "3"]}


def test_a_digest_tells_order_ids_and_chances_apart() -> None:
    rows: list[tuple[Any, ...]] = [
        (["a", "b", "c"],),
        (["b", "a", "c"],),
        (["a", "b"],),
        (["a", "bc"],),
        (["a", "b", "c"], [1, 1, 1]),
        (["a", "b", "c"], [1, 1, 2]),
    ]
    assert len({digest(*row) for row in rows}) == len(rows)
    assert digest(("a", "b")) == digest(["a", "b"]) and len(digest([])) == 12
    assert digest(["a"], [0.1]) == digest(["a"], [0.1 * (1 + 1e-15)])


def test_a_million_samples_take_no_time() -> None:
    splits = DataSplits({"train": Heavy(10**6)}, LABELS)
    start = time.process_time()
    digest(told(splits, "train[1:]"), [1.0] * (10**6 - 1))
    assert time.process_time() - start < 10
