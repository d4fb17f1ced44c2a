"""Plugins that keep their promises badly: a real run says whose fault it is, and does not go on."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cli_tools import TINY, Warm
from data_tools import facts
from plugin_tools import pip_install, write_distribution
from segacc.errors import PluginError
from segacc.evaluation.metrics import check_metrics
from segacc.registry import Registry, choose, load_registry

pytest_plugins = ["cli_fixtures"]
pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="plugins of a test need a fork")

SOURCE = """
from dataclasses import dataclass

import segacc


@dataclass(frozen=True, kw_only=True)
class Options:
    case: str = ""


class Batched:
    def draw(self, image, label):
        import torch

        return torch.zeros(1)

    def __call__(self, images, labels, drawn):
        return images / 255, labels


def augmentation(options, facts):
    changes = {
        "worker": lambda image, label: (image / 255, label),
        "device": lambda image, label: (image[:, 8:], label[8:]),
        "batch": Batched(),
    }
    return changes[options.case]


def network(options, facts):
    from torch import nn

    from segacc.model import Logits, SegmentationModel

    class Network(SegmentationModel):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(3, facts.num_classes + (options.case == "more"), 1)

        def forward(self, images):
            found = self.head(images)
            return found if options.case == "bare" else Logits(found)

    return Network()


class Metric:
    def __init__(self, case):
        import torch

        self.case = case
        kind = torch.bool if case == "bool" else torch.float64
        start = 0 if case == "number" else torch.zeros(2, dtype=kind)
        self.state = [start] if case == "list" else {"right": start}
        if case == "none":
            del self.state

    def update(self, predictions, labels):
        import torch

        if self.case == "fails":
            raise ValueError("no such thing")
        valid = labels != 255
        right = (predictions == labels)[valid]
        found = torch.stack([right.sum(), valid.sum()]).double()
        if self.case == "mean":
            self.state["right"] = found / found[1]
        elif self.case == "grows":
            self.state["right"] = torch.cat([self.state["right"], found])
        elif self.case == "name":
            self.state["more"] = found
        elif self.case == "dtype":
            self.state["right"] = self.state["right"].float() + found.float()
        elif self.case not in ("bool", "number", "list", "none"):
            self.state["right"] += found

    def compute(self):
        if not isinstance(self.state, dict) or not hasattr(self.state["right"], "tolist"):
            return {"share": float("nan")}
        right, count = self.state["right"].double()[:2].tolist()
        return {"share": right / count if count else float("nan")}


@segacc.hookimpl
def segacc_metrics():
    yield segacc.Metric(
        name="share",
        summary="Faults.",
        options=Options,
        build=lambda options, facts: Metric(options.case),
        lower_is_better=lambda options: {"lower": ("shares",), "text": "share"}.get(
            options.case, ()
        ),
    )
    yield segacc.Metric(
        name="mean_iou",
        summary="A built-in's name.",
        options=Options,
        build=lambda options, facts: Metric(options.case),
    )


@segacc.hookimpl
def segacc_architectures():
    yield segacc.Architecture(
        name="odd",
        summary="Faults.",
        options=Options,
        build=network,
    )


@segacc.hookimpl
def segacc_augmentations():
    yield segacc.Augmentation(
        name="faded",
        summary="Faults.",
        options=Options,
        build=augmentation,
        on=lambda options: options.case,
    )
