"""Protocols on the command line: a preset is stored and told by name, and read again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cli_tools import SHORT, Warm, assert_succeeded, draw, write_data
from segacc.contracts import Facts
from segacc.errors import OptionError
from segacc.evaluation.predict import decide_batch
from segacc.evaluation.protocol import Protocol
from segacc.evaluation.segmenter import Segmenter, with_settings
from segacc.registry import load_registry
from segacc.settings.sources import flag

pytest_plugins = ["cli_fixtures"]

TYPED = "mmseg-ade20k:short_side=40,long_side=60,flip=true"
TEXT = f"{TYPED} (tta:scales=1,flip=true,short_side=40,long_side=60,antialias=false)"


@pytest.fixture(scope="module")
def preset(warm: Warm, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that is scored by a preset, in batches."""
    folder = tmp_path_factory.mktemp("preset") / "run"
    more = ("--protocol", TYPED, "--eval-batch-size", "2")
    given = ("--dataset", f"folder:root={data}", "--output-dir", folder, *more)
    assert_succeeded(warm(*SHORT, *given, cwd=folder.parent))
    return folder


def test_a_preset_is_stored_with_what_it_stands_for(preset: Path) -> None:
    stored = json.loads((preset / "best" / "segacc.json").read_text())
    assert stored["protocol"] == stored["terms"]["protocol"] == TEXT
    assert TEXT in (preset / "best" / "README.md").read_text()
    assert Segmenter.from_pretrained(preset / "best").protocol == Protocol.parse(TYPED, "-")


def test_evaluate_takes_the_stored_preset_and_says_so(
    warm: Warm, preset: Path, data: Path, tmp_path: Path
) -> None:
    given = ("--dataset", f"folder:root={data}", "--num-workers", "0", "--output-dir", "out")
    done = assert_succeeded(warm("evaluate", preset / "best", *given, cwd=tmp_path))
    assert f"protocol {TEXT}" in done.stdout
    found: dict[str, Any] = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["protocol"] == TEXT
    stored = json.loads((preset / "best" / "segacc.json").read_text())
    assert found["scores"]["mean_iou"] == pytest.approx(stored["scores"]["mean_iou"], rel=1e-3)


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network for two classes, and data with them."""
    folder = tmp_path_factory.mktemp("binary")
    write_data(folder / "data", names=("background", "disc"), counts={"validation": 3})
    for path in (folder / "data" / "annotations" / "validation").iterdir():
        Image.fromarray((np.asarray(Image.open(path)) == 1).astype(np.uint8)).save(path)
    record = load_registry().find("architecture", "segformer", "this test")
    facts = Facts(num_classes=2, class_names=("background", "disc"))
    torch.manual_seed(0)
    network = record.build(record.tiny(), facts)
    (folder / "model").mkdir()
    state = network.network.state_dict()
    network.save_pretrained(folder / "model", names=facts.class_names, state_dict=state)
    return folder


def test_a_threshold_decides_between_two_classes(warm: Warm, binary: Path) -> None:
    segmenter = Segmenter.from_pretrained(binary / "model", "cpu")
    folder = binary / "data" / "images" / "validation"
    pictures = sorted(folder.iterdir())
    shares = {path: segmenter.probabilities(path)[1] for path in pictures}
    threshold = round(float(np.median(np.concatenate([*shares.values()]))), 7)
    given = ("--threshold", threshold, "--output-dir", "out")
    told = f"protocol whole:threshold={threshold}"
    more = ("--dataset", "folder:root=data", "--verify", "2", "--metric", "mean_iou")
    done = assert_succeeded(warm("evaluate", "model", *given, *more, cwd=binary))
    assert told in done.stdout and "verified on 2 images" in done.stdout
    report = json.loads((binary / "out" / "evaluation.json").read_text())
    assert report["protocol"] == f"whole:threshold={threshold}"
    assert_succeeded(warm("predict", "model", folder, *given, cwd=binary))
    cut, second = segmenter.with_threshold(threshold), 0
    for path, share in shares.items():
        wanted = share > threshold
        assert (cut(path) != wanted).mean() < 1e-3
        assert np.array_equal(np.asarray(Image.open(binary / "out" / path.name)), cut(path))
        second += wanted.sum()
    assert 0.45 < second / sum(share.size for share in shares.values()) < 0.55
    assert np.array_equal(segmenter.with_threshold(0.5)(path), segmenter(path))


def test_a_threshold_that_cannot_be_is_refused(warm: Warm, binary: Path, trained: Path) -> None:
    image = next((binary / "data" / "images" / "validation").iterdir())
    done = warm("predict", trained / "best", image, "--threshold", "0.3", cwd=binary)
    assert (done.returncode, done.stderr) == (
        2,
        "segacc: --threshold: a threshold of 0.3 needs 2 classes, but there are 3 classes "
        "(background, disc, bar). With more classes the most probable one is predicted; leave it "
        "out.\n",
    )
    done = warm("predict", binary / "model", image, "--threshold", "30", cwd=binary)
    assert "--threshold: expected a number > 0 and < 1; found '30'." in done.stderr
    two, three = (Segmenter.from_pretrained(one, "cpu") for one in (binary / "model", trained))
    for refused, told in (
        (
            lambda: with_settings(two, "whole:threshold=0.2", 0.3, flag),
            "--threshold: --protocol has threshold=0.2, too; leave one of them out.",
        ),
        (
            lambda: with_settings(three, "whole:threshold=0.2", None, flag),
            "--protocol: a threshold of 0.2 needs 2 classes, but ",
        ),
        (lambda: two.with_threshold(1.0), "Segmenter: expected a probability > 0 and < 1 above "),
        (lambda: three.with_threshold(0.3), "Segmenter: a threshold of 0.3 needs 2 classes, but "),
    ):
        with pytest.raises(OptionError) as error:
            refused()
        assert str(error.value).startswith(told)


def test_predict_takes_the_mean_of_several_looks(warm: Warm, trained: Path, tmp_path: Path) -> None:
    picture, protocol = tmp_path / "one.png", "tta:scales=0.75/1/1.5,crop=32,blend=gaussian"
    Image.fromarray(draw((1, 2), (61, 83))[0]).save(picture)
    given = ("predict", trained / "best", picture, "--protocol", protocol)
    assert_succeeded(warm(*given, cwd=tmp_path))
    segmenter = Segmenter.from_pretrained(trained / "best", "cpu")
    image = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)[None]
    network = segmenter.network
    found = decide_batch(network, network, image, Protocol.parse(protocol, "-")).classes[0]
    raw = segmenter.labels.restore(found.numpy())
    written = np.asarray(Image.open(tmp_path / "predictions" / "one.png"))
    assert (written != raw).mean() < 1e-3 and len(np.unique(raw)) > 1
