"""`hub`: which files make which split, what is on disk, and a Hub of our making."""

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools import encode
from dataset_hub_data import (
    NAMES,
    build,
    check,
    label_png,
    pairs,
    parquet,
    picture,
    refusal,
    table,
)
from dataset_hub_tools import commit, dataset_hub, of_bytes, start_loading
from hub_tools import result
from segacc.data.splits import pick_split
from segacc.errors import OptionError
from segacc.plugins.datasets.hub import HubOptions
from segacc.settings.options import decode

pytest_plugins = ["dataset_hub_fixtures"]
pytestmark = pytest.mark.usefixtures("hub_cache")

CLOSED = "http://127.0.0.1:1"  # nobody listens there
SECONDS = 20  # that a refusal may take, on a machine that is busy


# ------------------------------------------------------------------------------ files and splits


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["all.parquet"], {"train": [0]}),
        (["a.parquet", "b.parquet"], {"train": [0, 1]}),
        (["train.parquet", "val.parquet"], {"train": [0], "validation": [1]}),
        (["x_dev.parquet", "x_training.parquet"], {"train": [1], "validation": [0]}),
        (["test/0.parquet", "train/0.parquet", "train/1.parquet"], {"train": [1, 2], "test": [0]}),
        (
            [
                "data/train-00000-of-00002.parquet",
                "data/train-00001-of-00002-0123abc.parquet",
                "data/valid-00000-of-00001.parquet",
                "data/extra-00000-of-00001.parquet",
            ],
            {"train": [0, 1], "validation": [2], "extra": [3]},
        ),
    ],
)
def test_splits_are_told_by_names(
    files: list[str], expected: dict[str, list[int]], hub_names: str, tmp_path: Path
) -> None:
    for number, name in enumerate(files):
        parquet(tmp_path / "valuable tests" / name, pairs(1, number))
    splits = build(path=str(tmp_path / "valuable tests"), names=hub_names)
    assert list(splits.splits) == list(expected)
    for name, numbers in expected.items():
        check(splits.splits[name], splits.labels, numbers)


