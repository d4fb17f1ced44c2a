"""What `--verify` says when something differs: counts, scores, predictions."""

from dataclasses import replace

import pytest

from score_tools import Pair, counted, pairs
from segacc.commands.evaluate.score import Evaluation
from segacc.commands.evaluate.verify import Checked, judge, plain_counts, plain_scores

K = 6
IMAGES = pairs(10, K)
FEW = {name: IMAGES[name] for name in ("image 002", "image 005", "image 008")}


def evaluation(images: dict[str, Pair]) -> Evaluation:
    found = counted(images, K)
    scores = plain_scores(found.total(), found.names)
    return Evaluation({**scores, "ece": 0.1}, found, [])


def checked(*, changed: int | None = 0) -> list[Checked]:
    return [
        Checked(name, plain_counts(said, label, K), True, changed, label.size)
        for name, (said, label) in FEW.items()
    ]


def test_all_agrees() -> None:
    found = judge(evaluation(IMAGES), checked(), limit=0.001)
    assert found.agrees and found.changed_pixels == 0
    assert found.text() == (
        "verified on 3 images: labels, counts, mean_iou, mean_accuracy, overall_accuracy, "
        "per_category_iou, per_category_accuracy agree with the reference implementation; a second "
        "prediction differs in 0.0000 % of the pixels; not checked: ece"
    )


def test_a_miscounted_pixel_is_found() -> None:
    wrong = checked()
    wrong[1] = replace(wrong[1], agrees=False)
    found = judge(evaluation(IMAGES), wrong, limit=0.001)
    assert not found.agrees
    assert found.text() == (
        "segacc evaluate --verify: on 3 images the scores differ from the reference "
        "implementation: the counts of 1 image differ from plain ones, such as image 005."
    )
    assert found.to_dict()["agrees"] is False


def test_a_score_that_is_not_that_of_its_counts_is_found() -> None:
    whole = evaluation(IMAGES)
    by_class = dict(whole.scores["per_category_iou"])  # type: ignore[arg-type]
    right = by_class["c2"]
    whole = replace(whole, scores={**whole.scores, "per_category_iou": {**by_class, "c2": 0.25}})
    found = judge(whole, checked(), limit=0.001)
    assert found.complaints == (
        f"per_category_iou/c2 of all 10 images is 0.250000, by definition {right:.6f}",
    )


@pytest.mark.parametrize(("changed", "agrees"), [(0, True), (3, False), (None, True)])
def test_predictions_that_differ_by_more_than_rounding_are_found(
    changed: int | None, agrees: bool
) -> None:
    pixels = sum(label.size for _, label in FEW.values())
    found = judge(evaluation(IMAGES), checked(changed=changed), limit=0.01)
    assert found.agrees is agrees
    assert found.changed_pixels == (None if changed is None else 3 * changed / pixels)
    if not agrees:
        assert found.complaints == (
            f"{900 / pixels:.2f} % of the pixels have another class if the logits are resized by "
            "plain code; at most 1 % may",
        )


def test_an_evaluation_that_mixed_its_images_up_is_found() -> None:
    names = list(IMAGES)
    mixed = dict(zip(names, [IMAGES[name] for name in reversed(names)], strict=True))
    found = judge(evaluation(mixed), checked(), limit=0.001)
    assert found.complaints == (
        "scored again one by one, the images have other counts than in the evaluation",
    )


def test_nothing_checked_is_no_agreement() -> None:
    found = judge(evaluation(IMAGES), [], limit=0.001)
    assert "none of the chosen images can be read" in found.complaints
