"""Images of one size are scored together: how batches are cut and read, what metrics are given."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from data_tools import chosen_metric, encode, facts, random_sample, tiny_segformer
from segacc.data.batches import EvalData, Source
from segacc.data.codecs import picture_size
from segacc.data.decode import read_image
from segacc.data.items import Item, nothing
from segacc.data.order import of_one_size
from segacc.data.streams import EvalStream
from segacc.errors import DataError, OptionError, SegaccError
from segacc.evaluation import metrics as metrics_room
from segacc.evaluation.predict import decide_batch
from segacc.evaluation.protocol import Protocol
from segacc.evaluation.scoring import Scoring, refuse_batches
from segacc.hookspecs import Chosen, Sample, Stream
from segacc.labels import LabelMap
from segacc.loop import evaluate
from segacc.registry import choose
from segacc.testing import registry_of
from segacc.training.feed import Trouble, scored

LABELS = LabelMap.plain(["a", "b", "c"])
SIZES = [(24, 32), (40, 20), (24, 32), (24, 32), (40, 20), (33, 33), (24, 32), (40, 20)]


def samples() -> list[Sample]:
    return [random_sample(number, size=size) for number, size in enumerate(SIZES)]


# ----------------------------------------------------------------------------------------- cuts


def test_batches_are_of_one_size_and_in_order() -> None:
    sizes = [*SIZES, None, (24, 32), None]
    cut = of_one_size(sizes, batch_size=3, pixels=10**6)
    assert cut == [[0, 2, 3], [1, 4, 7], [8], [10], [5], [6, 9]]
    assert of_one_size(sizes, batch_size=3, pixels=2 * 24 * 32) == [
        *([1], [0, 2], [4], [5], [3, 6], [7], [8], [10], [9])
    ]
    assert of_one_size([(2000, 3000)] * 3, batch_size=8, pixels=2**22) == [[0], [1], [2]]
    assert of_one_size([], batch_size=8, pixels=2**22) == []


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_each_image_is_in_one_batch_whatever_the_number_of_processes(batch_size: int) -> None:
    data = EvalData(Source(samples(), LABELS))
    whole = data.share(process=0, processes=1, batch_size=batch_size)
    assert not any(padding for batch in whole for _, padding in batch)
    for processes in (2, 3, 11):
        shares = [
            data.share(process=one, processes=processes, batch_size=batch_size)
            for one in range(processes)
        ]
        assert len(set(map(len, shares))) == 1, "all make as many forward calls"
        turns = [batch for row in zip(*shares, strict=True) for batch in row]
        assert turns[: len(whole)] == whole
        assert all(padding for batch in turns[len(whole) :] for _, padding in batch)
        counts = [
            data.count(process=one, processes=processes, batch_size=batch_size)
            for one in range(processes)
        ]
        assert counts == [sum(map(len, share)) for share in shares]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_is_what_its_samples_are(num_workers: int) -> None:
    data = EvalData(Source(samples(), LABELS))
    loader = data.batches(process=1, processes=2, num_workers=num_workers, batch_size=3)
    found = list(loader)
    assert [[(one.id, one.padding) for one in batch] for batch in found] == [
        [("s1", False), ("s4", False), ("s7", False)],
        [("s6", False)],
    ]
    assert all(torch.equal(one.image, data[int(one.id[1:]), False].image) for one in found[0])


# -------------------------------------------------------------------------------------- headers


def late_exif(picture: Image.Image, orientation: int) -> bytes:
    """Write a PNG whose EXIF comes after its pixels, where a header says nothing of it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    whole = encode(picture)
    return whole[:-12] + chunk + whole[-12:]


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_header_tells_the_size_of_the_upright_picture(
    kind: str, orientation: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    content = encode(picture, kind, exif=exif.tobytes())
    assert picture_size(content) == tuple(read_image(content, "it").shape[1:])
    (tmp_path / "it").write_bytes(content)
    assert picture_size(tmp_path / "it") == ((20, 30) if orientation < 5 else (30, 20))


def test_a_header_is_enough() -> None:
    random = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    for kind in ("JPEG", "PNG", "GIF", "BMP"):
        content = encode(random, kind)
        assert picture_size(content[: len(content) // 2]) == (64, 96)
    assert picture_size(b"no picture") is None
    assert picture_size(Path("nowhere.png")) is None


def test_of_channels_that_pillow_does_not_read_each_image_is_alone() -> None:
    data = EvalData(Source(samples(), LABELS, num_channels=7))
    assert [len(one) for one in data.share(process=0, processes=1, batch_size=3)] == [1] * 8


# ------------------------------------------------------------------------------------- bad data


def read(given: list[Sample], batch_size: int = 8) -> tuple[list[list[Item]], Trouble]:
    """Read a split as an evaluation does."""
    trouble = Trouble(Accelerator(cpu=True), allowed=9, seen=set())
    data = EvalData(Source(given, LABELS))
    loader = data.batches(process=0, processes=1, num_workers=0, batch_size=batch_size)
    return list(scored(loader, trouble, data, (40, 56))), trouble


def test_what_cannot_be_read_has_the_size_of_its_batch() -> None:
    good = samples()
    torn = Sample(good[0].image, b"no picture", "torn")
    outside = Sample(good[2].image, encode(np.full((24, 32), 7, np.uint8)), "outside")
    batches, trouble = read([torn, outside, good[3], Sample(b"no picture", b"", "alone")])
    told = [[(item.id, item.padding, tuple(item.label.shape)) for item in one] for one in batches]
    assert told == [
        [("alone", False, (40, 56))],
        [("torn", False, (24, 32)), ("outside", False, (24, 32)), ("s3", False, (24, 32))],
    ]
    assert (batches[1][0].label == 255).all() and batches[1][0].image.shape == (3, 24, 32)
    assert len(trouble.unreadable) == 3
    assert any("label values outside the 3 classes: 7" in one for one in trouble.unreadable)


def test_a_header_that_says_another_size_is_an_error_on_all_processes() -> None:
    turned = Sample(
        late_exif(Image.new("RGB", (32, 24)), 6), encode(np.zeros((32, 24), np.uint8)), "turned"
    )
    batches, trouble = read([samples()[0], turned])
    assert [(item.id, item.padding) for item in batches[0]] == [("s0", False), ("", True)]
    with pytest.raises(DataError) as caught:
        trouble.settle()
    assert str(caught.value) == (
        "s0 is 24x32 pixels (height x width) and turned is 32x24, though their file headers give "
        "the same size. Save the file with the wrong header again, or score images one by one with "
        "--eval-batch-size 1."
    )
    batches, trouble = read([samples()[0], turned], batch_size=1)
    assert not trouble.settle() and [len(batch) for batch in batches] == [1, 1]


# --------------------------------------------------------------------------------------- scores


class Counts:
    """A metric: the confusion itself."""

    def __init__(self) -> None:
        self.state = {"counts": torch.zeros(3, 3, dtype=torch.int64)}

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        assert predictions.dtype == labels.dtype == torch.int64 and len(labels) == 1
        valid = labels != 255
        pairs = torch.bincount(3 * labels[valid] + predictions[valid], minlength=9)
        self.state["counts"] += pairs.view(3, 3)

    def compute(self) -> dict[str, Any]:
        return {"counts": dict(enumerate(self.state["counts"].ravel().tolist()))}


class Sure:
    """A metric that wants the confidence of each pixel: the mean of it."""

    def __init__(self) -> None:
        self.state = {"sum": torch.zeros((), dtype=torch.float64), "pixels": torch.tensor(0)}

    def update(self, predictions: Tensor, labels: Tensor, confidence: Tensor) -> None:
        assert confidence.shape == predictions.shape == labels.shape
        assert confidence.dtype == torch.float32
        self.state["sum"] += confidence.double().sum()
        self.state["pixels"] += confidence.numel()

    def compute(self) -> dict[str, float | dict[str, float]]:
        return {"sure": float(self.state["sum"] / self.state["pixels"])}


COUNTS = chosen_metric("counts", Counts)
SURE = chosen_metric("sure", Sure, wants_confidence=True)


def scoring_of(given: list[Sample], *metrics: Chosen, **more: Any) -> Scoring:
    network, protocol = tiny_segformer(), Protocol.parse("tta:scales=0.75/1,pad=32", "-")
    data, accelerator = EvalData(Source(given, LABELS)), Accelerator(cpu=True)
    return Scoring(accelerator, network, network, data, protocol, facts(), metrics, **more)


def test_the_size_of_a_batch_changes_no_count() -> None:
    told, seen = [], []
    for size in (None, 1, 2, 3, 8):
        scoring = scoring_of(samples(), COUNTS, eval_batch_size=size)
        scoring.keep, ids = frozenset({"s1", "s6"}), []
        scoring.seen = lambda item, prediction, _, ids=ids: ids.append((item.id, prediction.shape))
        scores, examples = evaluate(scoring)
        told.append(scores)
        assert (scoring.num_images, scoring.share()) == (8, 8)
        assert [example.id for example in examples] == ["s1", "s6"]
        assert all(example.prediction.shape == example.label.shape for example in examples)
        seen.append(sorted(ids))
    assert all(scores == told[0] for scores in told)
    assert seen == [[(f"s{k}", torch.Size(SIZES[k])) for k in range(8)]] * 5
    assert sum(told[0]["counts"].values()) == sum(h * w for h, w in SIZES)


def test_metrics_that_want_the_confidence_are_handed_it() -> None:
    scoring = scoring_of(samples(), COUNTS, SURE, eval_batch_size=3)
    scores, _ = evaluate(scoring)
    network, found = scoring.network, []
    for place in range(8):
        image = scoring.data[place, False].image[None]  # type: ignore[index, union-attr]
        decided = decide_batch(network, network, image, scoring.protocol, confidence=True)
        assert decided.confidence is not None
        found.append(decided.confidence.double().flatten())
    assert scores["sure"] == pytest.approx(float(torch.cat(found).mean()), rel=1e-6)
    plain, _ = evaluate(scoring_of(samples(), COUNTS))
    assert plain["counts"] == scores["counts"]


def test_an_image_is_counted_once_for_all_that_read_its_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, seen, count = [], [], metrics_room.confusion
    monkeypatch.setattr(
        metrics_room, "confusion", lambda *given: calls.append(given) or count(*given)
    )
    registry = registry_of()
    metrics = [choose(registry, "metric", name, "-") for name in ("mean_iou", "dice", "confusion")]
    scoring = scoring_of(samples(), *metrics, COUNTS)
    scoring.seen = lambda item, prediction, counts: seen.append(counts())
    scores, _ = evaluate(scoring)
    assert len(calls) == len(seen) == 8
    total = torch.stack(seen).sum(0)
    assert list(scores["counts"].values()) == total.ravel().tolist()  # type: ignore[union-attr]
    for one in metrics:
        assert torch.equal(scoring.counted[one.text].state["confusion"], total)
    assert scores["overall_accuracy"] == total.diagonal().sum() / total.sum()
    calls.clear()
    evaluate(scoring_of(samples(), COUNTS))
    assert not calls, "nobody reads them"


def test_no_probability_is_computed_that_nobody_wants() -> None:
    images = nothing(3)[0][None]
    for wanted in ([], [COUNTS], [COUNTS, SURE]):
        scoring = scoring_of(samples(), *wanted)
        scoring.protocol = Protocol()
        assert (scoring.decide(images).confidence is not None) == (SURE in wanted)


def test_a_stream_is_scored_image_by_image() -> None:
    def read(shard: str, place: Any) -> Any:
        return ((sample, None) for sample in samples())

    data = EvalStream(Stream(shards=("one",), read=read, num_samples=8), LABELS, 3)
    scoring = scoring_of(samples(), COUNTS)
    listed, _ = evaluate(scoring)
    scoring.data = data
    assert evaluate(scoring)[0] == listed and scoring.share() == 8
    refuse_batches(data, None, "--eval-batch-size")
    refuse_batches(data, 1, "--eval-batch-size")
    with pytest.raises(OptionError) as caught:
        refuse_batches(data, 2, "--eval-batch-size")
    assert isinstance(caught.value, SegaccError) and str(caught.value) == (
        "--eval-batch-size: 2: the evaluated split is a stream, which is scored image by image. "
        "Leave this out."
    )
