"""Intervals, against the slow definition on the same draws, and against scipy's."""

import statistics
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from score_tools import counted, pairs, scores_of
from segacc.commands.evaluate import bootstrap
from segacc.commands.evaluate.bootstrap import (
    differences,
    intervals,
    intervals_of_runs,
    weights,
)
from segacc.kernels.counts import iou, mean_of_known

K, N = 6, 12


def draws(count: int, resamples: int, seed: int) -> np.ndarray:
    return np.concatenate(list(weights(count, resamples, seed)))


def by_definition(images: dict, resamples: int, seed: int) -> np.ndarray:
    """Score each draw from the pixels of its images, one after the other: mean, then classes."""
    found, ids = [], sorted(images)
    for row in draws(len(images), resamples, seed):
        chosen = [
            images[name] for name, times in zip(ids, row, strict=True) for _ in range(int(times))
        ]
        mean, by_class = scores_of(chosen, K)
        found.append([mean, *by_class])
    return np.array(found)


def percentiles(values: np.ndarray) -> tuple[float, float]:
    return tuple(np.percentile(values[~np.isnan(values)], [2.5, 97.5]))


def test_each_draw_holds_as_many_images() -> None:
    drawn = draws(20, 500, 3)
    assert drawn.shape == (500, 20) and (drawn.sum(axis=1) == 20).all()
    assert abs(drawn.mean(axis=0) - 1).max() < 0.2 and drawn.max() > 3
    assert np.array_equal(drawn, draws(20, 500, 3)) and not np.array_equal(drawn, draws(20, 500, 4))


def test_intervals_are_those_of_the_definition() -> None:
    images = pairs(N, K)
    found, wanted = intervals(counted(images, K), resamples=150), by_definition(images, 150, 0)
    assert found.mean_iou == pytest.approx(percentiles(wanted[:, 0]), abs=1e-12)
    assert found.mean_iou[0] < scores_of(list(images.values()), K)[0] < found.mean_iou[1]
    for k in range(K - 1):
        assert found.per_category_iou[f"c{k}"] == pytest.approx(
            percentiles(wanted[:, k + 1]), abs=1e-12
        )
    assert found.per_category_iou[f"c{K - 1}"] is None, "it occurs nowhere"


def test_a_class_of_one_image_is_left_out_of_the_draws_without_it() -> None:
    images = pairs(N, K)
    label = np.zeros((3, 3), np.uint8)
    label[0] = K - 1
    images["rare"] = (np.where(label > 0, [[K - 1, 0, K - 1]], 0).astype(np.uint8), label)
    wanted = by_definition(images, 120, 0)[:, K]
    assert 0 < np.isnan(wanted).sum() < 120
    ends = intervals(counted(images, K), resamples=120).per_category_iou[f"c{K - 1}"]
    assert ends == pytest.approx((2 / 3, 2 / 3), abs=1e-12)


def test_scipy_finds_the_same_interval() -> None:
    images = counted(pairs(60, K, right=0.4), K)
    dense = images.dense(0, 60)

    def statistic(places: np.ndarray, axis: int) -> np.ndarray:
        return mean_of_known(iou(dense[places].sum(axis=1)))

    theirs = stats.bootstrap(
        (np.arange(60),),
        statistic,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(7),
        axis=-1,
        batch=500,
    )
    ours = intervals(images, resamples=4000).mean_iou
    assert ours is not None
    # The 2.5 % quantile of 4000 draws of a normal law scatters by 0.042 of its sigma.
    error = 4 * 0.042 * theirs.standard_error * 2**0.5
    assert abs(ours[0] - theirs.confidence_interval.low) < error
    assert abs(ours[1] - theirs.confidence_interval.high) < error
    assert ours[1] - ours[0] > 10 * error, "the bound says something"


def test_paired_differences_are_those_of_the_definition() -> None:
    one, other = pairs(N, K, seed=1, right=0.5), pairs(N, K, seed=2, right=0.6)
    found = differences([counted(one, K)], [counted(other, K)], resamples=150, seed=5)
    wanted = by_definition(other, 150, 5) - by_definition(one, 150, 5)
    assert found.mean_iou == pytest.approx(percentiles(wanted[:, 0]), abs=1e-12)
    for k in range(K - 1):
        ends = found.per_category_iou[f"c{k}"]
        assert ends == pytest.approx(percentiles(wanted[:, k + 1]), abs=1e-12)
    alone = intervals(counted(one, K), resamples=150, seed=5).mean_iou
    assert alone and found.mean_iou
    assert found.mean_iou[1] - found.mean_iou[0] < 1.5 * (alone[1] - alone[0]), "paired"


