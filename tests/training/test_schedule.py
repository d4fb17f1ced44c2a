"""The learning rate over a run, against torch's schedulers and EoMT's definition."""

import math
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.optim import lr_scheduler

from data_tools import facts, tiny_segformer
from segacc.errors import OptionError
from segacc.registry import choose, load_registry
from segacc.settings.config import TrainConfig
from segacc.settings.sources import Layer, Settings, merge
from segacc.training.checkpoint import Progress
from segacc.training.defaults import choose_settings
from segacc.training.limits.guard import PlateauWatch
from segacc.training.optim.groups import parameter_groups
from segacc.training.optim.schedule import choose_schedule, lr_factor, parse_schedule, set_lr


def factors(schedule: str, total: int, *, warmup: int = 0, **stages: Any) -> list[float]:
    decay, stages = parse_schedule(schedule, "--schedule"), {"head": True, **stages}
    return [lr_factor(decay, step, total, warmup=warmup, **stages) for step in range(total)]


def of_torch(total: int, make: Any, **given: Any) -> list[float]:
    """List the learning rates that a scheduler of torch gives each step of a peak of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimizer, **given), []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("total", [1, 2, 7, 50])
def test_each_decay_is_torchs(total: int) -> None:
    poly = of_torch(total, lr_scheduler.PolynomialLR, total_iters=total, power=0.9)
    assert factors("poly:power=0.9", total) == pytest.approx(poly, rel=1e-9)
    cosine = of_torch(total, lr_scheduler.CosineAnnealingLR, T_max=total, eta_min=0.02)
    assert factors("cosine:floor=0.02", total) == pytest.approx(cosine, rel=1e-9)
    line = {"start_factor": 1.0, "end_factor": 0.1, "total_iters": total}
    linear = of_torch(total, lr_scheduler.LinearLR, **line)
    assert factors("linear:floor=0.1", total) == pytest.approx(linear, rel=1e-9)
    assert factors("constant", total) == [1.0] * total


@pytest.mark.parametrize("total", [1, 4, 10, 50])
def test_step_is_torchs_multi_step(total: int) -> None:
    given = {"milestones": [round(0.5 * total), round(0.8 * total)], "gamma": 0.3}
    theirs = of_torch(total, lr_scheduler.MultiStepLR, **given)
    assert factors("step:milestones=0.5/0.8,gamma=0.3", total) == pytest.approx(theirs, rel=1e-9)
    assert factors("step", 12) == pytest.approx([1.0] * 8 + [0.1] * 3 + [0.01])


@pytest.mark.parametrize(("shape", "theirs"), [("linear", "linear"), ("cosine", "cosine")])
@pytest.mark.parametrize("total", [1, 5, 40])
def test_wsd_is_that_of_transformers(total: int, shape: str, theirs: str) -> None:
    length = max(1, round(0.3 * total))
    given = {"num_warmup_steps": 0, "num_decay_steps": length, "num_training_steps": total}
    more = {"decay_type": theirs, "min_lr_ratio": 0.1}
    wanted = of_torch(total, transformers.get_wsd_schedule, **given, **more)
    found = factors(f"wsd:decay=0.3,shape={shape},floor=0.1", total)
    assert found == pytest.approx(wanted, rel=1e-9)


def test_plateau_falls_when_torchs_does() -> None:
    scores = [0.1, 0.3, 0.3, 0.29, 0.308, 0.302, 0.33, 0.2, 0.1, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    given = {"mode": "max", "factor": 0.5, "patience": 1, "threshold": 0.01}
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, threshold_mode="abs", **given)
    schedule = parse_schedule("plateau:patience=2,gamma=0.5,min_delta=0.01", "--schedule")
    chosen = [choose(load_registry(), "metric", "mean_iou", "--metric")]
    empty = {"mean_iou": chosen[0].build(facts())}
    watch = PlateauWatch("mean_iou", schedule, chosen, empty)
    progress = Progress()
    for score in scores:
        watch.note({"mean_iou": score}, progress)
        theirs.step(score)
        assert schedule.reduced(progress.reductions) == optimizer.param_groups[0]["lr"]
    assert progress.reductions >= 3


def test_wsd_does_not_depend_on_the_length_before_it_decays() -> None:
    assert factors("wsd", 50)[:40] == factors("wsd", 100)[:40] == [1.0] * 40
    tail = [1 - math.sqrt(k / 10) for k in range(10)]
    assert factors("wsd", 50)[40:] == pytest.approx(tail)


@pytest.mark.parametrize("total", [5, 11, 100])
@pytest.mark.parametrize("form", ["cos", "linear"])
@pytest.mark.parametrize("start", [0.3, 0.5])
def test_one_cycle_is_torchs(total: int, form: str, start: float) -> None:
    given = {"pct_start": start, "anneal_strategy": form, "div_factor": 10, "final_div_factor": 50}
    one = {"max_lr": 1.0, "total_steps": total + 1, "cycle_momentum": False}
    theirs = of_torch(total + 1, lr_scheduler.OneCycleLR, **{**one, **given})
    text = ",".join(f"{key}={value}" for key, value in given.items())
    assert factors(f"one_cycle:{text}", total + 1) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_one_cycle_has_a_peak_in_the_shortest_runs_too(total: int) -> None:
    found = factors("one_cycle", total)
    assert max(found) == found[0] == 1.0 and found == sorted(found, reverse=True)


def test_poly_ends_at_its_floor_as_mmengines() -> None:
    """PolyLR of mmengine: (lr - eta_min) * (1 - t / T) ** power + eta_min."""
    wanted = [(0.01 - 1e-4) * (1 - t / 40) ** 0.9 + 1e-4 for t in range(40)]
    found = [0.01 * factor for factor in factors("poly:power=0.9,floor=0.01", 40)]
    assert found == pytest.approx(wanted, rel=1e-12)


def test_the_warm_up_step_by_step() -> None:
    linear = [1 / 4, 2 / 4, 3 / 4, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]
    assert factors("poly", 10, warmup=3) == pytest.approx(linear, abs=1e-15)
    assert factors("poly", 4) == pytest.approx([1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("first", [1e-6, 0.25, 1.0])
def test_a_warm_up_with_a_start_is_torchs(first: float) -> None:
    wanted = of_torch(20, lr_scheduler.LinearLR, start_factor=first, total_iters=20)
    found = factors("poly", 50, warmup=20, first=first)
    assert found[:20] == pytest.approx(wanted, rel=1e-9)
    assert found[20:] == factors("poly", 50, warmup=20)[20:]


@pytest.mark.parametrize("schedule", ["poly:power=0.5", "poly:power=2", "cosine", "linear"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 7), (1, 2), (20, 400), (399, 400)])
def test_it_rises_then_falls_and_never_reaches_0(schedule: str, warmup: int, total: int) -> None:
    found = factors(schedule, total, warmup=warmup)
    assert found[0] == pytest.approx(1 / (warmup + 1))
    assert found[warmup] == 1.0 == max(found)
    assert found[: warmup + 1] == sorted(found[: warmup + 1])
    assert found[warmup:] == sorted(found[warmup:], reverse=True)
    assert min(found) > 0
    assert len(set(found)) >= max(warmup, total - warmup)


def eomt(step: int, total: int, first: int, second: int, *, head: bool) -> float:
    """EoMT's schedule as it is published; its warm-ups start at 0."""
    begin, length = (0, first) if head else (first, second)
    if step < begin:
        return 0.0
    if step < begin + length:
        return (step - begin) / length
    return (1 - (step - begin - length) / (total - begin - length)) ** 0.9


