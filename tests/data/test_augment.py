"""The pipeline: which augmentation runs where, what partners went through, what a batch gets."""

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from data_tools import facts
from segacc.data.augment import Pipeline, Stage
from segacc.data.items import Batch, Item, collate
from segacc.data.order import seeded
from segacc.errors import PluginError
from segacc.hookspecs import Augmentation, Chosen
from segacc.registry import load_registry


def add(number: int) -> Any:
    """Return a change that adds a number to each pixel."""
    return lambda image, label: (image + number, label)


def average(image: Any, label: Any, another: Any) -> Any:
    """Return the sum of this picture and another, and the other's label."""
    other, beside = another()
    return image + other, beside


MIXES = Stage(average, partners=True)


class Shift:
    """Add to each picture of a batch what was drawn for it."""

    def draw(self, image: Tensor, label: Tensor) -> Tensor:
        return image.float().mean() + torch.rand(()).round()

    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        return images + drawn[:, None, None, None], labels


def picture(value: int, size: int = 4) -> tuple[Tensor, Tensor]:
    image = torch.full((3, size, size), value, dtype=torch.uint8)
    return image, torch.full((size, size), value, dtype=torch.uint8)


def batch_of(*pairs: tuple[Tensor, Tensor], seeds: Any = (1, 2), drawn: Any = ()) -> Batch:
    images, labels = (torch.stack(many) for many in zip(*pairs, strict=True))
    return Batch(images, labels, seeds=seeds[: len(pairs)], drawn=drawn)


def collated(items: list[Item]) -> Batch:
    batch = collate(items)
    assert isinstance(batch, Batch)
    return batch


def recorded(change: Any, on: Any) -> Augmentation:
    build = lambda options, facts: change  # noqa: E731
    return Augmentation(name="strange", summary="", options=dict, build=build, on=on)


def nobody() -> tuple[Tensor, Tensor]:
    raise AssertionError("nothing here mixes samples")


def test_a_partner_has_been_through_what_stands_before_and_nothing_else() -> None:
    pipeline = Pipeline((Stage(add(1)), MIXES, Stage(add(10))))
    found = pipeline.in_worker(Item(*picture(5)), lambda: picture(7))
    assert (int(found.image[0, 0, 0]), int(found.label[0, 0])) == ((5 + 1) + (7 + 1) + 10, 7)
    assert type(found.image) is type(found.label) is Tensor
    assert (found.drawn, found.placement) == ((), None)


def test_two_that_mix_reach_further_samples() -> None:
    fetched = iter(range(1, 10))
    pipeline = Pipeline((MIXES, MIXES))
    found = pipeline.in_worker(Item(*picture(100)), lambda: picture(next(fetched)))
    assert int(found.image[0, 0, 0]) == 100 + 1 + (2 + 3)
    assert next(fetched) == 4


def test_parameters_are_drawn_for_the_picture_as_it_leaves_the_worker() -> None:
    pipeline = Pipeline((Stage(add(3)),), (Stage(Shift()), Stage(add(1)), Stage(Shift())))
    with seeded(0):
        drawn = pipeline.in_worker(Item(*picture(5)), nobody).drawn
    with seeded(0):
        again = pipeline.in_worker(Item(*picture(5)), nobody).drawn
    assert [one.dtype for one in drawn] == [torch.float32] * 2
    assert {8.0, 9.0} >= {float(one) for one in drawn}
    assert list(map(float, drawn)) == list(map(float, again))


def test_the_device_goes_through_the_pipeline_in_order() -> None:
    double = Stage(lambda image, label: (image * 2, label))
    pipeline = Pipeline((), (Stage(Shift()), double, Stage(Shift())))
    drawn = torch.tensor([0.75, 2.25]), torch.tensor([0.5, 0.0])
    found = pipeline.on_device(batch_of(picture(5), picture(20), drawn=drawn))
    assert found.images.dtype == torch.float32 and found.labels.dtype == torch.uint8
    assert found.images[:, 0, 0, 0].tolist() == [2 * 6 + 0.5, 2 * 22 + 0.0]  # whole in between
    assert found.labels[:, 0, 0].tolist() == [5, 20] and found.drawn == ()


def test_without_device_changes_a_batch_stays_as_it_is() -> None:
    batch = batch_of(picture(5))
    found = Pipeline().on_device(batch)
    assert found.images is batch.images and found.labels is batch.labels


def test_changes_of_single_pictures_draw_by_their_own_seeds() -> None:
    def noise(image: Any, label: Any) -> Any:
        return image + torch.randint(200, image.shape, dtype=torch.uint8), label

    pipeline = Pipeline((), (Stage(noise), Stage(noise)))
    images = pipeline.on_device(batch_of(*[picture(0)] * 3, seeds=(7, 7, 8))).images
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    alone = pipeline.on_device(batch_of(picture(0), seeds=(8,))).images
    assert torch.equal(alone[0], images[2])
    single = Pipeline((), (Stage(noise),)).on_device(batch_of(picture(0), seeds=(8,))).images
    assert not torch.equal(alone, single * 2)  # the second draws anew


