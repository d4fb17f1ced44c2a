"""The order of samples and their seeds: functions of (seed, epoch, index), never of the past."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from segacc.data.order import Cut, Order, StepSampler, sample_seed, seeded, share

CUTS = [  # processes, batch size, accumulation: twelve images a step
    (processes, batch, 12 // processes // batch)
    for processes in (1, 2, 3, 4, 6, 12)
    for batch in (1, 2, 3, 4, 6, 12)
    if 12 % (processes * batch) == 0
]


def sampler(
    count: int, *, processes: int = 1, batch: int = 4, accumulation: int = 1, **rest: Any
) -> StepSampler:
    given = {"seed": 5, "first": 0, "last": 10, "process": 0, **rest}
    cut = Cut(
        batch_size=batch,
        accumulation=accumulation,
        process=given["process"],
        processes=processes,
    )
    order = Order(count, seed=given["seed"], chances=given.get("chances"))
    return StepSampler(order, range(given["first"], given["last"]), cut)


def keys_by_step(count: int, cut: tuple[int, int, int], **rest: Any) -> list[list[Any]]:
    """Collect each step's keys from the samplers of all processes."""
    processes, batch, accumulation = cut
    steps: list[list[Any]] = []
    for process in range(processes):
        one = sampler(
            count,
            processes=processes,
            batch=batch,
            accumulation=accumulation,
            process=process,
            **rest,
        )
        batches = list(one)
        assert len(one) == len(batches)
        assert all(len(keys) == batch for keys in batches)
        for start in range(0, len(batches), accumulation):
            if process == 0:
                steps.append([])
            window = batches[start : start + accumulation]
            steps[start // accumulation] += [key for keys in window for key in keys]
    return steps


# ------------------------------------------------------------------------------------ the order


@pytest.mark.parametrize("count", [1, 5, 12, 37, 100])
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_step_holds_the_same_samples_however_it_is_cut(
    count: int, cut: tuple[int, int, int]
) -> None:
    whole = keys_by_step(count, (1, 12, 1))
    assert [Counter(step) for step in keys_by_step(count, cut)] == [Counter(s) for s in whole]


@pytest.mark.parametrize("count", [1, 5, 12, 37, 100])
def test_no_sample_is_lost_or_repeated_within_an_epoch(count: int) -> None:
    keys = [key for step in keys_by_step(count, (2, 3, 2), last=50) for key in step]
    assert len(keys) == len(set(keys)) == 600
    for epoch in range(600 // count):
        seen = sorted(index for number, index in keys if number == epoch)
        assert seen == list(range(count))


@pytest.mark.parametrize("first", [1, 7, 9])
def test_a_resumed_sampler_goes_on_where_the_other_was(first: int) -> None:
    cut = {"processes": 2, "process": 1, "batch": 3, "accumulation": 2}
    whole = list(sampler(17, **cut))
    assert list(sampler(17, **cut, first=first)) == whole[first * 2 :]
    assert list(sampler(17, **cut, first=10)) == []


def test_orders_differ_by_epoch_and_by_seed_and_are_the_same_again() -> None:
    orders = [tuple(Order(50, seed=s).epoch(epoch)) for s in (0, 1) for epoch in range(4)]
    assert len(set(orders)) == 8
    assert tuple(range(50)) not in orders
    order = Order(50, seed=0)
    assert [tuple(order.epoch(epoch)) for epoch in (3, 0, 1)] == [*orders[3:4], *orders[:2]]


def test_each_place_of_an_epoch_gets_each_sample_about_as_often() -> None:
    found = np.array([Order(4, seed=0).epoch(epoch) for epoch in range(2000)])
    counts = np.array([[np.sum(found[:, place] == k) for k in range(4)] for place in range(4)])
    assert np.abs(counts - 500).max() < 100  # five standard deviations


def test_sample_seeds_are_all_different() -> None:
    seeds = {sample_seed(s, e, i) for s in range(3) for e in range(10) for i in range(200)}
    assert len(seeds) == 6000
    assert all(0 <= seed < 2**63 for seed in seeds)


# ------------------------------------------------------------------------------- with chances


@pytest.mark.parametrize("cut", CUTS[::3], ids=str)
def test_draws_with_chances_do_not_depend_on_the_cut_either(cut: tuple[int, int, int]) -> None:
    chances = [1.0, 0.0, 5.0, 2.0, 0.5]
    whole = keys_by_step(5, (1, 12, 1), chances=chances)
    found = keys_by_step(5, cut, chances=chances)
    assert [Counter(step) for step in found] == [Counter(step) for step in whole]
    assert list(sampler(5, chances=chances, first=4)) == list(sampler(5, chances=chances))[4:]


def test_samples_come_in_proportion_to_their_chances_and_each_time_under_a_new_key() -> None:
    chances = np.array([1.0, 0.0, 5.0, 2.0])
    order = Order(4, seed=3, chances=chances)
    keys = [order.key(position) for position in range(8000)]
    assert len(set(keys)) == 8000 and {len(key) for key in keys} == {3}
    assert len({sample_seed(3, *key) for key in keys}) == 8000
    counts = np.bincount([index for _, index, _ in keys], minlength=4)
    assert counts[1] == 0
    wanted = 8000 * chances / chances.sum()
    assert np.abs(counts - wanted).max() < 5 * np.sqrt(wanted.max())


def test_another_sample_is_drawn_by_the_same_chances_from_torchs_generator() -> None:
    plain, weighted = Order(4, seed=0), Order(4, seed=0, chances=[0, 1, 0, 3])
    with seeded(1):
        found = [(plain.another(), weighted.another()) for _ in range(800)]
    with seeded(1):
        assert [(plain.another(), weighted.another()) for _ in range(800)] == found
    evenly, by_chance = (np.bincount(one, minlength=4) for one in zip(*found, strict=True))
    assert np.abs(evenly - 200).max() < 75
    assert by_chance[0] == by_chance[2] == 0 and abs(by_chance[3] - 600) < 75


# ---------------------------------------------------------------------------- seeds ------------


def draws() -> tuple[float, float, float]:
    return torch.rand(()).item(), np.random.rand(), random.random()


def global_states() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), name, keys.tolist(), rest


def test_seeded_gives_the_same_draws_and_leaves_no_trace() -> None:
    before = global_states()
    with seeded(2**62 + 1):
        first = draws()
    assert global_states() == before
    with pytest.raises(ZeroDivisionError), seeded(3):
        draws()
        raise ZeroDivisionError
    assert global_states() == before
    draws()
    with seeded(2**62 + 1):
        assert draws() == first
    with seeded(2**62 + 2):
        assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_seeded_may_be_nested() -> None:
    with seeded(1):
        start = draws()
        with seeded(2):
            draws()
        after = draws()
    with seeded(1):
        assert (draws(), draws()) == (start, after)


# ------------------------------------------------------------------------ shares of evaluation


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 4, 11, 15])
def test_shares_cover_each_sample_once_and_are_equally_long(count: int, processes: int) -> None:
    shares = [share(count, process=one, processes=processes) for one in range(processes)]
    assert {len(one) for one in shares} == {-(-count // processes)}
    keys = [key for one in shares for key in one]
    assert sorted(index for index, padding in keys if not padding) == list(range(count))
    assert all(index == 0 for index, padding in keys if padding)
    assert sum(padding for _, padding in keys) == -count % processes