@pytest.mark.parametrize("head", [True, False])
def test_two_stages_are_eomts(head: bool) -> None:
    found = factors("poly:power=0.9", 60, warmup=9, encoder_warmup=19, head=head)
    # a warm-up of n + 1 of theirs passes through the values of n of ours, one step later
    after = 9 if head else 9 + 19
    theirs = [eomt(step, 60, 9, 19, head=head) for step in range(60)]
    assert found[after:] == pytest.approx(theirs[after:], rel=1e-12)
    same = factors("poly:power=0.9", 60, warmup=9, encoder_warmup=19, head=head, first=0.0)
    assert same == pytest.approx(theirs, rel=1e-12)
    rising = [eomt(step + 1, 60, 10, 20, head=True) for step in range(9)]
    if head:
        assert found[:9] == pytest.approx(rising, rel=1e-12)
    else:
        assert found[:9] == [0.0] * 9
        assert found[9:28] == pytest.approx([(step + 1) / 20 for step in range(19)])


def test_set_lr_sets_each_group_from_its_own_peak() -> None:
    optimizer = torch.optim.AdamW(
        parameter_groups(tiny_segformer(), lr=1e-3, head_lr_scale=10.0, weight_decay=0.1)
    )
    config = TrainConfig(warmup_steps=0.1, encoder_warmup_steps=20)
    decay = parse_schedule("poly", "--schedule")
    for step in (5, 15, 50, 5):  # from the peak each time, not from the last value
        set_lr(optimizer, decay, step, 100, config)
        found = {group["name"]: group["lr"] for group in optimizer.param_groups}
        stages = {"warmup": 10, "encoder_warmup": 20}
        head = lr_factor(decay, step, 100, **stages, head=True)
        encoder = lr_factor(decay, step, 100, **stages, head=False)
        assert found["encoder"] == found["encoder, no decay"] == 1e-3 * encoder
        assert found["head"] == found["head, no decay"] == 1e-2 * head
    assert encoder == 0.0 < head


