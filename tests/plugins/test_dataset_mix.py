"""`mix`: several data sets as one, their classes unified by name."""

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli_tools import write_data
from data_tools import encode
from segacc.data.decode import read_label
from segacc.data.order import Order
from segacc.data.sample_pair import read_sample
from segacc.data.samples import ReadAs, build_splits
from segacc.errors import DataError, OptionError, SegaccError
from segacc.hookspecs import DataSplits, Sample, Stream
from segacc.labels import LabelMap
from segacc.plugins.datasets.mix import MixedSamples, MixOptions, build_mix
from segacc.registry import Registry, choose, load_registry
from segacc.settings.options import decode

SIZE = (6, 9)


def raw_label(number: int, num_ids: int) -> Any:
    """Draw raw ids (H, W) below `num_ids`; the first row is 255."""
    raw = np.random.default_rng((number, num_ids)).integers(0, num_ids, SIZE, dtype=np.uint8)
    raw[0] = 255
    return raw


def part(
    names: str, *, count: int = 3, where: str = "", splits: Sequence[str] = ("train",), **more: Any
) -> DataSplits:
    """Make a data set in memory: label number k of a split holds `raw_label(k, ...)`."""
    classes = names.split()
    image = encode(np.zeros((*SIZE, 3), np.uint8))
    samples = [
        Sample(image, encode(raw_label(k, len(classes))), f"{where}{k}") for k in range(count)
    ]
    labels = more.pop("labels", None) or LabelMap.plain(classes, palette=more.pop("palette", ()))
    return DataSplits({split: samples for split in splits}, labels, **more)


def mixed(*parts: DataSplits, **values: Any) -> DataSplits:
    """Mix data sets that are built, all called `folder`."""
    given = {"sets": ["folder"] * len(parts), **values}
    return build_mix(decode(MixOptions, given, "--dataset mix"), parts)


def as_names(label: Any, names: Sequence[str]) -> Any:
    """Turn classes (H, W) into their names; 255 into an empty one."""
    table = np.array([*names, *[""] * (256 - len(names))])
    return table[np.asarray(label)]


def labels_by_name(data: DataSplits, split: str = "train") -> list[Any]:
    """Read the labels of a split as names of classes."""
    return [
        as_names(read_sample(one, data.labels)[1].numpy(), data.labels.names)
        for one in data.splits[split]
    ]


def refusal(kind: type[SegaccError], *parts: DataSplits, **values: Any) -> str:
    with pytest.raises(kind) as error:
        mixed(*parts, **values)
    return str(error.value)


# --------------------------------------------------------------------------------- class sets


