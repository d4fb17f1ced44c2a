"""The commands of docs/data.md run as they stand there, only with smaller numbers."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from cli_tools import NAMES, ROOT, TINY, Warm, assert_succeeded, metrics, write_data
from data_tools import random_sample
from run_tools import build
from segacc.hookspecs import Sample
from stream_tools import content, write_parquet, write_samples

pytest_plugins = ["cli_fixtures"]

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    """A folder with the data that the page speaks of."""
    for name in ("data/mine", "a", "b"):
        write_data(tmp_path / name)
    (tmp_path / "b.yaml").write_text("rename: {bar: beam}\n")
    scenes = tmp_path / "data" / "scenes"
    scenes.mkdir()
    samples = [random_sample(number, where="s", size=(48, 64)) for number in range(60)]
    write_parquet(scenes / "train.parquet", samples)
    (scenes / "classes.txt").write_text("\n".join(NAMES))
    for shard in range(3):
        some: list[Sample] = samples[4 * shard : 4 * shard + 4]
        write_samples(tmp_path / "data" / f"train-{shard:03}.tar", some)
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    return tmp_path


def kind_of(line: str) -> str:
    """Return the name of the data set in a line, or `path`."""
    return next(iter(re.findall(r"\w+(?=:)", line)), "path")


def arguments(line: str) -> list[str]:
    """Return the arguments of segacc in a line, made smaller."""
    line = line.replace("{000..146}", "{000..002}").replace(" --max-steps 40000", "")
    words = shlex.split(line)
    if words[:2] == ["segacc", "train"]:
        return [*words[1:], *TINY, "--output-dir", "run"]
    return words[1:]


@pytest.mark.parametrize("line", COMMANDS, ids=kind_of)
def test_a_command_runs(warm: Warm, sandbox: Path, line: str) -> None:
    done = assert_succeeded(warm(*arguments(line), cwd=sandbox))
    if "check-data" in line:
        assert done.stdout.splitlines()[-1].startswith("no problem found")
        return
    [scored] = metrics(sandbox / "run", "eval")[-1:]
    images = {"hub": 50 / 5, "shards": 3 * 4, "mix": 3 + 3}
    assert scored["num_images"] == images[kind_of(line)]


def test_the_mix_in_yaml_draws_by_its_weights(
    sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = re.search(r"In YAML: `(dataset: \{name: mix, .*?\})`", PAGE)
    assert typed is not None
    monkeypatch.chdir(sandbox)
    run = build(sandbox, **yaml.safe_load(typed[1]))
    order, count = run.train_data.order, 166  # nuclei's
    assert order.chances is not None and order.chances.shape == (4 + count,)
    shares = order.chances / order.chances.sum()
    np.testing.assert_allclose(shares[:4], 2 / 3 / 4)
    np.testing.assert_allclose(shares[4:], 1 / 3 / count)
    assert content(run.train_data.source.samples[0].image)
