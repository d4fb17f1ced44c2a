"""Weights and folders from strangers: no code of theirs runs, and one paragraph says why not."""

import json
import os
import pickle
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cli_tools import TINY, Warm, assert_refused, environment
from data_tools import tiny_segformer
from segacc.errors import WeightsError
from segacc.model import hub

pytest_plugins = ["cli_fixtures"]

PICKLE = "a pickle with other objects than tensors; loading it could run code, so it is refused."


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def folder_of(place: Path) -> Path:
    """Save a tiny SegFormer without its weights."""
    model = tiny_segformer()
    place.mkdir()
    model.save_pretrained(place, names=["a", "b", "c"], state_dict=model.state_dict())
    (place / "model.safetensors").unlink()
    return place


def zipped(path: Path, content: Any) -> None:
    torch.save({"a": content}, path)


def old(path: Path, content: Any) -> None:
    torch.save({"a": content}, path, _use_new_zipfile_serialization=False)


def raw(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content, 2))


def shards(path: Path, content: Any) -> None:
    part = path.with_name("pytorch_model-00001-of-00001.bin")
    torch.save({"a": content}, part)
    names = dict.fromkeys(tiny_segformer().network.state_dict(), part.name)
    index = {"metadata": {}, "weight_map": names}
    path.with_name("pytorch_model.bin.index.json").write_text(json.dumps(index))


def test_the_code_would_run(tmp_path: Path) -> None:
    zipped(tmp_path / "a.bin", Code(tmp_path / "ran"))
    torch.load(tmp_path / "a.bin", weights_only=False)
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("write", [zipped, old, raw, shards])
def test_a_pickle_of_more_than_tensors_is_refused(
    tmp_path: Path, write: Callable[[Path, Any], None]
) -> None:
    folder = folder_of(tmp_path / "theirs")
    write(folder / "pytorch_model.bin", Code(tmp_path / "ran"))
    with pytest.raises(WeightsError) as error:
        tiny_segformer().load_weights(str(folder))
    assert str(error.value) == f"{folder}: the weights are {PICKLE} Save them as model.safetensors."
    assert not (tmp_path / "ran").exists()


def test_every_command_that_loads_weights_refuses_it(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    folder, more = folder_of(tmp_path / "theirs"), ("--dataset", f"folder:root={data}")
    zipped(folder / "pytorch_model.bin", Code(tmp_path / "ran"))
    flags = [*TINY[:2], "--weights", folder, *TINY[4:]]
    picture = data / "images" / "train" / "train0.png"
    for command in (
        (*flags, *more, "--output-dir", "out"),
        ("evaluate", folder, *more, "--output-dir", "out"),
        ("predict", folder, picture, "--output-dir", "out"),
    ):
        done = warm(*command, cwd=tmp_path)
        assert_refused(done, f"{folder}: the weights are {PICKLE} Save them as model.safetensors.")
    assert not (tmp_path / "ran").exists()


def test_the_code_in_a_file_of_weights_is_not_run(warm: Warm, data: Path, tmp_path: Path) -> None:
    zipped(tmp_path / "theirs.pth", Code(tmp_path / "ran"))
    given = (*TINY[:2], *TINY[4:], "--dataset", f"folder:root={data}")
    done = warm(*given, "--weights", "theirs.pth", cwd=tmp_path)
    assert_refused(
        done,
        "theirs.pth: contains other objects than tensors (posix.mkdir), which could run code when "
        "loaded, so it is refused. Save the weights alone, in the program that wrote the file or "
        "with the packages that it needs: torch.save(model.state_dict(), 'weights.pth').",
    )
    for command in ("evaluate", "predict"):
        pictures = (data / "images" / "train", "--output-dir", "out")
        more = given[-2:] if command == "evaluate" else pictures
        done = warm(command, "theirs.pth", *more, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert done.stderr.startswith("segacc: ") and "theirs.pth" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [b"", b"hello", pickle.dumps([1, 2], 2), b"PK\x03\x04 cut"], ids=range(4)
)
def test_damaged_weights_are_one_paragraph(tmp_path: Path, content: bytes) -> None:
    folder = folder_of(tmp_path / "theirs")
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(WeightsError) as error:
        tiny_segformer().load_weights(str(folder))
    text = str(error.value)
    assert text.startswith(f"{folder}: the weights ") and "\n" not in text


@pytest.mark.parametrize("write", [zipped, old, raw])
def test_torchs_cache_is_no_way_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, Any], None]
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = "torchvision:fcn_resnet50"
    place = tmp_path / "hub" / "checkpoints" / Path(hub.published(name).url).name
    place.parent.mkdir(parents=True)
    write(place, Code(tmp_path / "ran"))
    with pytest.raises(WeightsError) as error:
        hub.fetch(name)
    assert str(error.value).endswith(
        f": {place} contains other objects than tensors, which could run code when loaded. "
        "Delete it to download it again."
    )
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------ code of a folder's own


