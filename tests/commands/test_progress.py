"""Display and score tables: what a person reads, compared as text."""

import gc
import io
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from score_tools import plain_scores
from segacc.commands.terminal.console import loading
from segacc.commands.terminal.progress import Display
from segacc.commands.terminal.tables import print_scores
from segacc.evaluation.scores import Scores, Terms
from segacc.training.events import (
    Evaluated,
    Event,
    Fitted,
    Saved,
    Skipped,
    Started,
    StepDone,
    Stopped,
)

NAMES = ("background", "nucleus", "[red]")
PALETTE = ((40, 40, 40), (255, 200, 0), (200, 0, 80))


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_scores(mean_iou: float) -> Scores:
    iou = {"background": 0.9, "nucleus": 0.5, "[red]": math.nan}
    return {"mean_iou": mean_iou, "per_category_iou": iou, "per_category_accuracy": dict(iou)}


def step_done(step: int, **changes: object) -> StepDone:
    values = {
        "step": step,
        "epoch": step / 20,
        "lr": 9.5e-4,
        "seconds": 1.0,
        "logged": True,
        "loss": 0.31214,
        "losses": {"cross_entropy": 0.31214},
        "images_per_second": 5.62,
        "data_wait": 0.012,
    }
    return StepDone(**{**values, **changes})  # type: ignore[arg-type]


def evaluated(step: int, mean_iou: float, *, best: bool) -> Evaluated:
    return Evaluated(
        step=step,
        scores=make_scores(mean_iou),
        terms=Terms(protocol="whole", num_images=39),
        seconds=12.34,
        best=best,
    )


def shown(
    events: Sequence[Event],
    *,
    terminal: bool,
    seconds: float = 1.0,
    width: int = 100,
    slow_data: str = "",
) -> str:
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=width, color_system=None)
    made = Display(console, names=NAMES, palette=PALETTE, slow_data=slow_data, clock=clock)
    with made as screen:
        for event in events:
            clock.now += seconds
            screen.show(event)
    return file.getvalue()


def started(folder: Path = Path("runs/a"), step: int = 0) -> Started:
    return Started(folder=folder, step=step, max_steps=210, notes=("device: cpu", "[b]x[/b]"))


def test_plain_lines() -> None:
    quiet = step_done(19, logged=False)
    events: list[Event] = [
        started(),
        quiet,
        step_done(20),
        Saved(step=20, folder=Path("runs/a/best")),
    ]
    assert shown(events, terminal=False).splitlines() == [
        "device: cpu",
        "[b]x[/b]",
        "step 20/210  epoch 1.0  loss 0.3121  lr 9.5e-04  5.6 images/s  data wait 1 %  eta 0:19",
        "saved runs/a/best",
    ]


def test_plain_lines_are_never_wrapped() -> None:
    losses = {"cross_entropy": 0.1, "dice": 0.2}
    text = shown([started(), step_done(20, losses=losses)], terminal=False, width=20)
    assert "loss 0.3121 (cross_entropy 0.1000, dice 0.2000)  lr 9.5e-04  5.6 images/s" in text


def test_waiting_for_data_brings_advice_once_and_not_for_the_start_of_the_workers() -> None:
    steps = [step_done(step, data_wait=0.234) for step in (1, 10, 20)]
    text = shown([started(), *steps], terminal=False, slow_data="more --num-workers")
    assert "data wait 23 %" in text
    advice = "waiting for data takes 23 % of the time; more --num-workers"
    assert [line for line in text.splitlines() if line.startswith("waiting")] == [advice]
    assert text.index("step 10/") < text.index(advice) < text.index("step 20/")


def test_memory_and_the_share_of_the_peak_are_shown_if_they_are_known() -> None:
    event = step_done(20, peak_memory=1_234_000_000, mfu=0.342)
    text = shown([started(), event], terminal=False)
    assert "5.6 images/s  memory 1.23 GB  mfu 34 %  data wait 1 %" in text


def test_eta_counts_from_the_resumed_step() -> None:
    text = shown([started(step=190), step_done(200)], terminal=False, seconds=30)
    assert text.rstrip().endswith("eta 0:30")


def test_plain_evaluation() -> None:
    text = shown([started(), evaluated(20, 0.7, best=True)], terminal=False)
    assert text.splitlines()[2:] == [
        "evaluation at step 20: 39 images in 12.3 s (best so far)",
        "  protocol whole, float32, evaluated at original label size, ignore_index=255, classes "
        "absent from labels and predictions excluded from the mean",
        "  mean_iou 0.7000",
        "  class            IoU  accuracy",
        "  background    0.9000    0.9000",
        "  nucleus       0.5000    0.5000",
        "  [red]              -         -",
    ]


def test_the_rules_of_an_evaluation_are_printed_once_per_run() -> None:
    evaluations = evaluated(20, 0.7, best=True), evaluated(40, 0.6, best=False)
    for terminal in (False, True):
        text = shown([started(), *evaluations], terminal=terminal)
        assert text.count("evaluation at step ") == 2
        assert text.count("ignore_index=255") == text.count("protocol whole, float32") == 1