REFUSED = [
    (
        {"schedule": "cosin"},
        '--schedule: unknown schedule "cosin". Did you mean "cosine"? Known: poly, cosine, linear, '
        "constant, step, wsd, plateau, one_cycle.",
    ),
    (
        {"schedule": "cosine:power=2"},
        '--schedule cosine: unknown option "power". Known: floor.',
    ),
    (
        {"schedule": "poly:power=0"},
        "--schedule poly: power: expected a number > 0; found '0'.",
    ),
    ({"schedule": "constant:floor=0"}, None),
    (
        {"schedule": "one_cycle", "warmup_steps": "20"},
        "--warmup-steps: the schedule one_cycle has its own warm-up, pct_start; leave this out.",
    ),
    (
        {"schedule": "one_cycle:pct_start=0.2", "encoder_warmup_steps": "0.1"},
        "--encoder-warmup-steps: the schedule one_cycle has its own warm-up, pct_start; leave this "
        "out.",
    ),
    (
        {"schedule": "one_cycle", "warmup_start": "0.1"},
        "--warmup-start: this run has no linear warm-up; leave this out.",
    ),
    (
        {"warmup_steps": "0", "warmup_start": "1e-6"},
        "--warmup-start: this run has no linear warm-up; leave this out.",
    ),
]


@pytest.mark.parametrize(("typed", "text"), REFUSED, ids=[str(typed) for typed, _ in REFUSED])
def test_a_wrong_schedule_is_refused(typed: dict[str, str], text: str | None) -> None:
    with pytest.raises(OptionError) as error:
        choose_schedule(merge([Layer(typed, "command line")]))
    constant = '--schedule constant: unknown option "floor". It has no options.'
    assert str(error.value) == (text or constant)


def chosen(**typed: str) -> Settings:
    return choose_settings(merge([Layer(typed, "command line")]), False, (64, 64), 160, 1)


@pytest.mark.parametrize(
    ("typed", "warmup"),
    [
        ({}, 10),  # 10 epochs of 160 images in batches of 8: 200 steps
        ({"max_steps": "60000"}, 1500),
        ({"warmup_steps": "0.1"}, 0.1),
        ({"schedule": "one_cycle"}, 0),
        ({"max_time": "10m"}, 0.05),
        ({"max_time": "10m", "schedule": "one_cycle"}, 0),
    ],
)
def test_the_warm_up_that_is_chosen(typed: dict[str, str], warmup: float) -> None:
    assert chosen(**typed).config.warmup_steps == warmup


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (
            {"max_steps": "20", "warmup_steps": "20"},
            "--warmup-steps: a warm-up of 20 steps leaves none of 20 steps after it; give fewer.",
        ),
        (
            {"max_steps": "20", "warmup_steps": "0.5", "encoder_warmup_steps": "10"},
            "--encoder-warmup-steps: a warm-up of 0.5 and 10 steps leaves none of 20 steps after "
            "it; give fewer.",
        ),
        (
            {"max_time": "9m", "warmup_steps": "0.5", "encoder_warmup_steps": "0.5"},
            "--encoder-warmup-steps: a warm-up of 0.5 and 0.5 steps leaves none of the run's steps "
            "after it; give fewer.",
        ),
    ],
)
def test_a_warm_up_as_long_as_the_run_is_refused(typed: dict[str, str], text: str) -> None:
    with pytest.raises(OptionError) as error:
        chosen(**typed)
    assert str(error.value) == text