@pytest.mark.parametrize(("on", "worker", "device"), [("worker", 1, 0), ("device", 0, 1)])
def test_records_say_where_they_run(on: str, worker: int, device: int) -> None:
    for given in (on, lambda options: options["on"]):
        pipeline = Pipeline.of([Chosen(recorded(add(1), given), {"on": on}, "")], facts())
        assert (len(pipeline.worker), len(pipeline.device)) == (worker, device)


def usual(record: Any) -> Any:
    """Return an augmentation's options, with those that have no default."""
    needed = {"resize": {"short_side": 20}, "v2": {"transform": "RandomPerspective"}}
    return record.options(**needed.get(record.name, {}))


def test_a_pipeline_reaches_workers_that_are_not_forked() -> None:
    offers = load_registry().of_kind("augmentation")
    chosen = [Chosen(offer.record, usual(offer.record), "") for offer in offers]
    sent = Pipeline.of(chosen, facts())
    received = pickle.loads(pickle.dumps(sent))
    names = [[stage.name for stage in (*one.worker, *one.device)] for one in (sent, received)]
    assert names[0] == names[1] and len(names[0]) == len(offers)


def test_built_in_changes_of_batches_do_not_look_at_the_neighbours() -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (3, 3, 33, 47), dtype=torch.uint8)
    labels = torch.randint(4, (3, 33, 47), dtype=torch.uint8)
    checked = 0
    for offer in load_registry().of_kind("augmentation"):
        record, options = offer.record, usual(offer.record)
        if (record.on(options) if callable(record.on) else record.on) != "batch":
            continue
        pipeline = Pipeline.of([Chosen(record, options, "")], facts(4))
        items = [
            pipeline.in_worker(Item(*pair), nobody) for pair in zip(images, labels, strict=True)
        ]
        whole = pipeline.on_device(collated(items)).images
        for index, item in enumerate(items):
            alone = pipeline.on_device(collated([item])).images
            assert torch.equal(alone[0], whole[index]), record.name
        checked += 1
    assert checked >= 3


def named(change: Any, on: Any = "worker", *, num_classes: int = 20) -> Pipeline:
    return Pipeline.of([Chosen(recorded(change, on), {}, "")], facts(num_classes))


def refused(call: Any, *given: Any) -> str:
    with pytest.raises(PluginError) as error:
        call(*given)
    text = str(error.value)
    assert text.startswith("--aug strange: the augmentation returned ")
    return text.removeprefix("--aug strange: the augmentation returned ")


TWO = batch_of(picture(5), picture(5))
SINGLE: dict[str, tuple[Any, str]] = {
    "fractions": (lambda i, a: (i / 255, a), "(float32 (3, 4, 4), uint8 (4, 4))"),
    "int64": (lambda i, a: (i.long(), a), "(int64 (3, 4, 4), uint8 (4, 4))"),
    "label dtype": (lambda i, a: (i, a.long()), "(uint8 (3, 4, 4), int64 (4, 4))"),
    "channels": (lambda i, a: (i[:1], a), "(uint8 (1, 4, 4), uint8 (4, 4))"),
    "channels last": (lambda i, a: (i.permute(1, 2, 0), a), "(uint8 (4, 4, 3), uint8 (4, 4))"),
    "a batch": (lambda i, a: (i[None], a[None]), "(uint8 (1, 3, 4, 4), uint8 (1, 4, 4))"),
    "image alone cut": (lambda i, a: (i[:, 1:], a), "(uint8 (3, 3, 4), uint8 (4, 4))"),
    "nothing left": (lambda i, a: (i[:, :0], a[:0]), "(uint8 (3, 0, 4), uint8 (0, 4))"),
    "no pair": (lambda i, a: i, "uint8 (3, 4, 4)"),
    "three": (lambda i, a: (i, a, a), "(uint8 (3, 4, 4), uint8 (4, 4), uint8 (4, 4))"),
    "none": (lambda i, a: None, "NoneType"),
    "arrays": (lambda i, a: (i.numpy(), a), "(ndarray, uint8 (4, 4))"),
}


@pytest.mark.parametrize("case", SINGLE)
def test_what_is_no_sample_is_refused_by_name(case: str) -> None:
    change, found = SINGLE[case]
    expected = "expected an image of uint8 in 0..255, (3, H, W), and its label of uint8, (H, W)."
    fault = " This is a bug in its plugin."
    text = refused(named(change).in_worker, Item(*picture(5)), nobody)
    assert text == f"{found}; {expected}{fault}"
    expected = expected.replace("H, W", "4, 4")
    text = refused(named(change, "device").on_device, TWO)
    assert text == f"{found}; {expected}{fault}"


