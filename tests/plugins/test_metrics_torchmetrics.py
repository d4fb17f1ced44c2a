"""torchmetrics:NAME: equal to torchmetrics on all pixels at once, and additive; or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics

from cli_tools import TINY, Warm, assert_succeeded
from data_tools import facts
from launches import rows
from segacc.errors import OptionError
from segacc.registry import choose, load_registry

pytest_plugins = ["cli_fixtures"]
CLASSES = 4


def built(given: str) -> Any:
    named = choose(load_registry(), "metric", given, "--metric")
    return named.build(facts(CLASSES))


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw 3 predictions and labels of which a part is ignored, right in most pixels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (3, 20, 30), generator=draw)
    wrong = torch.rand(labels.shape, generator=draw) < 0.4
    said = torch.where(wrong, torch.randint(CLASSES, labels.shape, generator=draw), labels)
    labels[torch.rand(labels.shape, generator=draw) < 0.2] = 255
    return said, labels


@pytest.mark.parametrize(
    ("given", "theirs"),
    [
        ("JaccardIndex", torchmetrics.JaccardIndex("multiclass", num_classes=CLASSES)),
        ("CohenKappa", torchmetrics.CohenKappa("multiclass", num_classes=CLASSES)),
        ("MatthewsCorrCoef", torchmetrics.MatthewsCorrCoef("multiclass", num_classes=CLASSES)),
        (
            "F1Score,kwargs={average: none}",
            torchmetrics.F1Score("multiclass", num_classes=CLASSES, average="none"),
        ),
    ],
)
def test_scores_are_those_of_all_pixels_at_once(given: str, theirs: Any) -> None:
    halves = []
    for seed in (0, 1):
        one = built(f"torchmetrics:{given}")
        said, labels = drawn(seed)
        one.update(said, labels)
        theirs.update(said[labels != 255], labels[labels != 255])
        halves.append(one)
    whole = built(f"torchmetrics:{given}")
    whole.state = {key: halves[0].state[key] + halves[1].state[key] for key in whole.state}
    (found,) = whole.compute().values()
    values = list(found.values()) if isinstance(found, dict) else [found]
    assert values == pytest.approx(theirs.compute().flatten().tolist(), rel=1e-6)
    assert whole.compute() == whole.compute(), "asking twice changes nothing"


def test_nothing_seen_is_nan_and_names_are_known_before() -> None:
    empty = built("torchmetrics:F1Score,kwargs={average: none}")
    empty.update(torch.zeros(1, 4, 4).long(), torch.full((1, 4, 4), 255))
    (scores,) = empty.compute().values()
    assert list(empty.compute()) == ["f1_score"]
    assert list(scores) == [f"c{k}" for k in range(CLASSES)]
    assert all(value != value for value in scores.values())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("JacardIndex", 'unknown metric "JacardIndex". Did you mean "JaccardIndex"?'),
        ("F1Score,kwargs={avrage: none}", "F1Score fails: "),
        ("SpearmanCorrCoef", "which does not add up over images and processes"),
        ("HausdorffDistance", "torchmetrics: HausdorffDistance "),
        ("WordErrorRate", "WordErrorRate fails on class indices: "),
        ("CohenKappa,lower_is_better=kappa", "returns no score kappa. Its scores: cohen_kappa."),
    ],
)
def test_what_cannot_be_summed_is_refused(given: str, told: str) -> None:
    with pytest.raises(OptionError) as caught:
        built(f"torchmetrics:{given}")
    assert str(caught.value).startswith("--metric torchmetrics: ") and told in str(caught.value)


@pytest.mark.slow
def test_a_run_is_scored_by_it_on_two_processes(warm: Warm, tmp_path: Path) -> None:
    metrics = ("--metric", "mean_iou", "--metric", "torchmetrics:JaccardIndex")
    chosen = ("--best-by", "jaccard_index", "--eval-split", "validation[:5]")
    run = tmp_path / "run"
    done = warm(*TINY, *metrics, *chosen, "--output-dir", run, cwd=tmp_path, processes=2)
    assert_succeeded(done)
    found = {row["step"]: row["jaccard_index"] for row in rows(run, "eval")}
    assert [row["mean_iou"] for row in rows(run, "eval")] == pytest.approx(list(found.values()))
    best = json.loads((run / "best" / "segacc.json").read_text())
    assert found[best["step"]] == max(found.values())
