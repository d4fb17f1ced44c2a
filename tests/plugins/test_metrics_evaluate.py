"""evaluate:PATH: modules written here, fed as the library does it, alone and on processes."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_tools import facts
from metric_tools import METRICS, assert_close, drawn, mean
from segacc.errors import OptionError
from segacc.hookspecs import Metric
from segacc.plugins.metrics.evaluate_module import EvaluateModule, EvaluateOptions
from segacc.registry import choose, load_registry
from segacc.testing import check_metric, registry_of
from segacc.training.run import Best

HEAD = """
import datasets
import numpy as np
import evaluate

class Module(evaluate.Metric):
    def _info(self):
        features = FEATURES
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=features
        )
"""
INT, IMAGE = 'datasets.Value("int64")', "datasets.Image()"
MODULES = {
    "image_iou": (  # the mean over images of each image's mean IoU; not a sum over pixels
        IMAGE,
        """
    def _compute(self, predictions, references, num_labels, ignore_index, power=1):
        table = []
        for said, true in zip(predictions, references):
            said, true = np.array(said), np.array(true)
            valid = true != ignore_index
            row = []
            for k in range(num_labels):
                one, other = (said == k) & valid, true == k
                either = (one | other).sum()
                row.append((one & other).sum() / either if either else np.nan)
            table.append(row)
        by_class = np.nanmean(np.array(table), axis=0)
        return {
            "image_iou": np.nanmean(table) ** power,
            "per_category_image_iou": by_class,
            "sizes": [said.size for said in predictions],
            "table": np.array(table),
            "text": "told",
        }
""",
    ),
    "agreement": (
        INT,
        """
    def _compute(self, predictions, references):
        return {"agreement": float(np.mean(np.array(predictions) == np.array(references)))}
""",
    ),
    "rows": (
        f"datasets.Sequence(datasets.Sequence({INT}))",
        """
    def _compute(self, predictions, references):
        same = [np.array(p) == np.array(r) for p, r in zip(predictions, references)]
        return {"right": float(np.mean([one.mean() for one in same]))}
""",
    ),
    "words": (
        'datasets.Value("string")',
        """
    def _compute(self, predictions, references):
        return {"same": 1.0}
""",
    ),
    "bags": (
        f"datasets.Sequence({INT})",
        """
    def _compute(self, predictions, references):
        return {"same": 1.0}
""",
    ),
    "needy": (
        INT,
        """
    def _compute(self, predictions, references, average, labels=None):
        return {"same": 1.0}
""",
    ),
    "breaks": (
        INT,
        """
    def _compute(self, predictions, references):
        raise ValueError("no [good] reason.")
""",
    ),
    "talks": (
        INT,
        """
    def _compute(self, predictions, references):
        return {"text": "fine"}
