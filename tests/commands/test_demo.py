"""`segacc demo`: a page of this machine on which pictures are segmented."""

import re
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from cli_tools import Warm, assert_refused
from segacc.commands.demo import example_files, refuse_used, shown
from segacc.errors import OptionError
from segacc.evaluation.model_folder import find_model
from segacc.evaluation.segmenter import Segmenter
from segacc.labels import LabelMap

pytest_plugins = ["cli_fixtures"]

MISSING = "segacc demo: the package gradio is not installed. Install it with `pip install gradio`."


def test_without_gradio_it_is_refused(warm: Warm, tmp_path: Path) -> None:
    if find_spec("gradio"):
        pytest.skip("gradio is installed here")
    assert_refused(warm("demo", "runs/gone", cwd=tmp_path), MISSING)


def test_a_port_in_use_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OptionError) as refusal:
            refuse_used(port)
    assert str(refusal.value) == (
        f"--port: port {port} of 127.0.0.1 cannot be used: address already in use. Give another "
        f"one, as --port {port + 1}."
    )


def test_a_picture_becomes_layers_and_a_legend(trained: Path, data: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.from_pretrained(trained, "cpu")
    picture = data / "images/validation/validation0.png"
    page = shown(segmenter, str(picture))
    assert page.count('<img src="data:image/') == 2
    assert re.search(r"[\d,]+ ms on cpu, 64 x 48 pixels", page)
    shares = {
        name: float(share) for name, share in re.findall(r"</span>(\w+)</td><td>([\d.]+) %", page)
    }
    classes = segmenter(picture)
    for k, name in enumerate(segmenter.labels.names):
        assert shares.pop(name, 0) == pytest.approx(100 * (classes == k).mean(), abs=0.06)
    assert not shares
    segmenter.labels = LabelMap.plain(["<script>", "b\x1b", "c"])
    assert "<script>" not in shown(segmenter, str(picture))


def test_a_bad_picture_is_a_message(trained: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.from_pretrained(trained, "cpu")
    (tmp_path / "notes.png").write_text("no picture")
    Image.new("1", (20001, 10000)).save(tmp_path / "large.png")
    for name, told in (("notes.png", "notes.png"), ("large.png", "200010000 pixels")):
        page = shown(segmenter, str(tmp_path / name))
        assert page.startswith('<p class="seg-error" role="alert">') and told in page, page


def test_examples_are_from_the_runs_validation_split(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    files = example_files(find_model(str(trained), "MODEL"), tmp_path / "examples")
    assert [path.name for path in files] == [f"{k}-validation{k}.png" for k in range(3)]
    first = data / "images/validation/validation0.png"
    assert files[0].read_bytes() == first.read_bytes()
