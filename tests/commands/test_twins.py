"""Images that come twice: the search against its definition, and real and planted pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from check_tools import look, of_samples, pastes, problems, texts
from data_tools import encode, random_sample
from segacc.commands.check_data import duplicates as twins
from segacc.commands.check_data.check import Findings
from segacc.commands.check_data.duplicates import BITS_APART, exact, near
from segacc.commands.check_data.text import verdict
from segacc.commands.check_data.verdict import judge
from segacc.data.scan import SIDE, fingerprint
from segacc.hookspecs import Sample


def prints(count: int, seed: int = 0) -> Any:
    """Draw fingerprints: a few families of hashes that differ in some bits, thumbnails alike."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 256, (4, 8), dtype=np.uint8)[random.integers(0, 4, count)]
    for row in hashes:
        for bit in random.integers(0, 64, random.integers(0, 5)):
            row[bit // 8] ^= 1 << (bit % 8)
    base = random.integers(0, 256, (2, SIDE * SIDE))[random.integers(0, 2, count)]
    noise = random.integers(-40, 41, base.shape) * (random.random((count, 1)) < 0.2)
    return np.concatenate([hashes, np.clip(base + noise, 0, 255).astype(np.uint8)], axis=1)


def plainly_near(second: Any, first: Any | None = None) -> list[tuple[int, int, int]]:
    """Find near twins as they are defined, pair by pair."""
    found = []
    for i, one in enumerate(second):
        others = second[:i] if first is None else first
        apart = [int(np.unpackbits(one[:8] ^ other[:8]).sum()) for other in others]
        if apart and min(apart) <= BITS_APART:
            j = apart.index(min(apart))
            if np.corrcoef(one[8:].astype(float), others[j][8:].astype(float))[0, 1] >= 0.97:
                found.append((i, j, apart[j]))
    return found


@pytest.mark.parametrize("at_once", [1, 7, 40, 250_000])
def test_near_is_what_its_definition_says(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "PAIRS_AT_ONCE", at_once)
    second, first = prints(60, 1), prints(40, 2)
    first[3:9] = second[10:16]
    own, other = ([row.tobytes() for row in rows] for rows in (second, first))
    assert near(own, own) == plainly_near(second) and len(near(own, own)) > 9
    assert near(own, other) == plainly_near(second, first) and len(near(own, other)) >= 6
    assert len(plainly_near(second)) < 40, "not all of them are alike"
    gaps = [b"", own[0], b"", *own[1:]]
    assert near(gaps, other) == [
        (row + 1 + (row > 0), twin, bits) for row, twin, bits in plainly_near(second, first)
    ]


def test_nothing_and_flat_images_have_no_twins() -> None:
    some = [row.tobytes() for row in prints(3)]
    assert near([], some) == near(some, []) == near([b""], [b""]) == []
    grey = [fingerprint(np.full((3, 20, 30), value, np.uint8)) for value in (90, 90, 91)]
    assert near(grey, grey) == []


def test_exact_digests() -> None:
    own = [b"a", b"b", b"a", b"", b"", b"a"]
    assert exact(own, own) == [(2, 0, 0), (5, 0, 0)]
    assert exact([b"b", b"", b"c", b"a"], [b"a", b"", b"a", b"b"]) == [(0, 3, 0), (3, 0, 0)]
    assert exact([b"a", b"a"], []) == []


def test_the_hash_is_whether_grey_grows_to_the_right() -> None:
    ramp = np.tile(np.arange(0, 180, 2, dtype=np.uint8), (3, 80, 1))
    assert fingerprint(ramp)[:8] == b"\xff" * 8
    assert fingerprint(ramp[:, :, ::-1].copy())[:8] == b"\0" * 8
    assert fingerprint(ramp[:1])[:8] == b"\xff" * 8, "grey"
    assert fingerprint(np.concatenate([ramp, ramp[:, :, ::-1][:2]]))[:8] == b"\xff" * 8, "5 bands"
    both = np.concatenate([ramp[:, :40], ramp[:, :40, ::-1]], axis=1)
    assert fingerprint(both)[:8] == b"\xff" * 4 + b"\0" * 4


# ---------------------------------------------------------------------------- twins in data sets


def test_twins_within_and_between_splits() -> None:
    a, b, c, d = (random_sample(number) for number in range(4))
    same_label = Sample(d.image, a.label, "other")
    again = Sample(a.image, b.label, "again")
    found = of_samples({"train": [a, b, again], "validation": [c, Sample(b.image, c.label, "v")]})
    assert [(one.kind, one.splits, one.pairs) for one in found.twins] == [
        ("exact", ("validation", "train"), (("v", "s1", 0),)),
        ("exact", ("train", "train"), (("again", "s0", 0),)),
        ("label", ("validation", "validation"), (("v", "s2", 0),)),
    ]
    assert texts(found) == [
        "1 image of validation is identical to one of train, so scores would be too high",
        "1 image of train is identical to an earlier one",
        "1 label of validation is identical to an earlier one, but the images differ",
    ]
    labels = of_samples({"train": [a, b], "validation": [same_label]})
    assert "1 label of validation is identical to one of train, but the images differ" in (
        texts(labels)
    )


def test_splits_that_share_files_by_design_are_no_finding(tmp_path: Path) -> None:
    samples = []
    for number in range(3):
        sample = random_sample(number)
        path = tmp_path / f"{number}.png"
        assert isinstance(sample.image, bytes)
        path.write_bytes(sample.image)
        samples.append(Sample(path, sample.label, sample.id))
    splits = {"train": samples[:2], "validation": samples[2:], "trainval": samples}
    assert of_samples(splits).twins == []
    leak = of_samples({**splits, "validation": samples[1:]})
    assert [(one.kind, one.splits) for one in leak.twins] == [("exact", ("validation", "train"))]


# ------------------------------------------------------------------------------------- real data


@pytest.fixture(scope="module")
def camvid(shared: Path) -> Findings:
    return look(f"folder:root={shared / 'camvid'}", num_workers=2)


@pytest.mark.slow
def test_camvid_is_counted_as_by_plain_numpy(shared: Path, camvid: Findings) -> None:
    assert {name: facts.read for name, facts in camvid.splits.items()} == {
        "train": 367,
        "validation": 101,
    }
    for split, folder in (("train", "train"), ("validation", "val")):
        facts = camvid.splits[split]
        counts = np.zeros(256, np.int64)
        for path in (shared / "camvid" / "annotations" / folder).iterdir():
            counts += np.bincount(np.array(Image.open(path)).reshape(-1), minlength=256)
        assert {k: facts.raw[k] for k in range(256)} == dict(enumerate(counts.tolist()))
        assert facts.pixels[255] == counts[11]
        assert (facts.faults, facts.sizes) == ([], {(360, 480): facts.read})
    assert problems(camvid) == []
    assert pastes(camvid, sure=True) == ["--crop-size 352x480", "--class-weights enet"]


@pytest.mark.slow
def test_camvid_has_no_twins_across_its_splits_but_many_frames_alike(camvid: Findings) -> None:
    told = {(one.kind, one.splits): len(one.pairs) for one in camvid.twins}
    assert {key for key in told if key[1][0] != key[1][1]} == set()
    assert told[("near", ("validation", "validation"))] > 90, "frames of one video"
    (frames,) = (one for one in judge(camvid) if one.split == "validation" and "nearly" in one.text)
    assert (frames.level, frames.text) == (
        "fact",
        f"{told['near', ('validation', 'validation')]} images of validation are nearly identical "
        "to an earlier one, like frames of a video",
    )


def filmed(seed: int, frame: int) -> Sample:
    """Draw a scene of 4x4 patches of light, a little brighter in each frame."""
    scene = np.random.default_rng(seed).integers(40, 200, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
    picture = np.clip(scene + frame, 0, 255).astype(np.uint8)
    label = random_sample(100 * seed + frame, size=(32, 32)).label
    return Sample(encode(picture), label, f"{seed}-{frame}")


@pytest.mark.parametrize(("scenes", "level"), [(1, "fact"), (5, "warning")])
def test_frames_of_one_video_are_a_fact_in_one_split(scenes: int, level: str) -> None:
    frames = [filmed(k, frame) for k in range(scenes) for frame in range(10 // scenes)]
    found = of_samples({"train": frames, "validation": [filmed(0, 11)]})
    told = judge(found)
    (within,) = (one for one in told if one.split == "train")
    (across,) = (one for one in told if "nearly identical to one of train" in one.text)
    assert within.text == (
        f"{10 - scenes} images of train are nearly identical to an earlier one, like frames of a "
        "video"
    )
    assert (within.level, across.level) == (level, "warning")
    if level == "fact":
        assert told == [across, within]
        assert verdict(told) == "no problem found: 1 warning"


def test_planted_twins_are_found_among_real_pictures(shared: Path, tmp_path: Path) -> None:
    source = shared / "camvid"
    root = tmp_path / "d"
    for kind in ("images", "annotations"):
        for split in ("train", "validation"):
            (root / kind / split).mkdir(parents=True)
    (root / "classes.json").write_bytes((source / "classes.json").read_bytes())
    for path in sorted((source / "images/train").iterdir())[::10]:
        (root / "images/train" / path.name).symlink_to(path)
        label = (source / "annotations/train" / path.name).with_suffix(".png")
        (root / "annotations/train" / label.name).symlink_to(label)
    first, *_, last = sorted((root / "images/train").iterdir())
    with Image.open(last) as picture:
        brighter = ImageEnhance.Brightness(picture).enhance(1.15)
        half = picture.resize((picture.width // 2, picture.height // 2))
    with Image.open(first) as picture:
        picture.save(root / "images/validation/again.jpg", quality=35)
    brighter.save(root / "images/validation/brighter.png")
    half.save(root / "images/validation/half.jpg")
    (root / "images/validation/copy.jpg").write_bytes(last.read_bytes())
    other = sorted((source / "images/val").iterdir())[50]
    (root / "images/validation/other.jpg").write_bytes(other.read_bytes())
    for path in (root / "images/validation").iterdir():
        size = Image.open(path).size
        Image.new("L", size, 1).save(root / f"annotations/validation/{path.stem}.png")
    found = look(f"folder:root={root}")
    across = {one.kind: one.pairs for one in found.twins if one.splits == ("validation", "train")}
    assert [pair[:2] for pair in across["exact"]] == [("copy", last.stem)]
    assert [pair[:2] for pair in across["near"]] == [
        ("again", first.stem),
        ("brighter", last.stem),
        ("half", last.stem),
    ]
    assert set(across) == {"exact", "near"}


def test_ade20k_with_reduced_labels(shared: Path) -> None:
    typed = f"folder:root={shared / 'ade20k_sample'}"
    found = look(typed)
    train = found.splits["train"]
    assert problems(found) == [] and train.raw[0] == train.pixels[255] > 0
    files = [p for p in (shared / "ade20k_sample/annotations").rglob("*.png")]
    highest = {str(p) for p in files if np.array(Image.open(p)).max() == 150}
    wrong = look(f"{typed},reduce_labels=false")
    told = {f.file: f.kind for facts in wrong.splits.values() for f in facts.faults}
    assert told == dict.fromkeys(highest, "values")
