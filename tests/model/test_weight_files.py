"""Single files of weights: what a training loop stores beside them, damage, and code."""

import copy
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cli_tools import TINY, Warm, assert_refused, assert_succeeded
from data_tools import tiny_segformer
from network_tools import records, small_network
from segacc.errors import WeightsError
from segacc.model.hub import weight_file
from segacc.model.weight_files.reading import read_file

pytest_plugins = ["cli_fixtures"]

MODULE = "mmengine.logging.history_buffer"
STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}


class HistoryBuffer:
    """As mmengine's is pickled: numpy arrays, and methods of the class."""

    def __init__(self) -> None:
        self._log_history = np.array([1.0, 2.0])
        self._count = np.float64(3.0)
        self._statistics_methods = {"min": HistoryBuffer.least}

    def least(self) -> float:
        return float(self._log_history.min())


def test_a_checkpoint_of_mmengine_is_read_without_building_its_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(HistoryBuffer, "__module__", MODULE)
        for name in ("mmengine", "mmengine.logging", MODULE):
            patch.setitem(sys.modules, name, ModuleType(name))
        patch.setattr(sys.modules[MODULE], "HistoryBuffer", HistoryBuffer, raising=False)
        logs = {"log_scalars": {"train/loss": HistoryBuffer()}, "resumed_keys": {"train/loss": 1}}
        meta = {"dataset_meta": {"classes": ("a", "b")}, "epoch": 1}
        content = {"meta": meta, "state_dict": STATE, "message_hub": logs, "optimizer": {"lr": 1.0}}
        torch.save(content, tmp_path / "epoch_1.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    found = read_file(tmp_path / "epoch_1.pth")
    assert found.class_names == ("a", "b")
    assert found.tensors.keys() == STATE.keys()
    assert all(torch.equal(found.tensors[name], one) for name, one in STATE.items())
    assert MODULE not in sys.modules


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (STATE, ()),
        ({"state_dict": {f"module.{name}": one for name, one in STATE.items()}}, ()),
        ({"model_state_dict": STATE, "step": 3}, ()),
        ({"state_dict": STATE, "meta": {"CLASSES": ["a", "b"], "PALETTE": None}}, ("a", "b")),
        ({"state_dict": STATE, "meta": {"CLASSES": [1, 2]}}, ()),
        (
            {
                "pytorch-lightning_version": "2.5",
                "state_dict": {f"model.{name}": one for name, one in STATE.items()},
            },
            (),
        ),
    ],
)
def test_the_weights_of_a_checkpoint_are_found(
    tmp_path: Path, content: Any, names: tuple[str, ...]
) -> None:
    for old in (False, True):
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
        found = read_file(tmp_path / "a.pth")
        assert (found.tensors.keys(), found.class_names) == (STATE.keys(), names)
        assert torch.equal(found.tensors["a.weight"], STATE["a.weight"])


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    assert read_file(tmp_path / "a.safetensors").tensors.keys() == STATE.keys()
    assert weight_file(str(tmp_path / "a.safetensors"), "--weights")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="is a file; give the folder that holds it"):
        weight_file(str(tmp_path / "a.safetensors"), "--weights")


@pytest.mark.parametrize("name", [*sorted(records()), "upernet:swin"])
def test_the_file_of_a_saved_model_is_loaded_whole(name: str, tmp_path: Path) -> None:
    """Transformers writes other names into it than those in memory."""
    subject, network = small_network(name)
    state, names = network.state_dict(), subject.facts.class_names
    network.save_pretrained(tmp_path, names=names, state_dict=state)
    again = subject.build(seed=2)
    report = again.load_file(tmp_path / "model.safetensors", class_names=names)
    assert not report.new and not report.dropped
    assert all(torch.equal(one, state[key]) for key, one in again.state_dict().items())


@pytest.mark.parametrize("name", ["upernet:swin", "mask2former"])
def test_swin_of_other_windows(name: str, tmp_path: Path) -> None:
    """From a folder as from a file: the bias tables are resized as BEiT's."""
    subject, network = small_network(name)
    names = subject.facts.class_names
    network.save_pretrained(tmp_path, names=names, state_dict=network.state_dict())
    config = copy.deepcopy(network.network.config)
    config.backbone_config.window_size += 3
    wide = type(network.network)(config)
    torch.manual_seed(0)
    for key, one in wide.named_parameters():
        if key.endswith("relative_position_bias_table"):
            torch.nn.init.normal_(one)
    wide.save_pretrained(tmp_path)
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    folder, file = (subject.build(seed=seed) for seed in (2, 3))
    told = folder.load_weights(str(tmp_path), class_names=names)
    assert told.resized == file.load_file(tmp_path / "wide.pth", class_names=names).resized
    assert told.resized and all(one.endswith("bias_table") for one in told.resized)
    theirs = file.state_dict()
    for key, one in folder.state_dict().items():
        if key.endswith("relative_position_bias_table"):
            assert torch.equal(one, theirs[key]) and one.std() > 0.1


def compressed(path: Path) -> None:
    torch.save(STATE, path.with_suffix(".plain"))
    source = zipfile.ZipFile(path.with_suffix(".plain"))
    with source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda path: path.write_bytes(b""), "cannot be read as weights of torch.save or"),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut"), "cannot be read as weights of"),
        (lambda path: torch.save([1, 2], path), "contains no tensors by name, neither at its top"),
        (lambda path: torch.save({"meta": {}}, path), "contains no tensors by name, neither at"),
        (compressed, "is a compressed zip file, which torch.save does not write."),
        (
            lambda path: torch.save({"a": torch.ones(1).expand(10**12)}, path),
            "a is a sparse, quantized or expanded tensor, which is not supported.",
        ),
        (
            lambda path: torch.save({"a": torch.eye(3).to_sparse()}, path),
            "a is a sparse, quantized or expanded tensor, which is not supported.",
        ),
        (
            lambda path: torch.save({"a": torch.ones(1), "b": Path("x")}, path),
            "contains other objects than tensors (pathlib",
        ),
    ],
)
def test_what_is_no_file_of_weights_is_refused(
    tmp_path: Path, write: Callable[[Path], Any], text: str
) -> None:
    write(tmp_path / "a.pth")
    with pytest.raises(WeightsError) as error:
        read_file(tmp_path / "a.pth")
    assert str(error.value).startswith(f"{tmp_path / 'a.pth'}: {text}")
    assert "\n" not in str(error.value)


def test_a_run_starts_from_a_file(warm: Warm, data: Path, tmp_path: Path) -> None:
    state = tiny_segformer(2).network.state_dict()
    torch.save({"state_dict": state, "meta": {"CLASSES": ["sky", "no"]}}, tmp_path / "a.pth")
    dataset = ("--dataset", f"folder:root={data}", "--output-dir", "run")
    given = (*TINY[4:], "--weights", "a.pth", *dataset)
    assert_refused(
        warm(*given, cwd=tmp_path),
        "--weights: a.pth is a file of weights, which does not describe its network. Add the "
        "architecture and its size, as --arch segformer:variant=b2.",
    )
    done = warm(*given, *TINY[:2], cwd=tmp_path)
    assert_succeeded(done)
    assert f"weights: a.pth: {len(state) - 2} tensors loaded" in done.stdout
