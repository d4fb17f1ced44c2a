"""`segacc export` and `segacc benchmark` on the command line: what is refused, and real weights."""

import json
from pathlib import Path

import pytest

from cli_tools import Warm, assert_refused, assert_succeeded

pytest_plugins = ["cli_fixtures"]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--half", "--int8", "x"), "--int8: excludes --half; give one of them."),
        (
            ("--format", "pt2", "--int8", "x"),
            "--int8: pt2 files are not quantized; torchao and ExecuTorch quantize them for each "
            "device. Leave it out, or give --format onnx or openvino.",
        ),
        (
            ("--output", "a.xml"),
            "--output: a.xml: a file of the format onnx ends in .onnx.",
        ),
        (
            (),
            "MODEL: model is in no run folder whose validation images could prove the file. Give "
            "real images with --images PATH, or a data set with --dataset NAME.",
        ),
        (
            ("--images", "photos", "--dataset", "nuclei"),
            "--images: give either images or a data set with --dataset.",
        ),
    ],
)
def test_what_is_refused(warm: Warm, flags: tuple[str, ...], text: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert_refused(warm("export", "model", *flags, cwd=tmp_path), text)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_runtime_is_for_files(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "a.png").write_bytes(b"")
    assert_refused(
        warm("predict", "model", "a.png", "--runtime", "openvino", cwd=tmp_path),
        "--runtime: model folders are run by torch, not openvino; `segacc export` writes a file "
        "for the others.",
    )


@pytest.mark.slow
def test_the_voc_network(warm: Warm, shared: Path, tmp_path: Path) -> None:
    model, streets = shared / "deeplabv3_mobilenet_v2_voc", shared / "camvid/images/val"
    given = ("--images", streets, "--num-images", "4", "--size", "360x480", "--protocol", "whole")
    done = assert_succeeded(
        warm("export", model, *given, "--output", "voc.onnx", cwd=tmp_path, OMP_NUM_THREADS="1")
    )
    assert "4 images: " in done.stdout and "written to voc.onnx" in done.stdout
    told = json.loads((tmp_path / "voc.onnx.json").read_text())
    assert told["passed"] and told["equal_pixels"] > 0.999 and told["num_images"] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["voc.onnx", "voc.onnx.json"]
    street = sorted(streets.iterdir())[0]
    assert_succeeded(warm("predict", "voc.onnx", street, cwd=tmp_path))
    done = assert_succeeded(
        warm("benchmark", "voc.onnx", "--images", street, "--rounds", "1", "--json", cwd=tmp_path)
    )
    (row,) = json.loads(done.stdout)["models"]
    assert row["runtime"] == "onnxruntime" and row["milliseconds"] > row["network_milliseconds"]
