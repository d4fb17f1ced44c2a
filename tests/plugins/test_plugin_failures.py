"""What a plugin's code raises or returns in a run ends in one paragraph that names the plugin."""

import sys
from pathlib import Path

import pytest

from cli_tools import TINY, Done, Warm
from plugin_tools import pip_install, write_distribution

pytest_plugins = ["cli_fixtures"]
pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="plugins of a test need a fork")

SOURCE = """
from dataclasses import dataclass

import segacc


@dataclass(frozen=True)
class Options:
    case: str = ""


@dataclass(frozen=True)
class LossOptions(segacc.LossOptions):
    case: str = ""


def fail(options, *facts):
    if options.case == "build":
        raise OSError("no such\\nthing.")  # line 19
    return options.case


class Shapeless:
    def __init__(self, options, facts):
        self.case = fail(options)

    def count(self, labels):
        count = (labels != 255).sum()
        return count if self.case == "int" else count * {"zero": 0.0}.get(self.case, 1.0)

    def sum(self, logits, labels):
        from segacc.kernels.resize import resize_to_labels

        if self.case != "small":
            logits = resize_to_labels(logits, labels)
        picked = logits.gather(1, labels.where(labels != 255, 0)[:, None])  # line 36
        total = picked.sum((1, 2, 3)) if self.case == "vector" else picked.sum()
        return {"float": total.item, "detached": total.detach}.get(self.case, lambda: total)()


def network(options, facts):
    from segacc.model import Logits, SegmentationModel
    from torch import nn

    class Network(SegmentationModel):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(3, facts.num_classes, 1)

        def forward(self, images):
            return Logits(self.heads(images))  # line 51

    fail(options)
    return Network()


class Lazy(list):
    def __getitem__(self, index):
        import numpy as np

        return segacc.Sample(np.zeros((8, 8, 3)), b"", str(index))  # line 61


def data(options):
    fail(options)
    samples = Lazy([0])
    if options.case == "eager":
        samples = [samples[0]]
    return segacc.DataSplits(
        {"train": samples, "validation": samples},
        segacc.LabelMap.plain(("a", "b")),
        chances={"many": {"train": [1.0, 2.0]}, "few": {"train": [-1.0]}}.get(options.case, {}),
    )


@segacc.hookimpl
def segacc_architectures():
    yield segacc.Architecture(name="net", summary="s", options=Options, build=network)


@segacc.hookimpl
def segacc_datasets():
    yield segacc.Dataset(name="data", summary="s", options=Options, build=data)


@segacc.hookimpl
def segacc_augmentations():
    yield segacc.Augmentation(name="aug", summary="s", options=Options, build=fail)


@segacc.hookimpl
def segacc_losses():
    yield segacc.Loss(name="loss", summary="s", options=LossOptions, build=Shapeless)


@segacc.hookimpl
def segacc_metrics():
    yield segacc.Metric(name="metric", summary="s", options=Options, build=fail)
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    return pip_install(folder / "site", write_distribution(folder, "segacc-broken", SOURCE))


FLAGS = {
    "architecture": ("--weights", "none", *TINY[4:], "--arch"),
    "dataset": (*TINY, "--dataset"),
    "augmentation": (*TINY, "--aug"),
    "loss": (*TINY, "--loss"),
    "metric": (*TINY, "--metric"),
}
NAMES = {"architecture": "net", "dataset": "data", "augmentation": "aug"}
SIZES = "(2, 3, 16, 24) and labels (2, 32, 48)"
ARRAY = (
    "failed: TypeError: sample 0: its image is of type ndarray; expected the bytes of an encoded "
    "image such as a PNG, or a pathlib.Path (FILE:61)"
)


def run(warm: Warm, broken: Path, data: Path, folder: Path, kind: str, case: str) -> Done:
    name = NAMES.get(kind, kind)
    given = () if kind == "dataset" else ("--dataset", f"folder:root={data}")
    more = ("--output-dir", "run", *given)
    return warm(*FLAGS[kind], f"{name}:case={case}", *more, cwd=folder, site=broken)


@pytest.mark.parametrize(
    ("kind", "case", "text"),
    [
        *((kind, "build", "build failed: OSError: no such thing (FILE:19)") for kind in FLAGS),
        (
            "architecture",
            "forward",
            "a dry run of the network failed: AttributeError: 'Network' object has no attribute "
            "'heads' (FILE:51)",
        ),
        ("dataset", "eager", f"build {ARRAY}"),
        ("dataset", "lazy", f"reading sample 0 {ARRAY}"),
        ("loss", "small", f"sum() of logits {SIZES} failed: RuntimeError: Size does not match "),
        ("loss", "vector", "sum() returned float32 (2,); expected a scalar tensor of a floating "),
        ("loss", "float", "sum() returned float; expected a scalar tensor of a floating dtype."),
        ("dataset", "many", 'the chances of its split "train" have the shape (2,); expected one '),
        ("dataset", "few", 'the chances of its split "train" must be finite numbers of at least'),
        ("loss", "zero", "count() returned 0.0 for labels with valid pixels; expected a positive"),
        ("loss", "detached", "sum() has no gradient for the logits, so it would train nothing; "),
        ("loss", "int", "count() returned int64 (); expected a scalar tensor of a floating dtype."),
    ],
)
def test_a_failure_is_one_paragraph(
    warm: Warm, broken: Path, data: Path, tmp_path: Path, kind: str, case: str, text: str
) -> None:
    done = run(warm, broken, data, tmp_path, kind, case)
    text = text.replace("FILE", f"{broken}/segacc_broken.py")
    name = f"{kind} {NAMES.get(kind, kind)}"
    assert done.stderr.startswith(f"segacc: plugin segacc-broken 1.0, {name}: {text}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    if "failed" in text:
        assert done.stderr.endswith("). SEGACC_TRACEBACK=1 shows the traceback.\n")
    assert not (tmp_path / "run").exists()


def test_the_traceback_can_be_shown(warm: Warm, broken: Path, data: Path, tmp_path: Path) -> None:
    given = ("--dataset", f"folder:root={data}", "--loss", "loss:case=build")
    done = warm(*TINY, *given, cwd=tmp_path, site=broken, SEGACC_TRACEBACK="1")
    trace, _, paragraph = done.stderr.rstrip().rpartition("\n")
    assert trace.startswith("Traceback (most recent call last):\n")
    assert trace.endswith("OSError: no such\nthing.")
    assert 'segacc_broken.py", line 19, in fail\n' in trace
    assert paragraph.startswith("segacc: plugin segacc-broken 1.0, loss loss: build failed: ")
    assert done.returncode == 2