def test_stop_by_a_signal_gives_the_command_on_one_line() -> None:
    command = "accelerate launch -m segacc --resume " + "long/" * 20
    stop = Stopped(step=20, reason="SIGTERM", resume=command)
    events: list[Event] = [started(), step_done(20), stop]
    for terminal in (False, True):
        lines = shown(events, terminal=terminal, width=60).splitlines()
        lines = [line.removeprefix("\x1b[?25h") for line in lines]  # the cursor comes back
        assert lines[-2:] == ["stopped by SIGTERM at step 20/210 after 0:02; resume with:", command]


def test_a_skipped_step_and_a_fitted_number_are_told() -> None:
    skipped = Skipped(
        step=3, losses={"ce": math.inf}, grad_norm=1.5, images=("a", "b"), skipped=1, allowed=2
    )
    fits = [Fitted(step=4, max_steps=n, limit="45m", used=70.0) for n in (400, 410, 800)]
    events: list[Event] = [started(), skipped, *fits, step_done(20)]
    lines = shown(events, terminal=False).splitlines()[2:]
    assert lines[:3] == [
        "step 3 skipped, 1 of 2 allowed: the loss (ce inf) or the gradient (norm 1.5) is not "
        "finite; images: a, b",
        "400 steps fit in 45m (1:10 used)",
        "800 steps fit in 45m (1:10 used)",
    ]
    assert lines[3].startswith("step 20/800  epoch 1.0")


def test_an_early_stop_is_told_as_it_is() -> None:
    why = "early stop: mean_iou has not been higher than 0.5000 of step 20 for 5 evaluations"
    text = shown([started(), step_done(20), Stopped(step=20, reason=why)], terminal=False)
    assert text.splitlines()[-1] == f"{why} at step 20/210 after 0:02"


def test_stop_at_the_end() -> None:
    text = shown([started(), step_done(210), Stopped(step=210, reason="finished")], terminal=False)
    assert text.splitlines()[-1] == "finished at step 210/210 after 0:02"


def test_plain_output_has_no_control_characters() -> None:
    events: list[Event] = [started(), step_done(20), evaluated(20, 0.7, best=True)]
    text = shown(events, terminal=False)
    assert text.isascii()
    assert all(char.isprintable() or char == "\n" for char in text)


def test_terminal_shows_bar_numbers_and_best() -> None:
    evaluations = evaluated(20, 0.7, best=True), evaluated(40, 0.6, best=False)
    events: list[Event] = [started(), step_done(20), evaluations[0], step_done(40), evaluations[1]]
    text = shown(events, terminal=True)
    assert "step 40/210" in text
    assert "━" in text
    assert "epoch 2.0  loss 0.3121  lr 9.5e-04  5.6 images/s  data wait 1 %" in text
    assert "mean_iou 0.6000 at step 40 (best 0.7000 at step 20)" in text
    assert "[red]" in text
    assert "[b]x[/b]" in text


def test_a_terminal_keeps_a_line_for_each_tenth_of_the_run() -> None:
    steps = [step_done(step) for step in (1, 10, 20, 21, 30, 41, 42, 210)]
    kept = [line for line in printed_above([started(), *steps]) if line.startswith("step ")]
    assert [line.split()[1] for line in kept] == ["1/210", "21/210", "42/210", "210/210"]
    assert kept[0].startswith("step 1/210  epoch 0.1  loss 0.3121  lr 9.5e-04  5.6 images/s")


def printed_above(events: Sequence[Event]) -> list[str]:
    """What stays on a terminal above the lines that are drawn again and again."""
    kept: list[str] = []

    class Watched(Console):
        def out(self, *objects: object, **more: object) -> None:
            kept.extend(map(str, objects))

    console = Watched(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with Display(console, names=NAMES, palette=PALETTE) as screen:
        for event in events:
            screen.show(event)
    return kept


def test_a_terminal_shows_a_bar_during_an_evaluation() -> None:
    for total, told in ((3, "evaluation 2/3"), (None, "evaluation 5")):
        clock, file = Clock(), io.StringIO()
        console = Console(file=file, force_terminal=True, width=100, color_system=None)
        with Display(console, names=NAMES, palette=PALETTE, clock=clock) as screen:
            screen.show(started())
            for _ in range(5):  # a second evaluation begins after the third image
                screen.count_image(total)
            screen.live.refresh()
            during = file.getvalue()
            screen.show(evaluated(20, 0.7, best=True))
            screen.live.refresh()
            after = file.getvalue()[len(during) :]
        assert f"{told} " in during
        assert after.rpartition("step 0/210")[2].count("evaluation ") == 0


def test_terminal_says_when_nothing_was_heard_for_long() -> None:
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, color_system=None)
    with Display(console, names=NAMES, palette=PALETTE, clock=clock) as screen:
        screen.show(started())
        screen.show(step_done(20))
        clock.now = 72.0
    assert "1:12 elapsed" in file.getvalue()
    assert "last event 1:12 ago" in file.getvalue()