def test_files_of_which_some_do_not_tell_their_split(hub_names: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("train.parquet", "more.parquet"):
        parquet(folder / name, pairs(1))
    assert refusal(path=str(folder), names=hub_names) == (
        f"--dataset hub: path={folder}: the names do not indicate the split of more.parquet, "
        "unlike train.parquet, val/0001.parquet or test-00000-of-00002.parquet. Rename or move "
        "them, "
        "or give a pattern that excludes them."
    )
    splits = build(path=str(folder / "t*.parquet"), names=hub_names)
    assert {name: len(samples) for name, samples in splits.splits.items()} == {"train": 1}


def test_a_test_split_without_labels_is_left_out(hub_names: str, tmp_path: Path) -> None:
    parquet(tmp_path / "data" / "train.parquet", pairs(2))
    parquet(tmp_path / "data" / "test.parquet", {"image": pairs(2)["image"]})
    assert list(build(path=str(tmp_path / "data"), names=hub_names).splits) == ["train"]
    assert refusal(path=str(tmp_path / "data"), names=hub_names, split="test") == (
        "--dataset hub: no column looks like the label; add label=COLUMN if one of them is. The "
        "columns are image (Image)."
    )


def test_one_split_is_read_and_the_others_are_not(
    hub_names: str, tmp_path: Path, hub_cache: Path
) -> None:
    parquet(tmp_path / "data" / "val.parquet", pairs(3))
    (tmp_path / "data" / "train.parquet").write_bytes(b"not parquet")
    splits = build(path=str(tmp_path / "data"), names=hub_names, split="val")
    assert list(splits.splits) == ["validation"]
    check(splits.splits["validation"], splits.labels, range(3))
    assert hub_cache.is_dir()
    text = refusal(path=str(tmp_path / "data"), names=hub_names)
    start = f"--dataset hub: path={tmp_path / 'data'} cannot be loaded: "
    assert text.startswith(start) and "Parquet" in text and "\n" not in text


@pytest.mark.parametrize(
    ("split", "base", "expected"),
    [
        ("train[:5]", "train", slice(5)),
        ("train[15:]", "train", slice(15, None)),
        ("train[-3:]", "train", slice(-3, None)),
        ("train[10%:20%]", "train", slice(2, 4)),
        ("validation", "validation", slice(None)),
        ("val[:2]", "validation", slice(2)),
    ],
)
def test_a_slice_goes_under_the_name_of_the_whole(
    split: str, base: str, expected: slice, hub_names: str, tmp_path: Path
) -> None:
    parquet(tmp_path / "data" / "train.parquet", pairs(18))
    parquet(tmp_path / "data" / "val.parquet", pairs(4, 18))
    splits = build(path=str(tmp_path / "data"), names=hub_names, split=split)
    assert list(splits.splits) == [base]
    numbers = range(18) if base == "train" else range(18, 22)
    check(splits.splits[base], splits.labels, numbers[expected])
    # The same words mean the same samples where they are given as --train-split.
    whole = build(path=str(tmp_path / "data"), names=hub_names)
    picked = pick_split(whole, split.replace("val[", "validation["), "--train-split")
    assert isinstance(picked, Sequence)
    assert [one.image for one in picked] == [one.image for one in splits.splits[base]]


@pytest.mark.parametrize(
    ("split", "why"),
    [
        *((one, f': cannot read "{one}". Slices are') for one in ("train[5]", "train[:5", "x[a:]")),
        ("train+val", '=train+val: there is no split "train+val"; there is train.'),
        ("train[:120%]", ': "train[:120%]" is more than 100 % of the split.'),
    ],
)
def test_a_slice_that_cannot_be_read(split: str, why: str, hub_names: str, tmp_path: Path) -> None:
    file = parquet(tmp_path / "data" / "train.parquet", pairs(2))
    told = refusal(OptionError, path=str(file), names=hub_names, split=split)
    assert told.startswith(f"--dataset hub: split{why}")


def test_a_split_that_is_not_there_or_empty(hub_names: str, tmp_path: Path) -> None:
    file = parquet(tmp_path / "data" / "train.parquet", pairs(2))
    assert refusal(OptionError, path=str(file), names=hub_names, split="val[:5]") == (
        '--dataset hub: split=val[:5]: there is no split "val"; there is train.'
    )
    assert refusal(path=str(file), names=hub_names, split="train[2:]") == (
        "--dataset hub: split=train[2:] is empty: train has 2 samples."
    )


def test_a_cloned_repository_says_which_file_is_what(hub_names: str, tmp_path: Path) -> None:
    """README.md as on the Hub, with two configurations."""
    folder = tmp_path / "clone"
    for number, name in enumerate(("a/one.parquet", "a/two.parquet", "b/one.parquet")):
        parquet(folder / name, pairs(1, number))
    card = """configs:
- config_name: small
  data_files:
  - {split: train, path: a/one.parquet}
  - {split: dev, path: a/two.parquet}
- config_name: large
  data_files: [{split: train, path: b/one.parquet}]
"""
    (folder / "README.md").write_text(f"---\n{card}---\n# Data\n")
    small = build(path=str(folder), names=hub_names, config="small")
    assert list(small.splits) == ["train", "validation"]
    check(small.splits["validation"], small.labels, [1])
    check(
        build(path=str(folder), names=hub_names, config="large").splits["train"], small.labels, [2]
    )
    start = f"--dataset hub: path={folder} cannot be loaded: "
    assert refusal(path=str(folder), names=hub_names) == (
        f"{start}Config name is missing. Please pick one among the available configs: ['small', "
        "'large']. Choose with config=NAME."
    )
    assert refusal(path=str(folder), names=hub_names, config="huge") == (
        f"{start}BuilderConfig 'huge' not found. Available: ['small', 'large']. Choose with "
        "config=NAME."
    )


def test_a_configuration_of_what_has_none(hub_names: str, tmp_path: Path) -> None:
    file = parquet(tmp_path / "data" / "train.parquet", pairs(2))
    for path in (file, file.parent):
        assert refusal(OptionError, path=str(path), names=hub_names, config="x") == (
            f"--dataset hub: config=x: path={path} has no configurations in README.md."
        )


# ----------------------------------------------------------------------- other things on the disk


def image_folder(folder: Path, numbers: Sequence[int]) -> None:
    rows = []
    for part in ("pictures", "masks"):
        (folder / part).mkdir(parents=True)
    for k in numbers:
        (folder / "pictures" / f"p{k}.png").write_bytes(encode(picture(k)))
        (folder / "masks" / f"p{k}.png").write_bytes(label_png(k))
        row = {"file_name": f"pictures/p{k}.png", "mask_file_name": f"masks/p{k}.png", "note": "x"}
        rows.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def test_an_image_folder_with_metadata(hub_names: str, tmp_path: Path) -> None:
    image_folder(tmp_path / "data" / "train", range(4))
    image_folder(tmp_path / "data" / "val", range(4, 6))
    splits = build(path=str(tmp_path / "data"), names=hub_names)
    assert list(splits.splits) == ["train", "validation"]
    check(splits.splits["train"], splits.labels, range(4))
    check(splits.splits["validation"], splits.labels, range(4, 6))
    first = splits.splits["train"][0]
    assert first.id == "p0" and first.label == tmp_path / "data" / "train" / "masks" / "p0.png"
    single = build(path=str(tmp_path / "data" / "val"), names=hub_names)
    assert list(single.splits) == ["train"]
    check(single.splits["train"], single.labels, range(4, 6))


@pytest.mark.parametrize("saved", ["one", "several"])
def test_what_save_to_disk_wrote(saved: str, hub_names: str, tmp_path: Path) -> None:
    whole = table(pairs(5))
    if saved == "several":
        both = {"train": whole, "dev": table(pairs(2, 5)), "test": table(pairs(1, 7))}
        datasets.DatasetDict(both).save_to_disk(tmp_path / "data")
    else:
        whole.save_to_disk(tmp_path / "data")
    splits = build(path=str(tmp_path / "data"), names=hub_names)
    check(splits.splits["train"], splits.labels, range(5))
    if saved == "several":
        assert list(splits.splits) == ["train", "validation", "test"]
        check(splits.splits["validation"], splits.labels, [5, 6])
    part = build(path=str(tmp_path / "data"), names=hub_names, split="train[3:]")
    check(part.splits["train"], part.labels, [3, 4])


def test_a_script_is_refused_with_the_ways_that_work(hub_names: str, tmp_path: Path) -> None:
    folder = tmp_path / "scene_parse_150"
    folder.mkdir()
    script = folder / "scene_parse_150.py"
    script.write_text("class SceneParse150(datasets.GeneratorBasedBuilder):\n    pass\n")
    for path in (folder, script):
        assert refusal(path=str(path), names=hub_names) == (
            f"--dataset hub: path={path} is a script (scene_parse_150.py), which datasets no "
            "longer runs since version 4. Use instead: a copy of it in parquet, from the Hub "
            "(id=USER/NAME) or on disk (path=FOLDER); the image and label files, with "
            "`--dataset folder:root=FOLDER`; for scene_parse_150, which is ADE20K, `--dataset "
            "ade20k:root=ADEChallengeData2016`."
        )
    # A script beside the data is no hindrance.
    parquet(folder / "train.parquet", pairs(2))
    assert len(build(path=str(folder), names=hub_names).splits["train"]) == 2


def test_a_folder_of_pictures_alone(hub_names: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for part in ("images", "labels"):
        (folder / part / "train").mkdir(parents=True)
        (folder / part / "train" / "a.png").write_bytes(encode(picture(0)))
    assert refusal(path=str(folder), names=hub_names) == (
        f"--dataset hub: path={folder} contains no parquet file, no metadata.jsonl (or .csv) "
        "that pairs images and labels, and no data set written by save_to_disk; it contains "
        "images, labels. Images and labels in separate folders are read by `--dataset "
        f"folder:root={folder}`."
    )


def test_a_path_that_leads_nowhere(hub_names: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("gone", "gone/*.parquet"):
        assert refusal(path=path, names=hub_names) == (
            f"--dataset hub: path={path} is not a folder, a file, or a pattern that matches files "
            f"(looked at {tmp_path / path})."
        )
    (tmp_path / "table.csv").write_text("x")
    assert refusal(path="table.csv", names=hub_names) == (
        "--dataset hub: path=table.csv: table.csv is not a parquet file. Expected is a parquet "
        "file, a pattern such as data/*.parquet, or a folder."
    )


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({}, "give either id=USER/NAME or path=FOLDER"),
        ({"id": "us/tiny", "path": "x"}, "give either id=USER/NAME or path=FOLDER"),
        (
            {"path": "x", "revision": "v1"},
            "revision is only valid with id=USER/NAME, not with path",
        ),
    ],
)
def test_options_that_do_not_go_together(values: dict[str, str], why: str) -> None:
    with pytest.raises(OptionError) as error:
        decode(HubOptions, values, "--dataset hub")
    assert str(error.value) == f"--dataset hub: {why}."


# --------------------------------------------------------------------------------------- the Hub


@pytest.fixture
def repositories(tmp_path: Path) -> dict[str, dict[str, dict[str, bytes]]]:
    """Data sets as on the Hub: parquet shards, a script with its converted branch, closed ones."""

    def file(first: int, count: int) -> bytes:
        return parquet(tmp_path / "made.parquet", pairs(count, first)).read_bytes()

    names = json.dumps(dict(enumerate(NAMES))).encode()
    shards = {
        "data/train-00000-of-00002.parquet": file(0, 2),
        "data/train-00001-of-00002.parquet": file(2, 1),
        "data/val-00000-of-00001.parquet": file(3, 2),
    }
    script = {"scenes.py": b"class Scenes(datasets.GeneratorBasedBuilder): ..."}
    converted = {"full/train/0000.parquet": file(5, 1), "half/train/0000.parquet": file(6, 1)}
    tiny = {"README.md": b"# Tiny\n", "id2label.json": names, **shards}
    return {
        "us/tiny": {"main": tiny},
        "us/scenes": {
            "main": {**script, "id2label.json": names},
            "refs/convert/parquet": converted,
        },
        "gated/tiny": {"main": tiny},
        "bad/column": {"main": {"train.parquet": bomb(tmp_path / "bomb.parquet")}},
        "bad/member": {"main": {"train.zip": zipped(bytes(20 << 20))}},
        "mute/tiny": {"main": tiny},
    }


def bomb(path: Path) -> bytes:
    """Make a parquet file of kilobytes that holds megabytes."""
    table = pa.table({"image": [bytes(20 << 20)] * 2, "label": [b"x", b"y"]})
    pq.write_table(table, path, compression="zstd")
    return path.read_bytes()


def zipped(content: bytes) -> bytes:
    """Make a zip of one image."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a.png", content)
    return file.getvalue()


def told(numbers: Sequence[int], first: int = 0) -> list[list[str]]:
    return [
        [str(row), of_bytes(encode(picture(k))), of_bytes(label_png(k))]
        for row, k in enumerate(numbers, first)
    ]


def hub_script(hub_id: str) -> str:
    return (
        f"--dataset hub: id={hub_id} is a script (scenes.py), which datasets no longer runs since "
        "version 4. Use instead: revision=refs/convert/parquet, if the Hub has converted it; a "
        "copy of it in parquet, from the Hub (id=USER/NAME) or on disk (path=FOLDER); the image "
        "and "
        "label files, with `--dataset folder:root=FOLDER`; for scene_parse_150, which is "
        "ADE20K, `--dataset ade20k:root=ADEChallengeData2016`."
    )


@pytest.mark.slow
def test_data_sets_of_the_hub_and_of_its_cache(
    repositories: dict[str, dict[str, dict[str, bytes]]], tmp_path: Path
) -> None:
    home, sha = tmp_path / "home", commit("us/tiny", "main")
    branch = {"id": "us/scenes", "revision": "refs/convert/parquet"}
    cases = [
        {"id": "us/tiny"},
        {"id": "us/tiny", "split": "train[1:]", "revision": sha},
        {"id": "us/scenes"},
        {**branch, "config": "half"},
        branch,
        {"id": "us/none"},
        {"id": "us/tiny", "revision": "v9"},
        {"id": "gated/tiny"},
        {"id": "my data"},
        {"id": "mute/tiny"},
        {"id": "bad/column"},
        {"id": "bad/member"},
    ]
    with dataset_hub(repositories) as endpoint:
        done = iter(result(start_loading(cases, home, HF_ENDPOINT=endpoint)))
    everything = {"train": told([0, 1, 2]), "validation": told([3, 4])}
    check_loaded(done, everything)
    check_loaded(done, {"train": told([1, 2], 1)})
    assert next(done)["error"] == hub_script("us/scenes")
    check_loaded(done, {"train": told([6])})
    assert next(done)["error"] == (
        "--dataset hub: id=us/scenes,revision=refs/convert/parquet: there are several; "
        "add config=NAME. There is full, half."
    )
    assert next(done)["error"] == (
        "--dataset hub: the Hub has no data set us/none, or it is private. Check the name, or log "
        "in with `hf auth login`. Local files are read with path=us/none."
    )
    assert next(done)["error"] == "--dataset hub: id=us/tiny has no revision v9."
    assert next(done)["error"] == (
        "--dataset hub: id=gated/tiny is gated: request access on "
        "https://huggingface.co/datasets/gated/tiny, then log in with `hf auth login`."
    )
    assert next(done)["error"] == (
        "--dataset hub: id=my data is not a Hub id, which has the form USER/NAME. Local files are "
        "read with path=my data."
    )
    mute = next(done)
    assert mute["error"] == unreachable("ReadTimeout", "mute/tiny") and mute["seconds"] < SECONDS
    for name, what in (("column", "column image"), ("member", "member a.png")):
        error = next(done)["error"]
        assert error.startswith(f"--dataset hub: id=bad/{name} cannot be loaded: ")
        assert f": the {what} has " in error and "would fill the memory or the disk" in error

    cases = [
        {"id": "us/tiny"},
        {"id": "us/tiny", "revision": "main", "split": "val"},
        {"id": "us/tiny", "revision": "v9"},
        {"id": "us/none"},
    ]
    done = iter(result(start_loading(cases, home, HF_ENDPOINT=CLOSED)))
    check_loaded(done, everything)
    check_loaded(done, {"validation": told([3, 4])})
    text = unreachable("ConnectError", "us/tiny")
    other = "is cached only in another revision than v9"
    assert next(done)["error"] == text.replace("is not in the local cache", other)
    gone = next(done)
    assert gone["error"] == unreachable("ConnectError", "us/none") and gone["seconds"] < SECONDS


def repository_of_two(tmp_path: Path, default: str = "") -> dict[str, dict[str, bytes]]:
    """Make a repository whose README.md lists two configurations of other samples."""
    card = f"""---
configs:
- config_name: small
  data_files: [{{split: train, path: a/one.parquet}}]
- config_name: large
  data_files:
  - {{split: train, path: b/one.parquet}}
  - {{split: dev, path: b/two.parquet}}
{default}---
# Data
"""
    names = json.dumps(dict(enumerate(NAMES))).encode()
    files = {"README.md": card.encode(), "id2label.json": names}
    for name, first, count in (("a/one", 0, 1), ("b/one", 1, 2), ("b/two", 3, 1)):
        made = parquet(tmp_path / "made.parquet", pairs(count, first))
        files[f"{name}.parquet"] = made.read_bytes()
    return {"main": files}


@pytest.mark.slow
def test_a_configuration_of_a_data_set_of_the_hub(tmp_path: Path) -> None:
    """Of an ordinary repository, and out of its cache; without `config` the card's default."""
    home = tmp_path / "home"
    repositories = {
        "us/two": repository_of_two(tmp_path),
        "us/marked": repository_of_two(tmp_path, "  default: true\n"),
        "us/half": repository_of_two(tmp_path, "  default: true\n"),
    }
    small, large = {"train": told([0])}, {"train": told([1, 2]), "validation": told([3])}
    typed: list[dict[str, str]] = [
        {"id": "us/two", "config": "small"},
        {"id": "us/two", "config": "large"},
        {"id": "us/marked", "config": "small"},
        {"id": "us/marked"},
        {"id": "us/half", "config": "small"},
        {"id": "us/two"},
        {"id": "us/two", "config": "huge"},
    ]
    with dataset_hub(repositories) as endpoint:
        done = iter(result(start_loading(typed, home, HF_ENDPOINT=endpoint)))
    for wanted in (small, large, small, large, small):
        check_loaded(done, wanted)
    start = "--dataset hub: id=us/two cannot be loaded: "
    assert next(done)["error"] == (
        f"{start}Config name is missing. Please pick one among the available configs: ['small', "
        "'large']. Choose with config=NAME."
    )
    assert next(done)["error"] == (
        f"{start}BuilderConfig 'huge' not found. Available: ['small', 'large']. Choose with "
        "config=NAME."
    )

    typed.append({"id": "us/half"})  # not the one that happens to be in the cache
    done = iter(result(start_loading(typed, home, HF_ENDPOINT=CLOSED)))
    for wanted in (small, large, small, large, small):
        check_loaded(done, wanted)
    for name, why in (
        ("two", "the configurations are small, large. Choose with config=NAME. Give path="),
        ("two", "Couldn't find cache for us/two for config 'huge'"),
        ("half", "Couldn't find cache for us/half for config 'large'"),
    ):
        assert next(done)["error"].startswith(
            f"--dataset hub: the Hub cannot be reached (ConnectError) and us/{name} cannot be "
            f"loaded from its cache: {why}"
        )


def check_loaded(done: Iterator[dict[str, Any]], splits: dict[str, list[list[str]]]) -> None:
    one = next(done)
    assert one.get("splits") == splits, one
    assert one["names"] == list(NAMES)


def unreachable(trouble: str, hub_id: str) -> str:
    return (
        f"--dataset hub: the Hub cannot be reached ({trouble}) and {hub_id} is not in the local "
        f"cache. "
        "Give path=FOLDER with local files, or load it once on a computer with access to the Hub "
        "and copy the cache here (HF_HOME)."
    )
