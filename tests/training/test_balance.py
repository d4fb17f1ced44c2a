"""Class balance of a run: counted once, said, stored, and the same when the run is resumed."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cli_tools import Warm, assert_refused, assert_succeeded, metrics
from data_tools import encode, facts
from segacc.data.batches import Source
from segacc.data.label_counts import (
    class_chances,
    class_weights,
    count_labels,
    rare_class_chances,
    shares,
)
from segacc.errors import DataError, OptionError, SegaccError
from segacc.hookspecs import Sample, Stream
from segacc.labels import LabelMap
from segacc.plugins.datasets.nuclei import NucleiOptions, build_nuclei
from segacc.registry import Registry, load_registry
from segacc.settings.sources import Layer
from segacc.training.balance import Balance, balance
from segacc.training.class_weights import FORM, check_class_weights, read_class_weights
from segacc.training.plan import Plan, make_plan
from segacc.training.processes import start_accelerator
from segacc.training.setup import build_losses

pytest_plugins = ["cli_fixtures"]

LABELS = LabelMap.plain(("sky", "road", "pole", "ghost"))
NAMES = LABELS.names


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("SEGACC_LOAD_PLUGINS", "")
    return load_registry()


def planned(registry: Registry, *, source: str = "command line", **values: Any) -> Plan:
    return make_plan([Layer({"num_workers": "0", **values}, source)], registry)


def labels(count: int = 6) -> list[Any]:
    """Draw labels of three of the four classes, the third rare, some pixels ignored."""
    random = np.random.default_rng(4)
    shares_of = ([0.7, 0.2, 0.0, 0.1], [0.5, 0.4, 0.05, 0.05])
    return [
        random.choice([0, 1, 2, 255], (8, 12), p=shares_of[k == 3]).astype(np.uint8)
        for k in range(count)
    ]


def split(count: int = 6, *, more: tuple[Sample, ...] = ()) -> Source:
    found = [Sample(b"no image", encode(one), f"s{k}") for k, one in enumerate(labels(count))]
    return Source([*found, *more], LABELS)


def find(plan: Plan, train: Any = None, chances: Any = None) -> Balance:
    train = split() if train is None else train
    return balance(plan, train, LABELS, chances, start_accelerator(None))


def refusal(plan: Plan, train: Any = None, *, kind: type[SegaccError] = OptionError) -> str:
    with pytest.raises(kind) as error:
        find(plan, train)
    return str(error.value)


# ------------------------------------------------------------------------ what is asked for


def test_nothing_is_counted_unless_it_is_asked_for(registry: Registry, tmp_path: Path) -> None:
    broken = Source([Sample(b"", b"no label", "broken")], LABELS)
    found = find(planned(registry), broken, [2.0])
    assert found == Balance([2.0])
    assert found.inform(facts(4)) == facts(4)
    found.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rule", ["inverse", "enet", "effective"])
def test_weights_by_a_rule_reach_the_losses_the_notes_and_the_file(
    registry: Registry, tmp_path: Path, rule: str
) -> None:
    counts = count_labels(split())
    found = find(planned(registry, class_weights=rule))
    expected = class_weights(rule, counts)
    informed = found.inform(facts(4))
    assert informed.class_weights == expected
    assert informed.class_shares == pytest.approx(shares(counts).tolist())
    assert found.chances is None
    told = ", ".join(f"{name} {weight:.3g}" for name, weight in zip(NAMES, expected, strict=True))
    assert found.notes == (
        f"class weights by {rule}: {told}",
        "absent from the training labels (weight 1): ghost",
    )
    found.write(tmp_path)
    (path,) = tmp_path.iterdir()
    table = json.loads(path.read_text())
    assert path.name == "class_balance.json"
    assert (table["rule"], table["split"]) == (rule, "train")
    assert table["class_weights"] == dict(zip(NAMES, expected, strict=True))
    assert table["classes"]["pole"] == {
        "pixels": sum(int((one == 2).sum()) for one in labels()),
        "share": informed.class_shares[2],
        "images": sum(bool((one == 2).any()) for one in labels()),
    }
    assert len(table["images"]) == 6
    assert table["images"][0] == f"0:{(labels()[0] == 0).sum()} 1:{(labels()[0] == 1).sum()}"


def test_of_many_classes_the_extremes_are_told(registry: Registry, tmp_path: Path) -> None:
    many = LabelMap.plain([f"c{k}" for k in range(40)])
    file = tmp_path / "weights.txt"
    file.write_text("\n".join(str(k + 1) for k in range(40)))
    found = balance(planned(registry, class_weights=str(file)), split(), many, None, None)
    low, high = ([f"c{k} {k + 1}" for k in some] for some in (range(8), range(32, 40)))
    told = ", ".join([*low, "...", *high, "all in class_balance.json"])
    assert found.notes == (f"class weights from {file}: {told}",)


def test_images_with_rare_classes_are_drawn_more_often(registry: Registry) -> None:
    counts = count_labels(split())
    rare, (sky, road, pole, _) = rare_class_chances(counts, 0.1), class_chances(counts, 0.1)
    found = find(planned(registry, rare_class_sampling="0.1"))
    assert found.chances == rare.tolist() and np.argmax(found.chances) == 3
    assert found.class_weights is None
    assert found.notes == (
        f"rare-class sampling, temperature 0.1: most sampled classes pole {pole:.0%}, road "
        f"{road:.0%}, sky {sky:.0%}; each image is drawn {6 * min(rare):.2g} to "
        f"{6 * max(rare):.2g} times per epoch on average",
    )
    mixed = find(planned(registry, rare_class_sampling="0.1"), None, [1, 1, 1, 2, 0.5, 1])
    assert mixed.chances == pytest.approx((rare * [1, 1, 1, 2, 0.5, 1]).tolist())


def test_augmentations_that_ask_for_shares_are_told_them(registry: Registry) -> None:
    plan = planned(registry, aug=["flip"])
    record = replace(plan.aug[0].record, wants_shares=True)
    plan = replace(plan, aug=(replace(plan.aug[0], record=record),))
    found = find(plan)
    assert found.class_shares == pytest.approx(shares(count_labels(split())).tolist())
    assert found.class_weights is None and found.notes == () and found.table is not None


def test_labels_that_cannot_be_read_are_counted_as_they_are_in_training(
    registry: Registry, tmp_path: Path
) -> None:
    missing = tuple(Sample(b"", tmp_path / f"{name}.png", name) for name in "ab")
    train, plan = split(more=missing), planned(registry, class_weights="enet")
    reason = "the label is missing; each image needs a label with the same name."
    assert refusal(plan, train, kind=DataError) == (
        f"{tmp_path}/a.png: {reason} To skip up to N such files, add --skip-unreadable N."
    )
    one = planned(registry, class_weights="enet", skip_unreadable="1")
    assert refusal(one, train, kind=DataError) == (
        f"{tmp_path}/b.png: {reason} To skip up to N such files, add --skip-unreadable N "
        "(1 are allowed by --skip-unreadable)."
    )
    two = planned(registry, class_weights="enet", skip_unreadable="2")
    assert find(two, train).notes[0] == "2 labels could not be read and were not counted"
    assert find(two, train).class_weights == find(plan).class_weights


def test_a_split_without_a_labelled_pixel_is_refused(registry: Registry) -> None:
    empty = Source([Sample(b"", encode(np.full((4, 4), 255, np.uint8)), "x")], LABELS)
    assert refusal(planned(registry, rare_class_sampling="1"), empty, kind=DataError) == (
        "the default of --train-split: the 1 labels in train have no pixel of any class: all are "
        "ignored."
    )


def no_samples(shard: str, position: Any) -> Iterator[tuple[Sample, Any]]:
    return iter(())


def test_a_stream_has_weights_from_a_file_only(registry: Registry, tmp_path: Path) -> None:
    stream = Stream(shards=("a.tar",), read=no_samples)
    assert refusal(planned(registry, class_weights="enet"), stream) == (
        "--class-weights: enet needs the pixel count of each class, for which the whole stream "
        "would have to be read. Give a file of weights (--class-weights FILE)."
    )
    assert refusal(planned(registry, rare_class_sampling="1"), stream) == (
        "--rare-class-sampling: a stream is read in order, so no image of it can be drawn more "
        "often than others. Leave this out, or use a data set on disk."
    )
    (tmp_path / "weights.json").write_text("[1, 2, 3, 4]")
    plan = planned(registry, class_weights=str(tmp_path / "weights.json"))
    assert find(plan, stream).class_weights == (1, 2, 3, 4)


def test_a_loss_of_a_networks_own_uses_weights_or_refuses_them(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(registry, arch="mask2former", class_weights="enet")
    record = plan.arch.record
    network = record.build(record.tiny(), facts(4))
    told = facts(4, class_weights=(1.0, 1.0, 1.0, 5.0))
    labels = torch.full((1, 8, 8), 3)
    heavy, plain = (build_losses(plan, network, one)["class"] for one in (told, facts(4)))
    assert heavy.count(labels) - plain.count(labels) == pytest.approx(4)

    monkeypatch.setattr(network, "class_weighted", False)
    with pytest.raises(OptionError) as error:
        build_losses(plan, network, told)
    own = ", ".join(network.losses(told))
    assert str(error.value) == (
        f"--class-weights: mask2former brings its own loss ({own}), which does not use class "
        "weights; leave this out."
    )
    assert list(build_losses(plan, network, facts(4))) == own.split(", ")


# ------------------------------------------------------------------------------ files of weights


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.json", '{"pole": 3, "sky": 0.5, "road": 1e-1, "ghost": 0}'),
        ("w.json", "[0.5, 0.1, 3, 0]"),
        ("w.txt", "0.5\n0.1\n\n3.0\n0\n"),
        ("w.txt", "\ufeff0.5\r\n.1\r\n3\r\n0"),
        (
            "class_balance.json",
            '{"split": "train", "class_weights": {"sky": 0.5, "road": 0.1, "pole": 3, "ghost": 0}}',
        ),
    ],
)
def test_a_file_of_weights_in_any_of_its_forms(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    check_class_weights(str(path), "--class-weights")
    assert read_class_weights(str(path), NAMES, "--class-weights") == (0.5, 0.1, 3, 0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[1, 2, 3]", "3 weights for the 4 classes sky, road, pole, ghost."),
        ("1", "1 weight for the 4 classes sky, road, pole, ghost."),
        (
            '{"sky": 1, "road": 1, "pool": 1, "ghost": 1}',
            'there is no class "pool". Did you mean "pole"? The classes: sky, road, pole, ghost.',
        ),
        ('{"sky": 1, "road": 2}', "no weight for pole, ghost; each class needs one."),
    ],
)
def test_a_file_for_other_classes(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "w"
    path.write_text(text)
    check_class_weights(str(path), "--class-weights")
    with pytest.raises(OptionError) as error:
        read_class_weights(str(path), NAMES, "--class-weights")
    assert str(error.value) == f"--class-weights: {path}: {complaint}"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"sky 1\nroad 2", "'sky 1' is not a number >= 0"),
        (b"1\n-2", "'-2' is not a number >= 0"),
        (b"1\nnan", "'nan' is not a number >= 0"),
        (b"[1, true]", "True is not a number >= 0"),
        (b'{"sky": "much"}', "'much' is not a number >= 0"),
        (b'{"sky": 0, "road": 0}', "no weight is above 0"),
        (b"", "no weight is above 0"),
        (b'{"split": "train", "class_weights": null}', "it is from a run without class weights"),
        (b"[1, 2", "Expecting ',' delimiter: line 1 column 6 (char 5)"),
    ],
)
def test_a_file_that_is_none_of_weights(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "w"
    path.write_bytes(content)
    with pytest.raises(OptionError) as error:
        check_class_weights(str(path), "--class-weights")
    assert str(error.value) == (
        f"--class-weights: {path}: not a file of class weights ({why}). {FORM}"
    )


def test_what_is_neither_a_rule_nor_a_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        check_class_weights("efective", "--class-weights")
    assert str(error.value) == (
        '--class-weights: efective is neither a rule nor a file. Did you mean "effective"? Rules: '
        'inverse, enet, effective. File format: expected JSON like {"road": 0.8, "pole": 4.5} or '
        "[0.8, 4.5], or a text file with one number per line, in the order of the classes."
    )
    (tmp_path / "w").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError) as error:
        check_class_weights(str(tmp_path / "w"), "--class-weights")
    assert str(error.value) == (
        f"--class-weights: {tmp_path}/w: cannot read the file: it is not UTF-8; if it is a text "
        "file, save it in UTF-8."
    )


# ------------------------------------------------------------------------------- a resumed run


def resumed(registry: Registry, folder: Path, **values: Any) -> Plan:
    """Plan a run whose settings come from the config.yaml of the one that is resumed."""
    plan = planned(registry, source=str(folder / "config.yaml"), **values)
    return replace(plan, folder=folder, resume=folder / "checkpoints" / "step-00000001")


BROKEN = Source([Sample(b"", b"no label", str(k)) for k in range(6)], LABELS)
"""As many samples as `split()`, of which none can be counted."""


def test_what_was_counted_is_not_counted_again(registry: Registry, tmp_path: Path) -> None:
    values = {"class_weights": "enet", "rare_class_sampling": "0.2"}
    first = find(planned(registry, **values))
    first.write(tmp_path)
    again = find(resumed(registry, tmp_path, **values), BROKEN)
    assert again == first, "to the last bit: weights, chances, shares, notes, and what is stored"
    other = find(replace(planned(registry, class_weights="inverse"), **place(tmp_path)), BROKEN)
    assert other.class_weights == class_weights("inverse", count_labels(split()))


def place(folder: Path) -> dict[str, Any]:
    return {"folder": folder, "resume": folder / "checkpoints" / "step-00000001"}


def test_weights_of_a_file_stay_unless_the_file_is_named_again(
    registry: Registry, tmp_path: Path
) -> None:
    run, file = tmp_path / "run", tmp_path / "w.txt"
    run.mkdir()
    file.write_text("1\n2\n3\n4.1")
    plan = planned(registry, class_weights=str(file))
    find(plan).write(run)
    file.write_text("5\n5\n5\n5")
    assert find(resumed(registry, run, class_weights=str(file))).class_weights == (1, 2, 3, 4.1)
    assert find(replace(plan, **place(run))).class_weights == (5, 5, 5, 5)


def test_other_data_is_refused(registry: Registry, tmp_path: Path) -> None:
    find(planned(registry, class_weights="enet")).write(tmp_path)
    plan = resumed(registry, tmp_path, class_weights="enet")
    assert refusal(plan, split(5)) == (
        f"--resume None: {tmp_path}/class_balance.json was written for 6 training images, 4 "
        "classes (sky, road, pole, ghost), but the data set has changed since. Use the data of "
        "that run, add --resume-anyway to count them again, or start a new run."
    )


@pytest.mark.parametrize("count", [6, 5])
def test_other_data_is_counted_again_if_it_is_wanted(
    registry: Registry, tmp_path: Path, count: int
) -> None:
    """With as many images as before, or fewer, whose labels are others."""
    given = {"class_weights": "enet", "rare_class_sampling": "0.1"}
    find(planned(registry, **given)).write(tmp_path)
    other = split(count + 6).samples[6:]
    assert len(other) == count
    fresh = find(planned(registry, **given), Source(other, LABELS))
    again = resumed(registry, tmp_path, resume_anyway=True, **given)
    assert find(again, Source(other, LABELS)) == fresh != find(planned(registry, **given))


def test_weights_of_a_file_stay_for_other_data_of_the_same_classes(
    registry: Registry, tmp_path: Path
) -> None:
    file = tmp_path / "w.txt"
    file.write_text("1\n2\n3\n4.1")
    find(planned(registry, class_weights=str(file))).write(tmp_path)
    plan = resumed(registry, tmp_path, class_weights=str(file), resume_anyway=True)
    file.unlink()
    assert find(plan, split(5)).class_weights == (1, 2, 3, 4.1)
    table = json.loads((tmp_path / "class_balance.json").read_text())
    table["names"] = ["sky", "road", "pole", "lamp"]
    (tmp_path / "class_balance.json").write_text(json.dumps(table))
    assert f": {file}: " in refusal(plan, split(5))


# -------------------------------------------------------------------------------- on real data

FLAGS = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--crop-size", "48"),
    *("--dataset", "nuclei:border=true", "--train-split", "train[:12]"),
    *("--eval-split", "validation[:2]", "--batch-size", "2", "--num-workers", "0"),
    *("--num-pictures", "0", "--log-every", "1", "--output-dir", "run"),
    *("--class-weights", "enet", "--rare-class-sampling", "0.05"),
)


@pytest.fixture(scope="module")
def trained_folder(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Train four steps with class weights and rare-class sampling; the folder and what was said."""
    folder = tmp_path_factory.mktemp("balanced")
    steps = ("--max-steps", "4", "--save-every", "2", "--eval-every", "4")
    done = assert_succeeded(warm(*FLAGS, *steps, cwd=folder))
    return folder, done.stdout


