"""The recipe of Hugging Face's tutorial, as users run it: Trainer, image processor, mean_iou.

train.py and evaluate.py measure segacc beside it. The metric counts as evaluate's mean_iou does,
which is on the Hub, where a benchmark cannot ask for it: NumPy histograms image by image.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from torch.utils.data import Dataset
from torchvision.transforms import ColorJitter
from transformers import (
    PrinterCallback,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from segacc.labels.names import read_names

ROOT = Path(__file__).parent.parent
PICTURES = ROOT.parent / "shared" / "data" / "ade20k_sample"
KINDS = ("images", "annotations")
CLASSES, SIDE, SHORTEST = 150, 512, 480


def over(some: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the rounds' own ratios of two ways."""
    return median(one / other for one, other in zip(some, others, strict=True))


def pairs() -> list[tuple[Path, Path]]:
    """List images of ADE20K whose shorter side has 480 pixels or more, with their labels."""
    if not PICTURES.is_dir():
        sys.exit(f"{Path(sys.argv[0]).name}: {PICTURES} is not here.")
    images = sorted(PICTURES.glob("images/*/*.jpg"))
    found = [(image, Path(str(image).replace(*KINDS, 1))) for image in images]
    pairs = [(image, label.with_suffix(".png")) for image, label in found]
    return [pair for pair in pairs if min(PILImage.open(pair[0]).size) >= SHORTEST]


def squares(folder: Path, count: int, side: int) -> list[tuple[Path, Path]]:
    """Write so many of the pictures, repeated, as squares; JPEG and PNG, in a folder data set."""
    found = pairs()
    written = []
    for number in range(count):
        one = []
        for path, kind, ending in zip(
            found[number % len(found)], KINDS, ("jpg", "png"), strict=True
        ):
            to = folder / kind / "validation" / f"{number:04}.{ending}"
            to.parent.mkdir(parents=True, exist_ok=True)
            filter = PILImage.Resampling.NEAREST if ending == "png" else None
            PILImage.open(path).resize((side, side), filter).save(to)
            one.append(to)
        written.append((one[0], one[1]))
    shutil.copy(PICTURES / "classes.json", folder)
    return written


def network() -> Any:
    """Return SegFormer-b0 for 150 classes, with random weights."""
    names = dict(enumerate(read_names(PICTURES / "classes.json").names))
    return SegformerForSemanticSegmentation(SegformerConfig(id2label=names))


class Pictures(Dataset[dict[str, Any]]):
    """Pictures that are opened, jittered if wanted, resized and normalized when asked for."""

    def __init__(self, found: Sequence[tuple[Path, Path]], count: int, *, jitter: bool) -> None:
        """Repeat the pictures up to `count`."""
        self.found, self.count = found, count
        self.jitter = ColorJitter(0.25, 0.25, 0.25, 0.1) if jitter else None
        self.processor = SegformerImageProcessor(do_reduce_labels=True)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return `pixel_values` and `labels`."""
        image, label = (PILImage.open(path) for path in self.found[index % len(self.found)])
        image = image.convert("RGB")
        ready = self.processor(
            [self.jitter(image) if self.jitter else image], [label], return_tensors="pt"
        )
        return {key: value[0] for key, value in ready.items()}


class Clock(TrainerCallback):
    """Notes when each step ends."""

    def __init__(self) -> None:
        """Start without steps."""
        self.ends: list[float] = []

    def on_step_end(self, *given: Any, **more: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())


def trainer(
    model: Any,
    folder: Path,
    found: Sequence[tuple[Path, Path]],
    *,
    clock: Clock | None = None,
    steps: int = 1,
    evaluated: int = 1,
) -> Any:
    """Return a Trainer with the tutorial's settings, for so many steps or evaluated pictures."""
    settings = TrainingArguments(
        output_dir=str(folder),
        learning_rate=6e-5,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        max_steps=steps,
        save_strategy="no",
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    built = Trainer(
        model=model,
        args=settings,
        train_dataset=Pictures(found, 1000, jitter=True),
        eval_dataset=Pictures(found, evaluated, jitter=False),
        compute_metrics=scores,
        callbacks=[clock] if clock else [],
    )
    built.remove_callback(PrinterCallback)
    return built


def scores(predicted: Any) -> dict[str, Any]:
    """Resize all logits to the labels, take the argmax, and return the mean IoU and accuracies."""
    logits, labels = torch.from_numpy(predicted.predictions), predicted.label_ids
    full = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    classes = full.argmax(1).numpy()
    areas = np.zeros((3, CLASSES))
    for said, label in zip(classes, labels, strict=True):
        valid = label != 255
        said, label = said[valid], label[valid]
        for row, values in enumerate((said[said == label], said, label)):
            areas[row] += np.histogram(values, bins=CLASSES, range=(0, CLASSES - 1))[0]
    both, said, label = areas
    with np.errstate(invalid="ignore"):
        iou, accuracy = both / (said + label - both), both / label
    return {"mean_iou": np.nanmean(iou), "mean_accuracy": np.nanmean(accuracy)}
