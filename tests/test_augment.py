"""The row of augmentations: who runs where, what partners have been through, what a batch gets."""

from typing import Any

import pytest
import torch
from torch import Tensor

from data_tools import facts
from segacc.augment import Pipeline
from segacc.hookspecs import Augmentation
from segacc.order import seeded
from segacc.registry import load_registry


def add(number: int) -> Any:
    """Return a change that adds a number to each pixel."""
    return lambda image, label: (image + number, label)


def average(image: Any, label: Any, another: Any) -> Any:
    """Return the sum of this picture and another, and the other's label."""
    other, beside = another()
    return image + other, beside


class Shift:
    """Add to each picture of a batch what was drawn for it."""

    def draw(self, image: Tensor, label: Tensor) -> Tensor:
        return image.float().mean() + torch.rand(()).round()

    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        return images + drawn[:, None, None, None], labels


def picture(value: int, size: int = 4) -> tuple[Tensor, Tensor]:
    image = torch.full((3, size, size), value, dtype=torch.uint8)
    return image, torch.full((size, size), value, dtype=torch.uint8)


def nobody() -> tuple[Tensor, Tensor]:
    raise AssertionError("nothing here mixes samples")


def test_a_partner_has_been_through_what_stands_before_and_nothing_else() -> None:
    row = Pipeline(((add(1), False), (average, True), (add(10), False)))
    found = row.in_worker(*picture(5), lambda: picture(7))
    assert (int(found.image[0, 0, 0]), int(found.label[0, 0])) == ((5 + 1) + (7 + 1) + 10, 7)
    assert type(found.image) is type(found.label) is Tensor
    assert (found.drawn, found.placement) == ((), None)


def test_two_that_mix_reach_further_samples() -> None:
    fetched = iter(range(1, 10))
    row = Pipeline(((average, True), (average, True)))
    found = row.in_worker(*picture(100), lambda: picture(next(fetched)))
    assert int(found.image[0, 0, 0]) == 100 + 1 + (2 + 3)
    assert next(fetched) == 4


def test_parameters_are_drawn_for_the_picture_as_it_leaves_the_worker() -> None:
    row = Pipeline(((add(3), False),), (Shift(), add(1), Shift()))
    with seeded(0):
        drawn = row.in_worker(*picture(5), nobody).drawn
    with seeded(0):
        again = row.in_worker(*picture(5), nobody).drawn
    assert [one.dtype for one in drawn] == [torch.float32] * 2
    assert {8.0, 9.0} >= {float(one) for one in drawn}
    assert list(map(float, drawn)) == list(map(float, again))


def test_the_device_goes_through_the_row_in_order() -> None:
    row = Pipeline((), (Shift(), lambda image, label: (image * 2, label), Shift()))
    images, labels = (torch.stack(many) for many in zip(picture(5), picture(20), strict=True))
    drawn = [torch.tensor([0.75, 2.25]), torch.tensor([0.5, 0.0])]
    images, labels = row.on_device(images, labels, drawn, [1, 2])
    assert images.dtype == torch.float32 and labels.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == [2 * 6 + 0.5, 2 * 22 + 0.0]  # whole numbers in between
    assert labels[:, 0, 0].tolist() == [5, 20]


def test_without_device_changes_a_batch_stays_as_it_is() -> None:
    images, labels = (one[None] for one in picture(5))
    found = Pipeline().on_device(images, labels, [], [0])
    assert found[0] is images and found[1] is labels


def test_changes_of_single_pictures_draw_by_their_own_seeds() -> None:
    def noise(image: Any, label: Any) -> Any:
        return image + torch.randint(200, image.shape, dtype=torch.uint8), label

    row = Pipeline((), (noise, noise))
    pair = [torch.stack([one] * 3) for one in picture(0)]
    images, _ = row.on_device(*pair, [], [7, 7, 8])
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    alone, _ = row.on_device(*(one[:1] for one in pair), [], [8])
    assert torch.equal(alone[0], images[2])
    single, _ = Pipeline((), (noise,)).on_device(*(one[:1] for one in pair), [], [8])
    assert not torch.equal(alone, single * 2)  # the second draws anew


@pytest.mark.parametrize(("on", "worker", "device"), [("worker", 1, 0), ("device", 0, 1)])
def test_records_say_where_they_run(on: str, worker: int, device: int) -> None:
    fixed: Any = Augmentation(name="a", summary="", options=dict, build=add, on=on)  # type: ignore[arg-type]
    asked = Augmentation(name="b", summary="", options=dict, build=add, on=lambda o: o["on"])
    for record in (fixed, asked):
        row = Pipeline.of([(record, {"on": on}, add(1))])
        assert (len(row.worker), len(row.device)) == (worker, device)


def test_built_in_changes_of_batches_do_not_look_at_the_neighbours() -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (3, 3, 33, 47), dtype=torch.uint8)
    labels = torch.randint(4, (3, 33, 47), dtype=torch.uint8)
    checked = 0
    for offer in load_registry().of_kind("augmentation"):
        record, options = offer.record, offer.record.options()
        if (record.on(options) if callable(record.on) else record.on) != "batch":
            continue
        row = Pipeline.of([(record, options, record.build(options, facts()))])
        drawn = [
            [one]
            for one in (
                row.in_worker(*pair, nobody).drawn[0] for pair in zip(images, labels, strict=True)
            )
        ]
        whole, _ = row.on_device(images, labels, [torch.stack([d[0] for d in drawn])], [0] * 3)
        for place in range(3):
            part = slice(place, place + 1)
            alone, _ = row.on_device(images[part], labels[part], [drawn[place][0][None]], [0])
            assert torch.equal(alone[0], whole[place]), record.name
        checked += 1
    assert checked >= 3
