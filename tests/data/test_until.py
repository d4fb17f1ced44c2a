"""`until`: an augmentation that ends, at the step to which a sample belongs and no other."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cli_tools import Warm, assert_refused, assert_succeeded, metrics
from data_tools import facts, random_sample
from segacc.data.augment import Pipeline, Stage
from segacc.data.batches import Source, TrainData
from segacc.data.items import Batch
from segacc.data.order import Cut, Order
from segacc.data.streams import TrainStream
from segacc.errors import OptionError
from segacc.labels import LabelMap
from segacc.registry import choose, load_registry
from segacc.settings.sources import Layer
from segacc.training.data import check_ends, end_lines
from segacc.training.plan import make_plan
from stream_tools import small_stream

pytest_plugins = ["cli_fixtures"]
LABELS = LabelMap.plain(("sky", "road", "tree"))
TOTAL = 10


def black(image: Any, label: Any) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(image), label


class Mark:
    """On the device, set the first pixel to a value; the calls are counted."""

    def __init__(self, value: int) -> None:
        self.value, self.calls = value, 0

    def draw(self, image: Tensor, label: Tensor) -> Tensor:
        return torch.rand(1)

    def __call__(self, images: Tensor, labels: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        marked = images.clone()
        marked[:, :, 0, 0] = self.value
        return marked, labels


def kinds(mark: Mark) -> Pipeline:
    """One that ends in the worker, and one on the device after one that does not end."""
    return Pipeline((Stage(black, until=0.3),), (Stage(Mark(5)), Stage(mark, "mark", until=0.7)))


def of_disk(through: Pipeline) -> TrainData:
    samples = [random_sample(number) for number in range(13)]
    return TrainData(Source(samples, LABELS), through, Order(13, seed=0))


def of_stream(through: Pipeline) -> TrainStream:
    return TrainStream(small_stream(40, 40), LABELS, 3, through, 0)


def seen(batches: Any, through: Pipeline) -> list[tuple[bool, bool]]:
    """Return for each micro-batch whether it was black, and whether it was marked last."""
    found = []
    for batch in batches:
        assert isinstance(batch, Batch)
        images = through.on_device(batch).images
        first = images[:, :, 0, 0].unique().tolist()
        assert first in ([5], [7])
        found.append((not images[:, :, 1:].any(), first == [7]))
    return found


@pytest.mark.parametrize("build", [of_disk, of_stream])
@pytest.mark.parametrize(("workers", "first"), [(0, 0), (2, 0), (1, 6)])
def test_the_step_of_a_sample_decides(build: Any, workers: int, first: int) -> None:
    """Also after a resume, and in workers that read four micro-batches ahead of it."""
    through = kinds(mark := Mark(7))
    for process in range(2):
        cut = Cut(batch_size=2, accumulation=3, process=process, processes=2)
        given: Any = {"positions": (), "num_workers": workers, "pin_memory": False}
        batches = build(through).loader(cut, range(first, TOTAL), **given)
        wanted = [(step < 3, step < 7) for step in range(first, TOTAL) for _ in range(3)]
        assert seen(batches, through) == wanted
    assert mark.calls == 2 * 3 * len(range(first, 7))


def test_a_total_that_is_fitted_during_the_run_decides_when_keys_are_taken() -> None:
    through, total = Pipeline((Stage(black, until=0.5),)), 20
    given: Any = {"positions": (), "num_workers": 0, "pin_memory": False}
    cut = Cut(batch_size=2)
    loader = of_disk(through).loader(cut, range(10**9), **given, total=lambda: total)
    blackened = []
    for step, batch in zip(range(12), loader, strict=False):
        total = 8 if step > 3 else total
        blackened.append(not batch.images.any())
    assert blackened == [True] * 5 + [False] * 7


@pytest.mark.parametrize("total", [1, 7, 10, 30, 97, 1000])
@pytest.mark.parametrize("until", [0.01, 0.1, 0.3, 0.35, 0.7, 0.9, 0.999])
def test_it_ends_at_the_share_as_a_decimal_number(until: float, total: int) -> None:
    stage = Stage(black, until=until)
    lasted = [stage.lasts(step / total) for step in range(total)]
    assert sum(lasted) == -(-int(until * 1000 + 0.5) * total // 1000)
    assert all(one or not other for one, other in pairwise(lasted))
    assert Stage(black).lasts(1.5), "a run that is longer than it was fitted"


def test_every_augmentation_has_it_and_what_never_ends_is_as_it_was() -> None:
    registry = load_registry()
    for offer in registry.of_kind("augmentation"):
        needed = {"v2": ",transform=GaussianNoise", "resize": ",size=8"}
        text = f"{offer.record.name}:until=0.25{needed.get(offer.record.name, '')}"
        chosen = choose(registry, "augmentation", text, "--aug")
        assert chosen.common.until == 0.25 and not hasattr(chosen.options, "until")
        assert (
            choose(registry, "augmentation", text.replace("0.25", "1"), "--aug").common.until == 1
        )
    through = Pipeline((Stage(black),), (Stage(Mark(7)),))
    assert through.at(0.999) is through


@pytest.mark.parametrize(
    ("value", "found"), [("0", "'0'"), ("1.5", "'1.5'"), ("nan", "'nan'"), ("half", "'half'")]
)
def test_shares_that_are_none(value: str, found: str) -> None:
    with pytest.raises(OptionError) as error:
        choose(load_registry(), "augmentation", f"flip:until={value}", "--aug")
    assert str(error.value) == (
        f"--aug flip: until: expected a number > 0 and <= 1; found {found}."
    )


# ---------------------------------------------------------------------------------- from a terminal

RUN = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--dataset", "nuclei"),
    *("--crop-size", 32, "--batch-size", 2, "--num-workers", 0, "--eval-split", "validation[:2]"),
    *("--num-pictures", 0, "--log-every", 1, "--eval-every", 6),
    *("--output-dir", "run"),
)
CROP = ("--aug", "random_scale_crop")


@pytest.mark.slow
def test_a_run_tells_when_augmentations_end_and_resumes_exactly(warm: Warm, tmp_path: Path) -> None:
    some = ("--aug", "mosaic:until=0.5", *CROP, "--aug", "color_jitter:until=0.8")
    done = warm(*RUN, *some, "--max-steps", 6, "--save-every", 2, cwd=tmp_path)
    line = "augmentations that end: mosaic after step 3, color_jitter after step 5"
    assert line in assert_succeeded(done).stdout
    assert "mosaic:until=0.5" in (tmp_path / "run/config.yaml").read_text()

    losses = [row["loss"] for row in metrics(tmp_path / "run", "train")]
    assert_succeeded(warm("--resume", "run/checkpoints/step-00000002", cwd=tmp_path))
    assert [row["loss"] for row in metrics(tmp_path / "run", "train")] == losses


def test_what_could_not_go_on_is_refused_at_the_start(warm: Warm, tmp_path: Path) -> None:
    ends = ("--aug", "random_scale_crop:until=0.9", "--aug", "flip")
    assert_refused(
        warm(*RUN, *ends, "--max-steps", 2, cwd=tmp_path),
        "--aug: random_scale_crop:until=0.9: after it, no augmentation brings the images of a "
        "batch to one size. Leave out until, or add --aug random_scale_crop last.",
    )


def test_readers_of_a_stream_do_not_know_the_length_that_fits_in_a_time() -> None:
    values = {"arch": "segformer", "dataset": "nuclei", "max_time": "1h", "aug": ["flip"]}
    settings = make_plan([Layer(values, "command line")], load_registry()).settings
    through = Pipeline((Stage(black, "black", until=0.5),))
    with pytest.raises(OptionError) as error:
        check_ends(through, facts(), settings, small_stream(4))
    assert str(error.value) == (
        "--aug: black:until=0.5: the workers that read a stream do not know the number of steps "
        "that fits in --max-time. Give --max-steps, or leave out until."
    )
    check_ends(through, facts(), settings, of_disk(through).source)
    assert end_lines(through, settings.config) == [
        "augmentations that end: black after 0.5 of the steps (as fitted to --max-time when an "
        "image is read)"
    ]
