"""docs/tutorial.md and docs/tutorial.ipynb run on a stand-in of ADE20K, with smaller numbers."""

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli_tools import ROOT, Warm, assert_succeeded, environment, metrics
from known_data import save
from segacc.plugins.datasets.files import table
from segacc.registry import load_registry
from segacc.settings.recipes import read_recipe
from segacc.settings.sources import Layer
from segacc.training.plan import Plan, make_plan

pytest_plugins = ["cli_fixtures"]

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
NOTEBOOK = (ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"(?<!-->\n)^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
"""A block below a comment `<!-- not run: ... -->` is left out."""
SMALLER = {
    "segformer:variant=b0": "segformer:variant=tiny",
    'weights=\\"nvidia/mit-b0\\"': 'weights=\\"none\\"',
    "crop_size=512": "crop_size=32",
    "epochs=50": "epochs=4",  # of 20 steps
    "segacc.fit(": "segacc.fit(num_workers=0, num_pictures=1, ",
    "segacc.evaluate(": "segacc.evaluate(num_workers=0, model=",
    "segacc.check_data(": "segacc.check_data(num_workers=0, ",
}
MORE = "--arch segformer:variant=tiny --weights none --crop-size 32 --max-steps 2 --num-workers 0"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of the page: ADEChallengeData2016, and parquet as on the Hub."""
    root = tmp_path_factory.mktemp("tutorial")
    ade = root / "data" / "ADEChallengeData2016"
    for split, short, count in (("training", "train", 54), ("validation", "val", 2)):
        for number in range(1, count + 1):
            name = f"ADE_{short}_{number:08}"
            random = np.random.default_rng(number)
            save(ade / "images" / split / f"{name}.jpg", random.integers(0, 255, (40, 56, 3)))
            save(ade / "annotations" / split / f"{name}.png", random.integers(0, 151, (40, 56)))
    write_parquet(ade, root / "data" / "scene_parse_150")
    (root / "id2label.json").write_text(json.dumps(dict(enumerate(table("ade20k")["names"]))))
    return root


def write_parquet(ade: Path, folder: Path) -> None:
    """Write the training images with the columns of scene_parse_150."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    def cells(kind: str) -> list[dict[str, Any]]:
        files = sorted((ade / kind / "training").iterdir())
        return [{"bytes": file.read_bytes(), "path": file.name} for file in files]

    rows = {"image": cells("images"), "annotation": cells("annotations")}
    rows["scene_category"] = [number % 3 for number in range(len(rows["image"]))]
    kinds = {"image": ImageFeature(), "annotation": ImageFeature()}
    features = Features(**kinds, scene_category=ClassLabel(names=["airport", "bar", "cave"]))
    folder.mkdir()
    Dataset.from_dict(rows, features).to_parquet(folder / "train-00000-of-00001.parquet")


def test_its_settings_are_those_of_the_recipe() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    of_settings = [line for line in lines if re.match(r"(data|jitter|crop|settings) \|?= ", line)]
    found: dict[str, Any] = {}
    exec("\n".join(of_settings), found)
    registry = load_registry()
    recipe = make_plan([read_recipe("tutorial")], registry)
    page = make_plan([Layer(found["settings"], "page")], registry)
    assert told(page) == told(recipe)


def told(plan: Plan) -> dict[str, Any]:
    """Return what a run depends on, however it was typed."""
    config = plan.settings.config
    values = {one.name: getattr(config, one.name) for one in fields(config)}
    components = {"arch": plan.arch, "dataset": plan.dataset, "aug": plan.aug}
    return {**values, **components}


@pytest.mark.slow
def test_the_commands_run(warm: Warm, sandbox: Path) -> None:
    assert [shlex.split(line)[1] for line in COMMANDS] == ["train", "check-data", "push", "predict"]
    train, check, push, predict = (shlex.split(line)[1:] for line in COMMANDS)
    assert_succeeded(warm(*train, *MORE.split(), cwd=sandbox))
    assert [row["num_images"] for row in metrics(sandbox / "runs/recipe", "eval")] == [10]
    done = assert_succeeded(warm(*check, "--num-workers", "0", cwd=sandbox))
    assert "150 of 150" in done.stdout and "(raw id 0)" in done.stdout
    push[1] = predict[1] = "runs/recipe"
    assert "README.md" in assert_succeeded(warm(*push, cwd=sandbox)).stdout
    assert_succeeded(warm(*predict, cwd=sandbox))
    with Image.open(sandbox / "predictions/ADE_val_00000001.png") as found:
        assert found.size == (56, 40) and found.mode == "P" and np.asarray(found).min() > 0


@pytest.mark.slow
@pytest.mark.launch
def test_the_notebook_runs(sandbox: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    text = NOTEBOOK
    for long, short in SMALLER.items():
        assert long in text, long
        text = text.replace(long, short)
    book = nbformat.reads(text, as_version=4)
    resources = {"metadata": {"path": str(sandbox)}}
    nbclient.NotebookClient(book, timeout=200, resources=resources).execute(env=environment())
    outputs = [one for cell in book.cells for one in cell.get("outputs", [])]
    printed = "".join(one["text"] for one in outputs if one.get("name") == "stdout")
    assert "on 10 images" in printed and "the same in 1.0 of the pixels" in printed
    assert outputs[-1]["data"]["image/png"], "the overlay"
    run = sandbox / "runs" / "tutorial"
    assert [row["step"] for row in metrics(run, "eval")] == [20, 40, 60, 80]
    steps = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert steps == [f"step-{step:08}" for step in (40, 60, 80)]
