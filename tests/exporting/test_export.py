"""Exported files: what they predict, what they say of themselves, and the proof."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch import nn

import segacc
from segacc.contracts import Facts
from segacc.errors import OptionError, SegaccError, WeightsError
from segacc.evaluation.protocol import Protocol
from segacc.evaluation.segmenter import Segmenter
from segacc.exporting.build import planned
from segacc.exporting.gate import Picture, compare
from segacc.labels import LabelMap
from segacc.model import Logits, SegmentationModel, SizeRule
from segacc.model.exported import SUFFIXES
from segacc.settings.commands import ExportConfig
from segacc.testing.tools import some_images

FACTS = Facts(num_classes=3, class_names=("road", "tree", "sky"), crop_size=(40, 48))
SIZES = ((40, 48), (61, 83), (96, 33))


class Plain(SegmentationModel):
    """Two convolutions; it takes BGR, and multiples of 4."""

    channel_order = "bgr"
    size_rule = SizeRule(multiple=4)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 3, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> Logits:
        return Logits(self.body(images))


def segmenter(protocol: str = "whole:pad=4") -> Segmenter:
    """Build the network in torch."""
    labels = LabelMap(FACTS.class_names, {7: 0, 8: 1, 9: 2, 255: 255}, ((9, 9, 9),) * 3)
    return Segmenter(Plain(), labels, Protocol.parse(protocol, "test"), arch="plain")


def exported(folder: Path, under: str = "whole:pad=4", **settings: Any) -> Path:
    """Write a file."""
    config = ExportConfig(**settings)
    told = planned(segmenter(under), {"step": 7}, asdict(FACTS), config, flag, "test")
    return told.write(folder, f"network{SUFFIXES[config.format]}", images())


def flag(name: str) -> str:
    return f"--{name}"


def images() -> list[torch.Tensor]:
    return [some_images(size, count=1, seed=7)[0] for size in SIZES]


def proof_of(path: Path, precision: str = "float32", protocol: str = "whole:pad=4") -> Any:
    pictures = [Picture(str(number), one) for number, one in enumerate(images())]
    return compare(pictures, segmenter(protocol), Segmenter.from_pretrained(path, "cpu"), precision)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("classes"), argmax=True)


def test_a_file_predicts_what_the_network_does(onnx: Path) -> None:
    proof = proof_of(onnx)
    assert proof.equal == 1 and not proof.failure
    assert proof.worst.largest > 0 and max(one.gap for one in proof.images) < 1e-5
    under = Protocol.parse("tta:scales=0.5/1,pad=4", "test")
    mine, theirs = (one.with_protocol(under) for one in (segmenter(), opened(onnx)))
    for image in images():
        assert (mine(image) == theirs(image)).mean() > 0.999
        np.testing.assert_allclose(
            mine.probabilities(image), theirs.probabilities(image), atol=1e-5
        )


def opened(path: Path, **more: Any) -> Segmenter:
    return Segmenter.from_pretrained(path, "cpu", **more)


def test_openvino_runs_it_too(onnx: Path) -> None:
    mine, theirs = segmenter(), opened(onnx, runtime="openvino")
    assert all((mine(image) == theirs(image)).mean() > 0.999 for image in images())


def test_a_file_is_complete(onnx: Path) -> None:
    one = opened(onnx)
    assert one.labels == segmenter().labels and one.protocol == segmenter().protocol
    assert one.network.size_rule == Plain.size_rule and one.arch == "plain"
    assert "Segmenter(plain, 3 classes (road, tree, sky), protocol whole:pad=4" in repr(one)


def test_the_code_in_the_docs_runs_without_segacc(
    onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    assert "segacc " not in code and "import segacc" not in code
    image = images()[0]
    monkeypatch.chdir(tmp_path)
    Path("best.onnx").symlink_to(onnx)
    PILImage.fromarray(image.permute(1, 2, 0).numpy()).save("photo.jpg", "PNG")
    found: dict[str, Any] = {}
    exec(code, found)
    logits = torch.from_numpy(found["logits"])
    resized = torch.nn.functional.interpolate(logits, image.shape[1:], mode="bilinear")
    assert (resized.argmax(1)[0].numpy() == segmenter()(image)).all()
    named = [name for k, name in enumerate(FACTS.class_names) if (logits.argmax(1) == k).any()]
    assert capsys.readouterr().out == f"{named}\n" and found["about"]["step"] == 7


def test_a_file_of_classes(classes: Path) -> None:
    proof = proof_of(classes)
    assert not proof.failure, proof.failure
    one = opened(classes)
    assert one.protocol == Protocol() and one.network.one_hot
    for call in (
        lambda: one.probabilities(images()[0]),
        lambda: one.with_protocol(Protocol(flip=True)),
        lambda: one.with_protocol(Protocol(size=(8, 8))),
    ):
        with pytest.raises(OptionError, match="returns the class of each pixel and no logits"):
            call()


def test_pt2_of_one_size_slides(tmp_path: Path) -> None:
    path = exported(tmp_path, format="pt2", size=(40, 48), input="float32")
    one = opened(path)
    assert one.protocol.text() == "slide:crop=40x48,stride=27x32"
    assert one.network.size_rule.fixed == (40, 48)
    assert proof_of(path, protocol=one.protocol.text()).equal == 1


def test_another_network_fails(onnx: Path) -> None:
    other = segmenter()
    with torch.no_grad():
        other.network.body[2].bias += torch.tensor([0.3, 0.0, 0.0])
    pictures = [Picture("street", images()[1])]
    proof = compare(pictures, other, opened(onnx), "float32")
    assert proof.equal < 0.999 and not proof.to_dict()["passed"]
    assert "The worst image is street (61x83, " in proof.failure
    assert "logits differ by up to 0.3" in proof.failure
    assert not compare(pictures, other, opened(onnx), "int8").failure  # only reported


@pytest.mark.parametrize(
    ("settings", "protocol", "text"),
    [
        ({"size": (41, 48)}, "whole", "--size: 41x48: the network supports only multiples of 4"),
        ({"argmax": True}, "slide:crop=40", "--argmax: the protocol slide:crop=40,stride=27 needs"),
        ({"argmax": True}, "tta:scales=0.5/1", "needs several passes of the network"),
        ({"argmax": True}, "whole:short_side=40,pad=4", "Give one size with --size HEIGHTxWIDTH"),
        ({"argmax": True, "format": "pt2"}, "whole:pad=4", "cannot be padded in a pt2 file as"),
    ],
)
def test_what_cannot_be(settings: dict[str, Any], protocol: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(SegaccError) as caught:
        exported(tmp_path, protocol, **settings)
    assert text in str(caught.value) and not list(tmp_path.iterdir())


def test_what_is_declared_is_refused(tmp_path: Path) -> None:
    one = segmenter()
    one.network.no_export = "it plays dice"
    with pytest.raises(WeightsError, match="plain cannot be exported: it plays dice"):
        planned(one, {}, asdict(FACTS), ExportConfig(), flag, "test")
    one.network.no_export, one.network.one_size = "", "it counts"
    told = planned(one, {}, asdict(FACTS), ExportConfig(), flag, "test")
    assert told.size == (40, 48) and "(it counts)" in told.notes[0]
    with pytest.raises(OptionError, match="Give a size, such as 40x48"):
        planned(one, {}, asdict(FACTS), ExportConfig(size="dynamic"), flag, "test")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.onnx", b"no", "cannot be read: "),
        ("a.pt2", b"no", "cannot be read: "),
        ("a.xml", b"<net/>", "has no description of its classes"),
    ],
)
def test_other_files_are_refused(name: str, content: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=text):
        opened(tmp_path / name)


def test_a_runtime_that_cannot(onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match=r"\.onnx files are run by onnxruntime or openvino, not t"
    ):
        opened(onnx, runtime="torch")


@pytest.mark.slow
def test_quantized_and_half(tmp_path: Path) -> None:
    for name, more in (("int8", {"int8": Path("x")}), ("half", {"half": True})):
        (tmp_path / name).mkdir()
        path = exported(tmp_path / name, **more)
        proof = proof_of(path, name)
        assert proof.equal > 0.9 and not proof.failure
        assert [file.name for file in path.parent.iterdir()] == ["network.onnx"]
        assert opened(path).network.precision == name


def test_the_rule_of_sizes_is_that_of_the_network(onnx: Path) -> None:
    with pytest.raises(OptionError, match="Use --protocol whole:pad=4"):
        opened(onnx).with_protocol(Protocol())(images()[1])
    assert replace(Plain.size_rule) == opened(onnx).network.size_rule


def test_files_are_measured(onnx: Path, classes: Path, tmp_path: Path) -> None:
    for number, image in enumerate(images()):
        pixels = image.permute(1, 2, 0).numpy()
        PILImage.fromarray(pixels).save(tmp_path / f"{number}.png")
    found = segacc.benchmark(onnx, classes, images=str(tmp_path), rounds=2, threads=1)
    first, second = found.rows
    assert (first.model, first.runtime, first.precision) == (str(onnx), "onnxruntime", "float32")
    assert first.milliseconds > first.network_milliseconds > 0
    assert first.images_per_second == pytest.approx(1000 / first.milliseconds)
    assert first.file_mebibytes == onnx.stat().st_size / 2**20 and first.mean_iou is None
    lines = str(found).splitlines()
    assert lines[0] == f"3 images of 3 images of {tmp_path}, 2 rounds, 1 threads, on cpu"
    assert lines[1].split()[:3] == ["model", "runtime", "precision"]
    assert lines[1].endswith("protocol") and lines[2].endswith("whole:pad=4")
    assert lines[3].endswith("whole") and second.protocol == "whole"
