"""After `import segacc`, transformers' Auto classes read segacc's own networks: whole processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_tools import facts
from launches import ROOT
from segacc.plugins.architectures.torchvision_networks import LRASPPOptions, build

LOAD = """
from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation
def load():
    assert AutoConfig.from_pretrained(folder).model_type == "segacc_lraspp"
    auto = AutoModelForSemanticSegmentation
    network, info = auto.from_pretrained(folder, output_loading_info=True)
    assert type(network).__name__ == "LRASPPForSemanticSegmentation" and not any(info.values())
    processor = AutoImageProcessor.from_pretrained(folder)
    assert type(processor).__name__ == "SegformerImageProcessor"
"""
HEAVY = {  # each in a process that imports transformers, which takes seconds
    "segacc first": f"""
import segacc
{LOAD}
load()
from transformers import pipeline
from PIL import Image
found = pipeline("image-segmentation", model=folder)(Image.new("RGB", (50, 40), "red"))
assert {{one["label"] for one in found}} <= {{"sky", "road", "car"}} and found
assert all(one["mask"].size == (50, 40) for one in found)

import importlib
importlib.reload(segacc)
segacc.model.auto.install()
assert sys.meta_path.count(segacc.model.auto.Finder) == 1
load()
""",
    "a network of transformers after segacc": f"""
import segacc
from transformers import SegformerForSemanticSegmentation
{LOAD}
load()
assert "segacc.model.networks.pidnet" not in sys.modules
from segacc.model.auto import NETWORKS
from transformers.models.auto import modeling_auto
for network, *mappings in NETWORKS.values():
    for name in mappings:
        found = getattr(modeling_auto, name)._extra_content.values()
        assert network.split(".")[1] in {{one.__name__ for one in found}}
""",
    "transformers first": f"""
{LOAD}
try:
    load()
except ValueError as error:
    assert "model type `segacc_lraspp`" in str(error)
else:
    raise AssertionError
import segacc
load()
""",
    "lazy transformers first": f"""
import transformers
import segacc
transformers.PreTrainedModel  # it brings the table of configs while it is itself not yet there
transformers.Trainer
{LOAD}
load()
""",
    "half of transformers first": f"""
import importlib, inspect
from transformers import AutoConfig
assert "transformers.models.auto.modeling_auto" not in sys.modules
import segacc
{LOAD}
load()
name = "transformers.models.auto.configuration_auto"
table = importlib.reload(sys.modules[name])
assert table.CONFIG_MAPPING["segacc_fcn"].model_type == "segacc_fcn"
assert table.__spec__.name == name and table.__file__ == table.__spec__.origin
assert type(table.__loader__).__name__ == "SourceFileLoader"
assert "class AutoConfig" in inspect.getsource(table)
assert importlib.util.find_spec("transformers.models.auto.nothing") is None
""",
}


FORKS = """
import json, os, sys, traceback
import torch, torchvision  # once for all; neither transformers nor segacc

for name, code in json.loads(sys.argv[1]).items():
    child = os.fork()
    if not child:
        try:
            exec(code, {"sys": sys, "folder": sys.argv[2]})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
    assert not {"segacc", "transformers"} & {*sys.modules}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("saved")
    model = build("lraspp", LRASPPOptions(backbone="tiny"), facts(3))
    model.save_pretrained(path, names=["sky", "road", "car"], state_dict=model.state_dict())
    return path


def start(code: str, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys\n{code}", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def succeed(process: "subprocess.Popen[str]") -> str:
    told, _ = process.communicate(timeout=180)
    assert process.returncode == 0, told
    return told


@pytest.mark.slow
def test_either_may_be_imported_first(folder: Path) -> None:
    told = succeed(start(FORKS, folder, json.dumps(HEAVY), str(folder)))
    assert "not supported" not in told  # by the pipeline


def test_segacc_itself_stays_light(folder: Path) -> None:
    code = """
import segacc
assert not {"torch", "torchvision", "transformers"} & {name.split(".")[0] for name in sys.modules}
assert sys.meta_path.count(segacc.model.auto.Finder) == 1
"""
    succeed(start(code, folder))


@pytest.mark.slow
def test_a_network_imports_no_other_network_of_transformers(folder: Path) -> None:
    code = """
from contextlib import nullcontext
from segacc.commands.plugins.datasheet import construct
from segacc.registry import load_registry
from segacc.settings.options import decode
record = load_registry().offer("architecture", "segformer", "test").record
construct(record, decode(record.options, {}, "test"), nullcontext(), size=(64, 64))
models = [name.split(".")[2] for name in sys.modules if name.startswith("transformers.models.")]
assert set(models) == {"auto", "encoder_decoder", "segformer"}, models
"""
    succeed(start(code, folder))


def test_a_failing_import_passes_its_own_error_on(folder: Path, tmp_path: Path) -> None:
    auto = tmp_path / "transformers" / "models" / "auto"
    auto.mkdir(parents=True)
    for package in (auto, auto.parent, auto.parent.parent):
        (package / "__init__.py").touch()
    (auto / "configuration_auto.py").write_text("import that_is_not_there\n")
    code = f"""
import segacc
sys.path.insert(0, {str(tmp_path)!r})
for _ in range(2):
    try:
        import transformers.models.auto.configuration_auto
    except ModuleNotFoundError as error:
        assert error.name == "that_is_not_there"
    else:
        raise AssertionError
    assert "transformers.models.auto.configuration_auto" not in sys.modules
try:
    import transformers.models.auto.modeling_auto
except ModuleNotFoundError as error:
    assert error.name == "transformers.models.auto.modeling_auto"
else:
    raise AssertionError
"""
    succeed(start(code, folder))