"""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, faulty: Path) -> Callable[[], Registry]:
    """Load a registry with the plugin on the path, as if it were installed."""
    monkeypatch.syspath_prepend(faulty)
    monkeypatch.delenv("SEGACC_LOAD_PLUGINS", raising=False)
    return load_registry


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faulty")
    return pip_install(folder / "site", write_distribution(folder, "segacc-faulty", SOURCE))


FAULT = "This is a bug in plugin segacc-faulty 1.0."


@pytest.mark.parametrize(
    ("case", "text"),
    [
        (
            "worker",
            "(float32 (3, 64, 64), uint8 (64, 64)); expected an image of uint8 in 0..255, "
            "(3, H, W), and its label of uint8, (H, W). ",
        ),
        (
            "device",
            "(uint8 (3, 56, 64), uint8 (56, 64)); expected an image of uint8 in 0..255, "
            "(3, 64, 64), and its label of uint8, (64, 64). ",
        ),
        (
            "batch",
            "images whose values are 0.0# to 0.#; expected values in 0..255, like its input. ",
        ),
    ],
)
def test_an_augmentation_is_named(
    warm: Warm, data: Path, faulty: Path, tmp_path: Path, case: str, text: str
) -> None:
    more = ("--aug", "random_scale_crop", "--aug", f"faded:case={case}")
    given = ("--dataset", f"folder:root={data}", "--output-dir", "run", *more)
    done = warm(*TINY, *given, cwd=tmp_path, site=faulty)
    found = re.sub(r"0\.0\d+ to 0\.\d+", "0.0# to 0.#", done.stderr)
    assert (
        found.splitlines()[-1] + "\n"
        == f"segacc: --aug faded: the augmentation returned {text}{FAULT}\n"
    )
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("case", "text"),
    [
        (
            "more",
            "network's logits of 2 images are float32 (2, 4, 64, 64); expected a tensor of a "
            "floating dtype, (2, 3, h, w): one channel per class, and none for ignored "
            "pixels.",
        ),
        (
            "bare",
            "network returns Tensor; expected segacc.model.Logits, as Logits(tensor).",
        ),
    ],
)
def test_a_network_is_named(
    warm: Warm, data: Path, faulty: Path, tmp_path: Path, case: str, text: str
) -> None:
    given = ("--dataset", f"folder:root={data}", "--output-dir", "run", *TINY[2:])
    done = warm("--arch", f"odd:case={case}", *given, cwd=tmp_path, site=faulty)
    where = "--arch odd (plugin segacc-faulty 1.0)"
    assert done.stderr.splitlines()[-1] == f"segacc: {where}: the {text}"
    assert (done.returncode, done.stdout) == (2, "")
    assert not (tmp_path / "run").exists()


STATE = "its state must be a dict of numeric tensors, which are summed over processes"
CHANGES = "its state changes in an update, from {'right': 'float64 (2,)'} to "
METRICS = {
    "lower": "lower_is_better has the unknown score shares; known: share",
    "text": 'lower_is_better is the string "share", expected a tuple of names',
    "number": STATE,
    "list": STATE,
    "bool": STATE,
    "grows": CHANGES
    + "{'right': 'float64 (4,)'}; expected the same names, shapes and dtypes from the start",
    "name": CHANGES + "{'right': 'float64 (2,)', 'more': 'float64 (2,)'}; expected the same "
    "names, shapes and dtypes from the start",
    "dtype": CHANGES
    + "{'right': 'float32 (2,)'}; expected the same names, shapes and dtypes from the start",
    "mean": 'its state "right" for two images is not the sum of the states for each, as summing '
    "over processes requires: keep sums and counts, and divide in compute()",
    "none": "it has no `state`; expected a dict of numeric tensors, summed over processes",
}


@pytest.mark.parametrize("case", METRICS)
def test_a_metric_is_named(load: Callable[[], Registry], faulty: Path, case: str) -> None:
    chosen = choose(load(), "metric", f"share:case={case}", "--metric")
    before = torch.get_rng_state()
    with pytest.raises(PluginError) as error:
        check_metrics([chosen], facts(4), "--metric")
    text = METRICS[case].replace("FILE", f"{faulty}/segacc_faulty.py")
    assert str(error.value) == f"--metric share:case={case}: {text}. {FAULT}"
    assert torch.equal(torch.get_rng_state(), before)


def test_a_metric_that_fails_is_named(load: Callable[[], Registry], faulty: Path) -> None:
    chosen = choose(load(), "metric", "share:case=fails", "--metric")
    with pytest.raises(PluginError) as error:
        check_metrics([chosen], facts(4), "--metric")
    assert str(error.value) == (
        "plugin segacc-faulty 1.0, metric share: update() with predictions (1, 24, 32) failed: "
        f"ValueError: no such thing ({faulty}/segacc_faulty.py:63). SEGACC_TRACEBACK=1 shows the "
        "traceback."
    )


def test_all_metrics_of_segacc_add_up(load: Callable[[], Registry]) -> None:
    registry = load()
    names = [offer.full_name for offer in registry.of_kind("metric")]
    kept = [name for name in names if name not in ("segacc/evaluate", "segacc-faulty/mean_iou")]
    needed = {"segacc/torchmetrics": ":JaccardIndex"}
    given = [f"{name}{needed.get(name, '')}" for name in kept]
    chosen = [choose(registry, "metric", one, "--metric") for one in given]
    assert len(chosen) > 4
    for one in chosen:
        check_metrics([one], facts(2 if one.name == "binary" else 4), "--metric")


@pytest.mark.slow
def test_a_run_and_an_evaluation_refuse_a_metric_at_the_start(
    warm: Warm, data: Path, trained: Path, faulty: Path, tmp_path: Path
) -> None:
    clash = (
        'warning: plugin segacc-faulty 1.0 offers the metric "mean_iou", which is the name of a '
        "built-in one; write segacc-faulty/mean_iou for the plugin's.\n"
    )
    given = ("--dataset", f"folder:root={data}", "--metric", "share:case=mean", "--output-dir", "r")
    for start in (TINY, ("evaluate", trained / "best")):
        done = warm(*start, *given, cwd=tmp_path, site=faulty)
        assert done.stderr == (
            f"{clash}segacc: --metric share:case=mean: {METRICS['mean']}. {FAULT}\n"
        )
        assert (done.returncode, done.stdout) == (2, "")