def test_parts_of_the_work_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images = counted(pairs(N, K), K)
    whole = intervals(images, resamples=200)
    monkeypatch.setattr(bootstrap, "CHUNK", 50)  # 4 draws and 2 images at a time
    assert intervals(images, resamples=200) == whole


def test_one_image_says_nothing_of_others() -> None:
    found = intervals(counted(pairs(1, K), K))
    assert found.mean_iou is None and set(found.per_category_iou.values()) == {None}


def test_what_they_are_is_said() -> None:
    told = intervals(counted(pairs(3, K), K), resamples=100, seed=4).to_dict()
    assert told["what"] == (
        "95 % intervals: bootstrap of 3 images, 100 resamples, seed 4; training randomness is "
        "not included"
    )
    assert (told["level"], told["resamples"], told["seed"]) == (0.95, 100, 4)


def by_runs(runs: list[dict], resamples: int, stream: int) -> np.ndarray:
    """Average, in each resample of the images, over as many runs drawn with replacement."""
    each = np.stack([by_definition(images, resamples, 0) for images in runs])
    drawn = np.random.default_rng((0, stream)).integers(len(runs), size=(resamples, len(runs)))
    return np.array(
        [
            [statistics.fmean(known) if (known := known_in(column)) else np.nan for column in row.T]
            for row in (each[places, number] for number, places in enumerate(drawn))
        ]
    )


def known_in(values: np.ndarray) -> list[float]:
    return [float(one) for one in values if not np.isnan(one)]


def test_runs_are_drawn_beside_the_images() -> None:
    a = [pairs(N, K, seed=seed, right=0.5) for seed in range(3)]
    b = [pairs(N, K, seed=seed, right=0.6 + seed / 50) for seed in range(5, 7)]
    first, second = by_runs(a, 120, 0), by_runs(b, 120, 1)
    sides = [[counted(images, K) for images in runs] for runs in (a, b)]
    found = differences(*sides, resamples=120)
    alone = intervals_of_runs(sides[0], resamples=120)
    assert found.num_runs == (3, 2) and alone.num_runs == (3,)
    assert alone.mean_iou == pytest.approx(percentiles(first[:, 0]), abs=1e-11)
    wanted = second - first
    assert found.mean_iou == pytest.approx(percentiles(wanted[:, 0]), abs=1e-11)
    for k in range(K - 1):
        ends = found.per_category_iou[f"c{k}"]
        assert ends == pytest.approx(percentiles(wanted[:, k + 1]), abs=1e-11)


def test_the_variation_over_seeds_widens_the_interval_of_runs() -> None:
    """Runs whose scores differ by more than the images explain; equal runs are as one."""
    different = [counted(pairs(60, K, right=right), K) for right in (0.3, 0.5, 0.7)]
    one, many = intervals(different[1]).mean_iou, intervals_of_runs(different).mean_iou
    assert one and many and many[1] - many[0] > 2 * (one[1] - one[0])
    same = intervals_of_runs([different[1]] * 3).mean_iou
    assert same == pytest.approx(one, abs=1e-11)
    equal = differences([different[1]] * 2, [different[1]] * 3)
    assert equal.mean_iou == (0, 0)


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ((1,), "; training randomness is not included"),
        ((1, 1), "; training randomness is not included"),
        ((3,), " and of the runs (3)"),
        ((3, 1), "; a side with one run has no variation over seeds"),
        ((3, 6), "; rather too narrow for fewer than 5 runs"),
        ((5, 6), "12 images and of the runs (5 of A, 6 of B), 1000 resamples, seed 0"),
    ],
)
def test_what_is_resampled_is_told(runs: tuple[int, ...], told: str) -> None:
    found = replace(intervals(counted(pairs(N, K), K)), num_runs=runs).text()
    assert told in found and (found.endswith(told) or runs == (3,))