@pytest.fixture
def coded(trained: Path, tmp_path: Path) -> Path:
    """Copy a trained network with code beside that leaves a mark, as a folder of transformers."""
    folder = tmp_path / "coded"
    shutil.copytree(trained / "best", folder)
    (folder / "segacc.json").unlink()
    ran = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    (folder / "own.py").write_text(f"{ran}class Own: pass\n")
    return folder


def told(path: Path, **values: Any) -> None:
    found = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**found, **values}))


NAMES = {
    **{"AutoConfig": "own.Own", "AutoImageProcessor": "own.Own"},
    **{"AutoModel": "own.Own", "AutoModelForSemanticSegmentation": "own.Own"},
}


def on_terminal(folder: Path, *arguments: object) -> tuple[int, str]:
    """Run segacc with all its streams on a terminal on which somebody would type y."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "segacc", *map(str, arguments)],
        cwd=folder,
        env=environment(),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    os.write(master, b"y\ny\ny\n")
    seen = bytearray()
    try:
        while part := os.read(master, 4096):
            seen += part
    except OSError:  # nobody holds the other side any more
        pass
    code = process.wait(60)
    os.close(master)
    return code, " ".join(seen.decode(errors="replace").split())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="a terminal behaves otherwise there")
def test_nobody_is_asked_to_run_a_processor(coded: Path, data: Path, tmp_path: Path) -> None:
    for file in ("preprocessor_config.json", "config.json"):
        told(coded / file, auto_map=NAMES)
    told(coded / "preprocessor_config.json", image_processor_type="Own")
    picture = data / "images" / "train" / "train0.png"
    code, seen = on_terminal(tmp_path, "predict", coded, picture, "--output-dir", "out")
    assert code == 2 and "[y/N]" not in seen, seen
    assert seen.endswith(
        f"segacc: {coded}: the image processor is custom code (auto_map in "
        "preprocessor_config.json), which is not run. Replace it with one of transformers, such as "
        "SegformerImageProcessor, or remove the file."
    )
    assert not (tmp_path / "ran").exists()


def test_a_network_that_segacc_knows_is_read_without_the_code_beside(
    warm: Warm, coded: Path, data: Path, tmp_path: Path
) -> None:
    told(coded / "config.json", auto_map=NAMES)
    done = warm("predict", coded, data / "images" / "train", "--output-dir", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    flags = [*TINY[4:], "--weights", coded, "--dataset", f"folder:root={data}"]
    done = warm(*flags, "--output-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_network_of_its_own_is_refused(
    warm: Warm, coded: Path, data: Path, tmp_path: Path
) -> None:
    told(coded / "config.json", auto_map=NAMES, model_type="own")
    done = warm("predict", coded, data / "images" / "train", "--output-dir", "out", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"segacc: {coded}: the model type own is not a segmentation ")
    assert not (tmp_path / "ran").exists()


def test_a_data_set_that_is_a_script_is_not_run(warm: Warm, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n\nclass Theirs(GeneratorBasedBuilder): pass\n"
    (folder / "theirs.py").write_text(code)
    done = warm(*TINY, "--dataset", f"hub:path={folder}", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "is a script (theirs.py), which datasets no longer runs" in done.stderr
    assert not (tmp_path / "ran").exists()