def test_each_pixel_keeps_the_name_that_its_own_set_gives_it() -> None:
    names = ("background disc bar", "disc tree background sky")
    parts = [part(some, where=str(k)) for k, some in enumerate(names)]
    data = mixed(*parts)
    assert data.labels.names == ("background", "disc", "bar", "tree", "sky")
    assert data.labels.classes == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 255: 255}
    found = labels_by_name(data)
    assert len(found) == 6
    for place, label in enumerate(found):
        own = names[place // 3].split()
        np.testing.assert_array_equal(label, as_names(raw_label(place % 3, len(own)), own))


def test_the_maps_of_the_sets_go_before_what_is_ignored_and_moved() -> None:
    first = LabelMap(("sky", "road"), {7: 0, 300: 1, 8: 1, 9: 255})
    second = LabelMap.plain(("road", "car"), reduce_labels=True)
    raws = (np.array([[7, 300], [8, 9]], np.uint16), np.array([[0, 1], [2, 255]], np.uint8))
    image = encode(np.zeros((2, 2, 3), np.uint8))
    data = mixed(
        *(
            DataSplits({"train": [Sample(image, encode(Image.fromarray(raw)), name)]}, labels)
            for raw, labels, name in zip(raws, (first, second), "ab", strict=True)
        )
    )
    found = labels_by_name(data)
    assert [label.tolist() for label in found] == [
        [["sky", "road"], ["road", ""]],
        [["", "road"], ["car", ""]],
    ]


def test_labels_of_colours_keep_their_table() -> None:
    colors = {(255, 0, 0): 0, (0, 0, 255): 1}
    table = LabelMap(("disc", "sky"), {0: 0, 1: 1}, colors=colors)
    picture = np.array([[(255, 0, 0), (0, 0, 255)]], np.uint8)
    one = Sample(encode(picture), encode(picture), "rgb")
    data = mixed(part("sky disc"), DataSplits({"train": [one]}, table))
    assert labels_by_name(data)[-1].tolist() == [["disc", "sky"]]


def test_an_id_outside_its_own_set_is_refused_though_another_set_has_it() -> None:
    data = mixed(part("a b c d"), part("a b", where="x"))
    sample = data.splits["train"][3]
    wrong = encode(np.full(SIZE, 3, np.uint8))
    assert sample.labels is not None
    with pytest.raises(DataError, match=r"label values outside .*: 3 \(54 pixels\)\. .* 0-1, 255"):
        read_label(wrong, sample.labels, "x")


def test_common_classes_are_kept_and_the_others_ignored() -> None:
    parts = [part("background disc bar"), part("disc tree background", where="x")]
    data = mixed(*parts, classes="common")
    assert data.labels.names == ("background", "disc")
    every = labels_by_name(mixed(*parts))
    for label, whole in zip(labels_by_name(data), every, strict=True):
        kept = np.isin(whole, ("background", "disc"))
        np.testing.assert_array_equal(label, np.where(kept, whole, ""))


def test_the_unified_classes_can_be_edited() -> None:
    parts = [part("background disc bar"), part("disc tree background", where="x")]
    edits = {"drop": ["tree"], "merge": {"shape": ["disc", "bar"]}, "rename": {"background": "bg"}}
    data = mixed(*parts, map=edits)
    assert data.labels.names == ("bg", "shape")
    assert data.labels.classes == {0: 0, 1: 1, 255: 255}
    new = {"background": "bg", "disc": "shape", "bar": "shape", "tree": "", "": ""}
    for label, whole in zip(labels_by_name(data), labels_by_name(mixed(*parts)), strict=True):
        np.testing.assert_array_equal(label, [[new[name] for name in row] for row in whole])


def test_a_class_that_new_names_leave_out_is_an_error_where_it_is_labelled() -> None:
    parts = [part("a b"), part("c d", where="x")]
    data = mixed(*parts, map={"classes": {0: "a", 1: "b"}})
    assert read_sample(data.splits["train"][0], data.labels)
    with pytest.raises(DataError, match="label values outside the 2 classes"):
        read_sample(data.splits["train"][3], data.labels)


def test_colours_are_those_of_the_first_set_that_has_the_class_and_all_differ() -> None:
    red, green, blue = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    first = part("background disc", palette=(red, green))
    second = part("disc tree sky", palette=(blue, red, blue), where="x")
    palette = mixed(first, second).labels.palette
    assert palette[:2] == (red, green) and palette[3] == blue
    assert len(set(palette)) == 4, "red is taken: tree has a colour of its own"


@pytest.mark.parametrize(
    ("names", "values", "text"),
    [
        (
            ("a b", "c d"),
            {"classes": "common"},
            "--dataset mix: classes=common: the 2 sets share no class, but a network needs two. "
            "Rename classes of a set with its map, or leave out classes=common.",
        ),
        (
            ("a b", "c b"),
            {"classes": "common"},
            "--dataset mix: classes=common: the 2 sets share only b, but a network needs two. "
            "Rename classes of a set with its map, or leave out classes=common.",
        ),
    ],
)
def test_sets_that_share_too_little(names: Any, values: dict[str, Any], text: str) -> None:
    assert refusal(DataError, *map(part, names), **values) == text


def test_too_many_classes_are_refused() -> None:
    names = " ".join(f"c{k}" for k in range(200)), " ".join(f"d{k}" for k in range(100))
    text = refusal(DataError, *(part(some, count=1) for some in names))
    assert text == (
        "--dataset mix: the classes of all sets: A label map has at most 255 classes, got 300: c0, "
        "c1, c2, c3 and 296 more. Leave some out of the sets, or take what all have by "
        "classes=common."
    )


# ------------------------------------------------------------------------------ splits and ids


class Unread(Sequence[Sample]):
    """Samples that are counted, and that nobody may look at yet."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("read")


def test_splits_are_joined_in_order_and_nothing_is_read_before_it_is_asked_for() -> None:
    first = part("a b", splits=("train", "validation"), where="x", crop_size=(32, 48))
    second = part("b a", count=2, splits=("train", "test"), where="y")
    data = mixed(part("b c", count=1, where="z"), first, second)
    assert {name: len(samples) for name, samples in data.splits.items()} == {
        "train": 6,
        "validation": 3,
        "test": 2,
    }
    ids = [sample.id for sample in data.splits["train"]]
    assert ids == ["z0", "x0", "x1", "x2", "y0", "y1"]
    assert data.crop_size == (32, 48) and data.chances == {}
    lazy = DataSplits({"train": Unread()}, second.labels)
    joined = mixed(first, lazy).splits["train"]
    assert isinstance(joined, MixedSamples) and len(joined) == 7
    assert joined[2].id == "1-folder-x2"
    with pytest.raises(AssertionError, match="read"):
        joined[3]


def test_samples_are_a_sequence_that_can_be_sent_to_a_worker() -> None:
    samples = mixed(part("a b"), part("b c", where="x")).splits["train"]
    assert isinstance(samples, MixedSamples)
    again = pickle.loads(pickle.dumps(samples))
    assert list(again) == list(samples) and len(list(samples)) == 6
    assert samples[-1] == samples[5] and samples[1:3] == [samples[1], samples[2]]
    assert samples[4].labels is samples[3].labels, "one map, with one set of tables, for a set"
    for place in (6, -7):
        with pytest.raises(IndexError):
            samples[place]


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["folder", "folder"], ["1-folder-0", "1-folder-1", "2-folder-0", "2-folder-1"]),
        (["folder", "us/hub"], ["folder-0", "folder-1", "hub-0", "hub-1"]),
    ],
)
def test_ids_that_clash_are_told_apart(sets: list[str], expected: list[str]) -> None:
    data = mixed(part("a b", count=2), part("a b", count=2), sets=sets)
    assert [sample.id for sample in data.splits["train"]] == expected


def test_a_mix_may_be_part_of_a_mix() -> None:
    parts = [part(names, where=names) for names in ("a b", "b c", "d a c")]
    nested = mixed(mixed(*parts[:2]), parts[2])
    flat = mixed(*parts)
    assert nested.labels == flat.labels
    for one, other in zip(labels_by_name(nested), labels_by_name(flat), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_notes_of_a_set_are_told_with_its_name() -> None:
    data = mixed(part("a b", notes=("1 image is missing",)), part("a b"), part("b c", notes=("x",)))
    assert data.notes == ("set 1 (folder): 1 image is missing", "set 3 (folder): x")
    assert mixed(data, part("a b")).notes[1] == "set 1 (folder): set 3 (folder): x"


# ------------------------------------------------------------------------------------- weights


def test_weights_are_the_shares_of_what_is_drawn() -> None:
    parts = [part("a b", count=4, where="x"), part("a b", count=1, where="y")]
    data = mixed(*parts, weights="3/1")
    assert data.chances == {"train": (0.75, 0.75, 0.75, 0.75, 1.0)}
    order = Order(5, seed=0, chances=data.chances["train"])
    drawn = np.bincount(np.concatenate([order.epoch(epoch) for epoch in range(800)]), minlength=5)
    expected = 4000 * np.array([3 / 16] * 4 + [1 / 4])
    assert ((drawn - expected) ** 2 / expected).sum() < 18.5  # chi-square, 4 degrees, p = 0.001


def test_without_weights_a_set_that_has_chances_keeps_them_and_its_size() -> None:
    uneven = part("a b", where="x", count=2, chances={"train": [1.0, 3.0]})
    assert mixed(uneven, part("a b", count=3)).chances == {"train": (0.5, 1.5, 1.0, 1.0, 1.0)}
    assert mixed(uneven, part("a b"), weights="8/3").chances == {"train": (2.0, 6.0, 1.0, 1.0, 1.0)}


def test_weights_leave_a_split_of_one_set_alone() -> None:
    splits = ("train", "validation")
    data = mixed(part("a b", splits=splits), part("a b"), weights="1/2")
    assert list(data.chances) == ["train"]


def test_a_weight_for_a_set_without_training_samples_is_refused() -> None:
    text = refusal(OptionError, part("a b"), part("a b", splits=("test",)), weights="1/2")
    assert text == (
        "--dataset mix: weights: set 2 (folder) has no split train to draw from; it has test. "
        "Leave out weights, or mix sets that all have one."
    )


# ------------------------------------------------------------------------------------- refused


def read_nothing(shard: str, position: Any) -> Iterator[tuple[Sample, Any]]:
    return iter(())


def test_a_stream_cannot_be_mixed() -> None:
    stream = Stream(shards=("a.tar",), read=read_nothing)
    streamed = DataSplits({"train": stream}, LabelMap.plain(("a", "b")))
    assert refusal(DataError, part("a b"), streamed) == (
        "--dataset mix: set 2 (folder) is streamed (its split train), so it is read "
        "sequentially, but a mix needs random access. Mix data sets on disk, or write all data as "
        "shards of one stream."
    )


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("SEGACC_LOAD_PLUGINS", "")
    return load_registry()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("mix", '--dataset mix: the option "sets" is required (list of text or mapping).'),
        (
            "mix:sets=nuclei",
            "--dataset mix: sets: expected a list of text or mapping: write a list in brackets, "
            'e.g. sets=["nuclei","folder:root=data/a"]; found \'nuclei\'.',
        ),
        (
            "mix:sets=[nuclei]",
            "--dataset mix: sets needs two or more data sets, e.g. "
            'sets=["nuclei","folder:root=data/a"].',
        ),
        (
            "mix:sets=[nuclei,nuclei],weights=1/2/3",
            "--dataset mix: weights has 3 numbers for 2 sets; give one each.",
        ),
        (
            "mix:sets=[nuclei,nuclei],weights=1/0",
            "--dataset mix: weights: expected a list of numbers > 0; found '0'.",
        ),
        (
            "mix:sets=[nuclei,nucleii]",
            '--dataset mix: unknown dataset "nucleii". Did you mean "nuclei"? Known: ',
        ),
        (
            'mix:sets=["nuclei","nuclei:bordr=true"]',
            '--dataset mix nuclei: unknown option "bordr". Did you mean "border"? Known: border',
        ),
        (
            {"name": "mix", "sets": ["nuclei", {"border": True}]},
            "--dataset mix: a mapping needs the key `name`, as in {name: segformer, variant: b0}; "
            "found the keys border.",
        ),
    ],
)
def test_what_was_typed_wrong_is_told(registry: Registry, given: Any, text: str) -> None:
    with pytest.raises(SegaccError) as error:
        choose(registry, "dataset", given, "--dataset")
    assert str(error.value).startswith(text)


# --------------------------------------------------------------------------------- on the disk


def test_a_command_line_and_yaml_name_the_same_mix(registry: Registry, tmp_path: Path) -> None:
    first = write_data(tmp_path / "a, b")
    second = write_data(tmp_path / "c", names=("bar", "sky", "background"))
    (tmp_path / "edits.yaml").write_text("rename: {sky: air}\n")
    text = (
        f'mix:sets=["folder:root={first}","folder:root={second},map={tmp_path}/edits.yaml"],'
        "weights=2/1"
    )
    in_yaml = {
        "name": "mix",
        "sets": [
            {"name": "folder", "root": str(first)},
            {"name": "folder", "root": str(second), "map": {"rename": {"sky": "air"}}},
        ],
        "weights": [2, 1],
    }
    text = text.replace(f"root={first}", f"root='{first}'")
    one, other = (
        build_splits(choose(registry, "dataset", given, "--dataset")) for given in (text, in_yaml)
    )
    assert one.labels == other.labels and one.chances == other.chances
    assert one.labels.names == ("background", "disc", "bar", "air")
    assert {name: list(samples) for name, samples in one.splits.items()} == {
        name: list(samples) for name, samples in other.splits.items()
    }
    own = (("background", "disc", "bar"), ("bar", "air", "background"))
    for place, label in enumerate(labels_by_name(one, "validation")):
        file = (first, second)[place // 3] / "annotations/validation" / f"validation{place % 3}.png"
        np.testing.assert_array_equal(label, as_names(np.array(Image.open(file)), own[place // 3]))


def test_how_folders_given_by_their_paths_are_read_is_told(
    registry: Registry, tmp_path: Path
) -> None:
    sets = [str(write_data(tmp_path / name, counts={"train": 1})) for name in "ab"]
    mix = choose(registry, "dataset", {"name": "mix", "sets": [*sets, "nuclei"]}, "--dataset")
    first, second = mix.note.split("; ")
    assert first.startswith(f"{sets[0]} is read as folder:root={sets[0]}")
    assert second.startswith(f"{sets[1]} is read as folder:root={sets[1]}")


def test_nuclei_beside_themselves_have_each_image_twice(registry: Registry) -> None:
    given = "mix:sets=[nuclei,nuclei:border=true]"
    data = build_splits(choose(registry, "dataset", given, "--dataset"))
    samples = data.splits["train"]
    assert data.labels.names == ("background", "nucleus", "nucleus_border")
    assert isinstance(samples, ReadAs) and isinstance(samples.samples, MixedSamples)
    assert len(samples) == 332
    plain, border = samples[3], samples[169]
    assert (plain.id[:9], border.id[:9]) == ("1-nuclei-", "2-nuclei-")
    assert plain.id[9:] == border.id[9:] and plain.image == border.image
    two, three = (read_sample(one, data.labels)[1].numpy() for one in (plain, border))
    assert set(np.unique(two)) == {0, 1} and set(np.unique(three)) == {0, 1, 2}
    np.testing.assert_array_equal(two > 0, three > 0)
