"""Real trained weights on real photographs find what is there."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli_tools import Warm, assert_succeeded

pytest_plugins = ["cli_fixtures"]

CAR, PERSON = 7, 15
"""Of Pascal VOC's 21 classes, 0 for what is none of the others."""
CAMVID = {8: CAR, 9: PERSON, 10: 255, 11: 255}
"""CamVid's ids to VOC's; a bicyclist is two of them at once, and counts for nothing."""


@pytest.fixture(scope="module")
def streets(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-six validation images of CamVid, labelled with the classes of Pascal VOC."""
    root, camvid = tmp_path_factory.mktemp("streets"), shared / "camvid"
    for kind in ("images", "annotations"):
        (root / kind / "validation").mkdir(parents=True)
    table = np.zeros(256, np.uint8)
    table[list(CAMVID)] = list(CAMVID.values())
    for path in sorted((camvid / "annotations/val").iterdir())[::4]:
        label = table[np.array(Image.open(path))]
        Image.fromarray(label).save(root / "annotations/validation" / path.name)
        image = camvid / "images/val" / f"{path.stem}.jpg"
        (root / "images/validation" / image.name).symlink_to(image)
    voc = json.loads((shared / "deeplabv3_mobilenet_v2_voc/config.json").read_text())["id2label"]
    (root / "classes.txt").write_text("\n".join(voc[str(k)] for k in range(21)) + "\n")
    return root


@pytest.mark.slow
def test_the_voc_network_scores_cars_in_streets(
    warm: Warm, shared: Path, streets: Path, tmp_path: Path
) -> None:
    model, data = shared / "deeplabv3_mobilenet_v2_voc", f"folder:root={streets}"
    given = ("--protocol", "whole:short_side=513", "--output-dir", ".", "--num-workers", "0")
    assert_succeeded(warm("evaluate", model, "--dataset", data, *given, cwd=tmp_path))
    told = json.loads((tmp_path / "evaluation.json").read_text())
    scores = told["scores"]["per_category_iou"]
    assert told["protocol"] == "whole:short_side=513" and told["num_images"] == 26
    assert scores["background"] > 0.9 and scores["car"] > 0.4 and scores["person"] > 0.1


def test_predict_finds_what_the_street_holds(
    warm: Warm, shared: Path, streets: Path, tmp_path: Path
) -> None:
    labels = {path.stem: path for path in (streets / "annotations/validation").iterdir()}
    cars = {stem: (np.array(Image.open(path)) == CAR).mean() for stem, path in labels.items()}
    stem = max(cars, key=lambda one: cars[one])
    picture = streets / "images/validation" / f"{stem}.jpg"
    given = ("predict", shared / "deeplabv3_mobilenet_v2_voc", picture)
    assert_succeeded(warm(*given, "--protocol", "whole:short_side=513", cwd=tmp_path))
    found = np.array(Image.open(tmp_path / f"predictions/{stem}.png")) == CAR
    truth = np.array(Image.open(labels[stem])) == CAR
    assert (found & truth).sum() / (found | truth).sum() > 0.6
    assert (tmp_path / f"predictions/{stem}_overlay.png").is_file()