def test_a_deferred_crop_and_partners_are_looked_at_too() -> None:
    class Crop:
        def __call__(self, image: Any, label: Any) -> Any:
            raise AssertionError("it is deferred")

        def deferred_crop(self, image: Any, label: Any) -> Any:
            return image / 255, label, None

    deferred = Pipeline((Stage(Crop(), "strange", deferrable="crop"),))
    text = refused(deferred.in_worker, Item(*picture(5)), nobody)
    assert text.startswith("(float32 (3, 4, 4), ")
    strange = Stage(lambda image, label: (image, label.float()), "strange")
    mixing = Pipeline((strange, MIXES))
    text = refused(mixing.in_worker, Item(*picture(5)), lambda: picture(7))
    assert "float32 (4, 4)" in text


def test_sizes_may_change_in_the_worker_only() -> None:
    def cut(image: Any, label: Any) -> Any:
        return image[..., 1:], label[..., 1:]

    assert named(cut).in_worker(Item(*picture(5)), nobody).image.shape == (3, 4, 3)
    text = refused(named(cut, "device").on_device, TWO)
    assert text.startswith("(uint8 (3, 4, 3), uint8 (4, 3)); expected an ")


@pytest.mark.parametrize("on", ["worker", "device"])
def test_labels_that_are_no_class_are_refused(on: str) -> None:
    def paint(value: int) -> Any:
        def change(image: Any, label: Any) -> Any:
            label[0, 0] = value
            return image, label

        return named(change, on, num_classes=6)

    def run(pipeline: Pipeline) -> Any:
        if on == "worker":
            return pipeline.in_worker(Item(*picture(5)), nobody)
        return pipeline.on_device(batch_of(picture(5)))

    for fine in (0, 5, 255):
        run(paint(fine))
    for value in (6, 254):
        assert refused(run, paint(value)) == (
            f"a label with the value {value}; expected classes 0..5 and 255, which is ignored. "
            "This is a bug in its plugin: resize labels with nearest neighbour, fill with 255."
        )


class Batched:
    """Change a batch by a function of its pixels."""

    def __init__(self, change: Any) -> None:
        self.change = change

    def draw(self, image: Tensor, label: Tensor) -> Tensor:
        return torch.zeros(1)

    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> Any:
        return self.change(images, labels)


WHOLE: dict[str, tuple[Any, str]] = {
    "fractions": (lambda i, a: (i / 255, a), "images whose values are 0.01961 to 0.01961; "),
    "in place": (lambda i, a: (i.div_(255), a), "images whose values are 0.01961 to 0.01961; "),
    "normalized": (lambda i, a: (i - 99, a), "images whose values are -94 to -94; "),
    "too bright": (lambda i, a: (i * 99, a), "images whose values are 495 to 495; "),
    "nan": (lambda i, a: (i * torch.nan, a), "images whose values are nan to nan; "),
    "half": (
        lambda i, a: (i.half(), a),
        "(float16 (2, 3, 4, 4), uint8 (2, 4, 4)); expected an ",
    ),
    "labels": (lambda i, a: (i, a.long()), "(float32 (2, 3, 4, 4), int64 (2, 4, 4)); "),
    "size": (lambda i, a: (i[..., 1:], a[..., 1:]), "(float32 (2, 3, 4, 3), uint8 (2, 4, 3)); "),
    "fewer": (lambda i, a: (i[1:], a[1:]), "(float32 (1, 3, 4, 4), uint8 (1, 4, 4)); "),
    "images": (
        lambda i, a: i,
        "float32 (2, 3, 4, 4); expected an image of uint8 or float32 in ",
    ),
    "class": (lambda i, a: (i, a + 20), "a label with the value 25; expected classes 0..19 "),
}


@pytest.mark.parametrize("case", WHOLE)
def test_what_is_no_batch_is_refused_by_name(case: str) -> None:
    change, text = WHOLE[case]
    batch = batch_of(picture(5), picture(5), drawn=(torch.zeros(2, 1),))
    assert refused(named(Batched(change), "batch").on_device, batch).startswith(text)


def test_black_batches_and_such_as_are_dark_already_are_fine() -> None:
    for factor, value in ((0, 5), (1, 1), (1, 0), (51, 5)):
        pipeline = named(
            Batched(lambda images, labels, factor=factor: (images * factor, labels)), "batch"
        )
        images = pipeline.on_device(batch_of(picture(value), drawn=(torch.zeros(1, 1),))).images
        assert images.unique().tolist() == [value * factor]


def test_the_next_one_is_given_kinds_that_move_together() -> None:
    seen = []

    def plain(image: Any, label: Any) -> Any:
        return image.flip(-1), label.flip(-1)  # torchvision makes plain tensors of them

    def look(image: Any, label: Any) -> Any:
        seen.extend([type(image), type(label)])
        return image, label

    Pipeline((Stage(plain), Stage(look))).in_worker(Item(*picture(5)), nobody)
    assert seen == [tv_tensors.Image, tv_tensors.Mask]
