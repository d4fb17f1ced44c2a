"""Promise 2: the same scores, to the last count, on any number of processes."""

import json
import shutil
from pathlib import Path

import pytest

from launches import TINY, launch, rows


@pytest.fixture(scope="module")
def camvid(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven validation images, so that two and three processes need padding; all of training."""
    source, root = shared / "camvid", tmp_path_factory.mktemp("camvid")
    shutil.copy(source / "classes.json", root)
    for kind in ("images", "annotations"):
        (root / kind / "val").mkdir(parents=True)
        (root / kind / "train").symlink_to(source / kind / "train")
        for path in sorted((source / kind / "val").iterdir())[:7]:
            (root / kind / "val" / path.name).symlink_to(path)
    return root


@pytest.mark.launch
def test_camvid_scores_are_equal_on_1_2_and_3_processes(camvid: Path, tmp_path: Path) -> None:
    run, data = tmp_path / "run", ("--dataset", f"folder:root={camvid}")
    size = ("--crop-size", "96x128", "--batch-size", 4, "--max-steps", 12, "--lr", 0.02)
    launch(*TINY, *data, *size, "--eval-every", 12, "--output-dir", run, processes=2)
    trained = rows(run, "eval")[-1]
    assert trained["num_images"] == 7

    texts = []
    for processes in (1, 2, 3):
        place = tmp_path / f"on-{processes}"
        launch("evaluate", run / "best", *data, "--output-dir", place, processes=processes)
        told = json.loads((place / "evaluation.json").read_text())
        assert told["processes"] == processes
        texts.append(json.dumps(told["scores"]))
    assert texts[0] == texts[1] == texts[2]
    scores = json.loads(texts[0])
    assert 0.02 < scores["mean_iou"] < 1
    assert {key: trained[key] for key in ("mean_iou", "overall_accuracy")} == {
        key: scores[key] for key in ("mean_iou", "overall_accuracy")
    }