@pytest.mark.slow
def test_a_run_on_nuclei_says_and_stores_its_balance(trained_folder: tuple[Path, str]) -> None:
    folder, said = trained_folder
    data = build_nuclei(NucleiOptions(border=True))
    counts = count_labels(Source(list(data.splits["train"])[:12], data.labels))
    table = json.loads((folder / "run" / "class_balance.json").read_text())
    weights = dict(zip(data.labels.names, class_weights("enet", counts), strict=True))
    assert table["class_weights"] == weights
    assert [one["pixels"] for one in table["classes"].values()] == counts.sum(0).tolist()
    assert "class weights by enet: " + ", ".join(f"{k} {v:.3g}" for k, v in weights.items()) in said
    told = "rare-class sampling, temperature 0.05: most sampled classes nucleus_border "
    assert told in said
    side = json.loads((folder / "run" / "last" / "segacc.json").read_text())
    assert side["facts"]["class_weights"] == list(weights.values())
    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    assert (config["class_weights"], config["rare_class_sampling"]) == ("enet", 0.05)


def test_a_resumed_run_is_the_one_that_was_not_stopped(
    warm: Warm, trained_folder: tuple[Path, str], tmp_path: Path
) -> None:
    whole = trained_folder[0] / "run"
    run = shutil.copytree(whole, tmp_path / "run")
    assert_succeeded(warm("--resume", "run/checkpoints/step-00000002", cwd=tmp_path))
    for name in ("class_balance.json", "last/model.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    losses = [[row["loss"] for row in metrics(one, "train")] for one in (whole, run)]
    assert losses[1][-2:] == losses[0][-2:]


def test_a_resumed_run_draws_by_what_was_stored(
    warm: Warm, trained_folder: tuple[Path, str], tmp_path: Path
) -> None:
    whole = trained_folder[0] / "run"
    run = shutil.copytree(whole, tmp_path / "run")
    table = json.loads((run / "class_balance.json").read_text())
    table["images"] = ["0:900 1:90 2:10", *["0:900"] * 11]  # the first has all the rare pixels
    (run / "class_balance.json").write_text(json.dumps(table))
    refused = warm("--resume", "run/checkpoints/step-00000002", cwd=tmp_path)
    assert refused.returncode == 2
    told = "the settings differ from those of the checkpoint: sample_digest was "
    assert told in refused.stderr


def test_a_resumed_run_keeps_its_temperature(
    warm: Warm, trained_folder: tuple[Path, str], tmp_path: Path
) -> None:
    run = shutil.copytree(trained_folder[0] / "run", tmp_path / "run")
    text = "--rare-class-sampling: 0.1: the run in {run} was started with 0.05, which --resume "
    text += "cannot change. Leave it out, or start a new run (--weights {run}/last starts from its "
    text += "weights)."
    done = warm("--resume", "run", "--rare-class-sampling", "0.1", cwd=tmp_path)
    assert_refused(done, text.format(run=run))


@pytest.mark.slow
@pytest.mark.launch
def test_two_processes_count_what_one_does(
    warm: Warm, trained_folder: tuple[Path, str], tmp_path: Path
) -> None:
    assert_succeeded(warm(*FLAGS, "--max-steps", "1", cwd=tmp_path, processes=2))
    one, two = (
        (place / "run" / "class_balance.json").read_text()
        for place in (trained_folder[0], tmp_path)
    )
    assert one == two
