"""Promise 2: the same scores, to the last count, on any number of processes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launches import TINY, launch, rows

MODULE = """
import datasets
import evaluate

class RightPixels(evaluate.Metric):
    def _info(self):
        maps = {"predictions": datasets.Image(), "references": datasets.Image()}
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=datasets.Features(maps)
        )

    def _compute(self, predictions, references, ignore_index):
        import numpy as np

        right = [int((np.array(p) == np.array(r)).sum()) for p, r in zip(predictions, references)]
        nothing = [int((np.array(r) == ignore_index).sum()) for r in references]
        return {"images": len(right), "right_pixels": sum(right) - sum(nothing)}
"""


@pytest.fixture(scope="module")
def camvid(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven validation images, so that two and three processes need padding; all of training.

    Those of the places 1, 2 and 5 are cropped: images of two sizes.
    """
    source, root = shared / "camvid", tmp_path_factory.mktemp("camvid")
    shutil.copy(source / "classes.json", root)
    for kind in ("images", "annotations"):
        (root / kind / "val").mkdir(parents=True)
        (root / kind / "train").symlink_to(source / kind / "train")
        for place, path in enumerate(sorted((source / kind / "val").iterdir())[:7]):
            if place in (1, 2, 5):
                cropped = Image.open(path).crop((0, 0, 200, 150))
                cropped.save(root / kind / "val" / path.with_suffix(".png").name)
            else:
                (root / kind / "val" / path.name).symlink_to(path)
    return root


@pytest.fixture(scope="module")
def run(camvid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on two processes that is scored at its end."""
    run, data = tmp_path_factory.mktemp("runs") / "run", ("--dataset", f"folder:root={camvid}")
    size = ("--crop-size", "96x128", "--batch-size", 4, "--max-steps", 12, "--lr", 0.02)
    launch(*TINY, *data, *size, "--eval-every", 12, "--output-dir", run, processes=2)
    return run


def scores_of(run: Path, camvid: Path, place: Path, processes: int, *more: object) -> str:
    """Evaluate the best weights; return the scores as text."""
    data = ("--dataset", f"folder:root={camvid}", "--output-dir", place)
    launch("evaluate", run / "best", *data, *more, processes=processes)
    told = json.loads((place / "evaluation.json").read_text())
    assert (told["processes"], told["num_images"]) == (processes, 7)
    return json.dumps(told["scores"])


@pytest.mark.slow
@pytest.mark.launch
def test_camvid_scores_are_equal_on_1_2_and_3_processes(
    run: Path, camvid: Path, tmp_path: Path
) -> None:
    trained = rows(run, "eval")[-1]
    assert trained["num_images"] == 7
    module = tmp_path / "right_pixels.py"
    module.write_text(MODULE)
    names = ("mean_iou", "dice", "boundary_iou", f"evaluate:{module}")
    given = [part for name in names for part in ("--metric", name)]
    texts = [scores_of(run, camvid, tmp_path / f"on-{count}", count, *given) for count in (1, 2, 3)]
    assert texts[0] == texts[1] == texts[2]
    scores = json.loads(texts[0])
    assert 0.02 < scores["mean_iou"] < 1
    assert scores["images"] == 7 and 0 < scores["mean_boundary_iou"] < scores["mean_iou"]
    files = (camvid / "annotations" / "val").iterdir()
    labelled = sum(int((np.array(Image.open(file)) < 11).sum()) for file in files)
    assert scores["right_pixels"] == pytest.approx(scores["overall_accuracy"] * labelled, abs=0.01)
    assert {key: trained[key] for key in ("mean_iou", "overall_accuracy")} == {
        key: scores[key] for key in ("mean_iou", "overall_accuracy")
    }


@pytest.mark.slow
@pytest.mark.launch
def test_batches_of_one_size_score_the_same_on_1_2_and_3_processes(
    run: Path, camvid: Path, tmp_path: Path
) -> None:
    given = ("--eval-batch-size", 3, "--num-workers", 0)
    texts = [scores_of(run, camvid, tmp_path / f"on-{count}", count, *given) for count in (1, 2, 3)]
    assert texts[0] == texts[1] == texts[2]
    trained = rows(run, "eval")[-1]  # image by image: rounding may tell them apart
    assert json.loads(texts[0])["mean_iou"] == pytest.approx(trained["mean_iou"], rel=1e-3)
