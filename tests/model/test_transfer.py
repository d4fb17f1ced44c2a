"""What of somebody's weights goes into a network: rows by class name, channels, positions."""

import pytest
import torch
import torch.nn.functional as F

from segacc.errors import WeightsError
from segacc.model.transfer import (
    LoadReport,
    Structure,
    carry_over,
    carry_rows,
    class_rows,
    fit_channels,
    plain_name,
    resize_positions,
)

NAMES = ("road", "Side Walk", "sky")


def test_names_are_compared_as_people_read_them() -> None:
    assert plain_name("Side_Walk") == plain_name("side-walk;pavement") == "side walk"
    assert class_rows(NAMES, ("sky, heaven", "wall", "road;route")) == [(0, 2), (2, 0)]
    assert class_rows(NAMES, NAMES) == [(0, 0), (1, 1), (2, 2)]
    assert class_rows(NAMES, ("wall", "door")) == []


def test_classes_that_were_never_named_keep_their_places_or_are_new() -> None:
    assert class_rows(NAMES, ("LABEL_0", "LABEL_1", "LABEL_2")) == [(0, 0), (1, 1), (2, 2)]
    assert class_rows(NAMES, ("LABEL_0", "LABEL_1")) == []


def test_two_classes_of_one_name_go_back_to_their_own_rows() -> None:
    twins = ("road", "Road", "sky")
    assert class_rows(twins, twins) == [(0, 0), (1, 1), (2, 2)]


def test_rows_after_the_classes_stay_the_last() -> None:
    mine, theirs = torch.zeros(4, 2), torch.arange(6.0).view(3, 2)  # K + 1 rows, "no object" last
    filled = carry_rows(mine, theirs, [(2, 0)], NAMES, ("sky", "wall"))
    assert filled is not None and filled.tolist() == [[0, 0], [0, 0], [0, 1], [4, 5]]
    assert carry_rows(mine, theirs[:, :1], [(2, 0)], NAMES, ("sky", "wall")) is None
    assert carry_rows(mine, theirs, [], NAMES, ("sky", "wall")) is None


def structure(**rest: object) -> Structure:
    return Structure(
        is_head=lambda name: name.startswith("head"),
        classifiers=("head.out.",),
        class_names=NAMES,
        **rest,  # type: ignore[arg-type]
    )


def state(classes: int, channels: int = 3, fill: float = 0.0) -> dict[str, torch.Tensor]:
    return {
        "stem.weight": torch.full((4, channels, 3, 3), fill),
        "body.weight": torch.full((50, 4), fill),
        "head.mix.weight": torch.full((4, 4), fill),
        "head.out.weight": torch.full((classes, 4), fill),
        "head.out.bias": torch.full((classes,), fill),
    }


def test_rows_of_known_classes_are_carried_and_the_rest_stays() -> None:
    loaded, report = carry_over(
        state(3), state(2, fill=1.0), structure(), source="old", found_names=("sky", "wall")
    )
    assert loaded["head.out.bias"].tolist() == [0, 0, 1]
    assert loaded["head.mix.weight"].eq(1).all()
    assert report.lines() == [
        "weights: old: 5 tensors loaded",
        "head: weights of 1 of 3 classes reused by name: sky",
    ]


def test_a_fresh_head_is_left_as_it_is() -> None:
    found = {**state(3, fill=1.0), "classifier.weight": torch.ones(1)}
    loaded, report = carry_over(
        state(3), found, structure(fresh_head=True), source="old", found_names=NAMES
    )
    assert set(loaded) == {"stem.weight", "body.weight"}
    assert report.text() == (
        "weights: old: 2 tensors loaded; new: head.mix.weight, head.out.bias, head.out.weight; "
        "not used: classifier.weight, head.mix.weight, head.out.bias, head.out.weight"
    )


def test_weights_of_something_else_are_refused() -> None:
    found = {"body.weight": torch.ones(10, 4), "other": torch.ones(3)}
    with pytest.raises(WeightsError) as error:
        carry_over(state(3), found, structure(), source="old")
    assert str(error.value) == (
        "old: these weights do not belong to this network: 0 tensors fit, 5 tensors of body, head, "
        "stem would stay random, body.weight, other would not be used. Choose the "
        "architecture and variant that the weights were saved from, or use --weights none."
    )


@pytest.mark.parametrize("channels", [1, 4, 7])
def test_a_grey_picture_gives_the_same_response_through_any_number_of_channels(
    channels: int,
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, 3, 3, generator=generator)
    grey = torch.rand(1, 1, 9, 9, generator=generator)
    fitted = fit_channels(weight, channels)
    assert fitted.shape == (5, channels, 3, 3)
    wanted = F.conv2d(grey.expand(-1, 3, -1, -1), weight)
    got = F.conv2d(grey.expand(-1, channels, -1, -1), fitted)
    if channels in (1, 3):
        torch.testing.assert_close(got, wanted)
    else:  # the filters that come once more are as strong as the mean of all
        turns = [k % 3 for k in range(channels)]
        mean = sum(F.conv2d(grey, weight[:, k : k + 1]) for k in turns) * 3 / channels
        torch.testing.assert_close(got, mean)


def test_first_convolutions_are_fitted_and_said() -> None:
    loaded, report = carry_over(
        state(3, channels=4),
        state(3, fill=1.0),
        structure(num_channels=4),
        source="old",
        found_names=NAMES,
    )
    assert loaded["stem.weight"].eq(0.75).all()
    assert report.lines()[1] == "input channels adapted: stem.weight"
    with pytest.raises(WeightsError):  # not when nobody asked for four
        carry_over(state(3, channels=40), state(3), structure(num_channels=4), source="old")


def test_positions_are_resized_and_tokens_kept() -> None:
    found = torch.randn(1, 1 + 16, 2)
    resized = resize_positions(found, torch.zeros(1, 1 + 64, 2))
    assert resized is not None and resized.shape == (1, 65, 2)
    assert torch.equal(resized[:, :1], found[:, :1])
    grid = found[:, 1:].reshape(1, 4, 4, 2).permute(0, 3, 1, 2)
    wanted = F.interpolate(grid, size=(8, 8), mode="bicubic").permute(0, 2, 3, 1).reshape(1, 64, 2)
    torch.testing.assert_close(resized[:, 1:], wanted)
    assert resize_positions(found, torch.zeros(1, 20, 2)) is None
    assert resize_positions(found, torch.zeros(1, 17, 3)) is None


def test_nothing_loaded_is_told_in_one_line() -> None:
    assert LoadReport("random").lines() == ["weights: random"]