""",
    ),
}


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Write the modules, and keep what `evaluate` writes beside them."""
    from evaluate import config

    root = tmp_path_factory.mktemp("evaluate")
    for name, (feature, compute) in MODULES.items():
        features = f'datasets.Features({{"predictions": {feature}, "references": {feature}}})'
        (root / name).mkdir()
        text = HEAD.replace("FEATURES", features) + compute
        (root / name / f"{name}.py").write_text(text)
    (root / "lacks.py").write_text("import a_package_that_is_not_there\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "HF_MODULES_CACHE", root / "modules")
        patch.setattr(config, "HF_METRICS_CACHE", root / "metrics")
        yield root


def build(path: object, num_classes: int = 4, **more: Any) -> EvaluateModule:
    return EvaluateModule(EvaluateOptions(path=str(path), **more), facts(num_classes))


def image_iou(pixels: list[Any], num_classes: int) -> list[list[float]]:
    """Follow the definition: a row for each image."""
    table = []
    for predictions, labels, _ in pixels:
        for said, true in zip(predictions.numpy(), labels.numpy(), strict=True):
            valid = true != 255
            both = [((said == k) & (true == k)).sum() for k in range(num_classes)]
            either = [(((said == k) & valid) | (true == k)).sum() for k in range(num_classes)]
            table.append([b / e if e else math.nan for b, e in zip(both, either, strict=True)])
    return table


def test_a_module_of_pictures(modules: Path) -> None:
    pixels = [drawn(4, size=size, classes=[0, 1, 2], seed=size[0]) for size in ((9, 7), (20, 31))]
    metric = build(modules / "image_iou")
    assert metric.state == {}
    for predictions, labels, _ in pixels:
        metric.update(predictions, labels)
    scores = metric.compute()
    table = image_iou(pixels, 4)
    assert list(scores) == ["image_iou", "per_category_image_iou"]
    assert_close(scores["image_iou"], mean(np.ravel(table)))
    assert list(scores["per_category_image_iou"]) == ["c0", "c1", "c2", "c3"]
    wanted = [mean(column) for column in zip(*table, strict=True)]
    assert_close(scores["per_category_image_iou"], wanted)
    assert math.isnan(wanted[3])


def test_a_module_of_single_values_sees_no_ignored_pixel(modules: Path) -> None:
    predictions, labels, _ = drawn(4, size=(15, 22))
    metric = build(modules / "agreement" / "agreement.py")
    metric.update(predictions, labels)
    valid = labels != 255
    wanted = (predictions == labels)[valid].double().mean().item()
    assert metric.compute() == {"agreement": pytest.approx(wanted, abs=1e-12)}

    metric = build(modules / "agreement")
    metric.update(predictions, torch.full_like(labels, 255))
    assert math.isnan(metric.compute()["agreement"])


def test_a_module_of_lists_of_lists(modules: Path) -> None:
    predictions, labels, _ = drawn(4, size=(6, 5), ignored=0.0)
    metric = build(modules / "rows")
    metric.update(predictions, labels)
    wanted = (predictions == labels).double().mean().item()
    assert metric.compute() == {"right": pytest.approx(wanted, abs=1e-12)}


def test_what_compute_is_given(modules: Path) -> None:
    registry = registry_of()
    text = f"evaluate:{modules / 'image_iou'},kwargs={{power: 2, ignore_index: 0}}"
    chosen = choose(registry, "metric", text, "--metric")
    metric = chosen.record.build(chosen.options, facts(4))
    assert metric.arguments == {"num_labels": 4, "ignore_index": 0, "power": 2}
    again = choose(registry, "metric", chosen.text, "--metric")
    assert again.options == chosen.options


def test_an_empty_metric_knows_its_scores_and_leaves_no_files(modules: Path) -> None:
    metric = build(modules / "image_iou", 3)
    assert len(list((modules / "metrics").iterdir())) == 1
    scores = metric.compute()
    assert list(scores) == ["image_iou", "per_category_image_iou"]
    assert math.isnan(scores["image_iou"])
    assert all(map(math.isnan, scores["per_category_image_iou"].values()))
    assert list(scores["per_category_image_iou"]) == ["c0", "c1", "c2"]
    assert not list((modules / "metrics").iterdir())


@pytest.mark.parametrize("name", ["image_iou", "agreement"])
def test_it_passes_the_kit(modules: Path, name: str) -> None:
    check_metric(METRICS["evaluate"], EvaluateOptions(path=str(modules / name)))


@pytest.mark.slow
@pytest.mark.launch
def test_processes_give_the_scores_of_one(modules: Path) -> None:
    record: Metric = METRICS["evaluate"]
    for processes in (2, 3):
        options = EvaluateOptions(path=str(modules / "image_iou"))
        check_metric(record, options, processes=processes)
    assert not list((modules / "metrics").iterdir())


GIVE = (
    "there is no such module. Give the module's .py file, or a folder that contains one with the "
    "folder's name."
)


@pytest.mark.parametrize(
    ("path", "kwargs", "text"),
    [
        (
            "{root}/gone",
            {},
            "{root}/gone (looked at {root}/gone): " + GIVE,
        ),
        ("{root}", {}, "{root} (looked at {root}): " + GIVE),
        ("{root}/lacks.txt", {}, "{root}/lacks.txt (looked at {root}/lacks.txt): " + GIVE),
        ("./gone", {}, "./gone (looked at {here}/gone): " + GIVE),
        (
            "{root}/lacks.py",
            {},
            "{root}/lacks.py cannot be loaded: ImportError: To be able to use lacks, you need to "
            "install the following dependencies['a_package_that_is_not_there'] using 'pip install "
            "a_package_that_is_not_there' for instance'.",
        ),
        (
            "a_metric_of_nobody",
            {},
            "a_metric_of_nobody: there is no file or folder of that name, the Hub "
            "does not respond (OfflineModeIsEnabled), and the cache of `evaluate` does not contain "
            "it. On a computer with network access, download a_metric_of_nobody.py from "
            "https://huggingface.co/spaces/evaluate-metric/a_metric_of_nobody, and give the copy's "
            "path: evaluate:path/to/a_metric_of_nobody.py.",
        ),
        (
            "{root}/image_iou",
            {"powers": 3},
            "kwargs: {root}/image_iou: got an unexpected keyword argument 'powers'. It takes "
            "num_labels, ignore_index, power, given as kwargs={{NAME: VALUE}}.",
        ),
        (
            "{root}/needy",
            {},
            "kwargs: {root}/needy: missing a required argument: 'average'. It takes average, "
            "labels, given as kwargs={{NAME: VALUE}}.",
        ),
        (
            "{root}/breaks",
            {},
            "{root}/breaks fails on a perfect prediction of all 4 classes: ValueError: no [good] "
            "reason.",
        ),
        ("{root}/talks", {}, "{root}/talks returns neither a number nor one per class."),
    ],
)
def test_what_is_refused(
    modules: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    kwargs: dict[str, Any],
    text: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OptionError) as error:
        build(path.format(root=modules), kwargs=kwargs)
    wanted = text.replace("--metric evaluate: ", "").format(root=modules, here=Path.cwd())
    assert str(error.value) == f"--metric evaluate: {wanted}"
    assert not list((modules / "metrics").glob("segacc-*"))


def test_which_scores_are_better_low_is_told_by_whoever_names_the_module(modules: Path) -> None:
    both = [f"evaluate:{modules / name}" for name in ("agreement", "rows")]
    both[0] += ",lower_is_better=agreement"
    chosen = [choose(load_registry(), "metric", one, "--metric") for one in both]
    for name, better in (("agreement", True), ("right", False)):
        empty = {one.text: one.record.build(one.options, facts(4)) for one in chosen}
        assert Best(name, chosen, empty).better(0.2, 0.3) is better
    with pytest.raises(OptionError) as error:
        build(modules / "agreement", lower_is_better=("agreement", "loss"))
    assert str(error.value) == (
        f"--metric evaluate: lower_is_better: {modules}/agreement returns no score loss. Its "
        f"scores: "
        "agreement."
    )


@pytest.mark.parametrize("name", ["words", "bags"])
def test_what_label_maps_cannot_be_turned_into(modules: Path, name: str) -> None:
    with pytest.raises(OptionError) as error:
        build(modules / name)
    text = str(error.value)
    if name == "words":
        assert text.startswith(f"--metric evaluate: {modules}/words fails on a perfect prediction")
    else:
        assert text.startswith("--metric evaluate: module takes {'predictions': ")
        assert text.endswith(
            "Supported are predictions and references that are images, lists of lists of integers, "
            "or integers."
        )