def test_a_narrow_terminal_loses_no_number() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=40, color_system=None, soft_wrap=True)
    with Display(console, names=NAMES, palette=PALETTE) as screen:
        screen.show(started())
        screen.show(step_done(20))
    told = " ".join(file.getvalue().split())
    assert "epoch 1.0 loss 0.3121 lr 9.5e-04 5.6 images/s data wait 1 %" in told


def test_an_error_leaves_the_terminal_in_order() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    with pytest.raises(RuntimeError), Display(console, names=NAMES, palette=PALETTE) as screen:
        screen.show(started())
        raise RuntimeError
    assert file.getvalue().rstrip("\n").endswith("\x1b[?25h")  # the cursor is visible again


def test_best_by_a_class() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, color_system=None)
    key = "per_category_iou/nucleus"
    with Display(console, names=NAMES, palette=PALETTE, best_by=key) as screen:
        screen.show(started())
        screen.show(evaluated(20, 0.7, best=True))
    assert "per_category_iou/nucleus 0.5000 at step 20" in file.getvalue()


@pytest.mark.parametrize(("name", "times"), [("[red]", 1), ("nucleus", 0)])
def test_best_by_a_class_without_labelled_pixels_is_warned_of(name: str, times: int) -> None:
    file, key = io.StringIO(), f"per_category_iou/{name}"
    console = Console(file=file, force_terminal=False, width=100)
    with Display(console, names=NAMES, palette=PALETTE, best_by=key) as screen:
        screen.show(evaluated(20, 0.7, best=True))
        screen.show(evaluated(40, 0.7, best=False))
    warning = (
        f"warning: no pixel of the validation split is labelled {name}, so {key} does not tell "
        "which weights are best; choose another --best-by\n"
    )
    assert file.getvalue().count(warning) == times == file.getvalue().count("warning")


def test_swatches_have_the_colours_of_the_palette() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="truecolor", width=100)
    print_scores(console, make_scores(0.7), names=NAMES, palette=PALETTE, title="")
    assert "\x1b[48;2;255;200;0m  \x1b[0m nucleus" in file.getvalue()


def test_many_classes_are_cut_to_best_and_worst() -> None:
    names = tuple(f"class{k}" for k in range(150))
    iou = {name: k / 150 for k, name in enumerate(names)} | {"class7": math.nan}
    text = plain_scores({"per_category_iou": iou}, names, limit=6)
    rows = [line.split()[0] for line in text.splitlines()[1:-1]]
    assert rows == ["class149", "class148", "class147", "class2", "class1", "class0"]
    assert text.splitlines()[-1].strip() == (
        "the 3 best and 3 worst of 150 classes by IoU; all: metrics.jsonl"
    )
    assert len(plain_scores({"per_category_iou": iou}, names).splitlines()) == 151


def test_of_many_classes_few_occur() -> None:
    names = tuple(f"class{k}" for k in range(150))
    iou = dict.fromkeys(names, math.nan) | {"class3": 0.5}
    text = plain_scores({"per_category_iou": iou}, names, limit=6)
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["class3", "the"]
    assert text.endswith("the 1 of 150 classes that occur")


def test_a_mapping_that_is_not_by_class_is_told_by_its_keys() -> None:
    text = plain_scores({"boundary": {"2px": 0.25, "4px": 0.5}}, NAMES)
    assert text == "  boundary/2px 0.2500  boundary/4px 0.5000"


def test_print_scores_follows_the_console() -> None:
    texts = []
    for terminal in (False, True):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=100, color_system=None)
        print_scores(console, make_scores(0.7), names=NAMES, palette=PALETTE, title="validation")
        texts.append(file.getvalue())
    assert texts[0] == f"validation\n{plain_scores(make_scores(0.7), NAMES)}\n"
    assert texts[1].startswith("validation\nmean_iou 0.7000")
    assert "─" in texts[1]


def test_summary_names_what_is_there(tmp_path: Path) -> None:
    run = tmp_path / "my run"
    (run / "best").mkdir(parents=True)
    (run / "metrics.jsonl").touch()
    console = Console(file=io.StringIO(), force_terminal=False)
    with Display(console, names=NAMES, palette=PALETTE) as screen:
        screen.show(started(run))
        screen.show(evaluated(20, 0.7, best=True))
    assert screen.summary().splitlines() == [
        f"best      {run}/best  (mean_iou 0.7000 at step 20)",
        f"metrics   {run}/metrics.jsonl",
        f"try next  segacc predict '{run}/best' IMAGE --output-dir predictions",
    ]


def test_what_is_loaded_is_not_searched_for_garbage() -> None:
    """Whatever happens meanwhile, the search goes on afterwards."""
    assert gc.isenabled()
    with pytest.raises(KeyboardInterrupt), loading(Console(file=io.StringIO()), "torch"):
        assert not gc.isenabled()
        raise KeyboardInterrupt
    assert gc.isenabled()
