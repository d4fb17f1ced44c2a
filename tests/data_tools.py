"""Makes pictures, samples and networks for tests."""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segacc.contracts import Facts
from segacc.hookspecs import Sample
from segacc.model import TransformersModel
from segacc.plugins.architectures.segformer import SegformerOptions, build


def encode(picture: Any, kind: str = "PNG", **settings: Any) -> bytes:
    """Encode a PIL image or an array (H, W) or (H, W, 3) as a file."""
    file = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
    picture.save(file, kind, **settings)
    return file.getvalue()


def random_sample(
    number: int, *, size: tuple[int, int] = (24, 32), num_classes: int = 3, where: str = "s"
) -> Sample:
    """Draw a sample of noise; the same for the same number."""
    random = np.random.default_rng((number, *size))
    image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    label = random.integers(0, num_classes, size, dtype=np.uint8)
    return Sample(encode(image), encode(label), f"{where}{number}")


def facts(num_classes: int = 3, **values: Any) -> Facts:
    """Give the facts of a run with classes called c0, c1, ..."""
    names = tuple(f"c{k}" for k in range(num_classes))
    return Facts(num_classes=num_classes, class_names=names, **values)


def tiny_segformer(
    num_classes: int = 3, *, seed: int = 0, variant: str = "tiny"
) -> TransformersModel:
    """Build a SegFormer with weights drawn from `seed`, without dropout, in evaluation mode."""
    torch.manual_seed(seed)
    options = SegformerOptions(variant=variant, drop_path=0.0, dropout=0.0)
    model = build(options, facts(num_classes)).eval()
    assert isinstance(model, TransformersModel)
    return model


class Counts:
    """A metric: the confusion itself."""

    def __init__(self) -> None:
        self.state = {"counts": torch.zeros(3, 3, dtype=torch.int64)}

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        pairs = torch.bincount((3 * labels + predictions).ravel(), minlength=9)
        self.state["counts"] += pairs.view(3, 3)

    def compute(self) -> dict[str, Any]:
        counts = self.state["counts"].tolist()
        return {f"{k}{j}": counts[k][j] for k in range(3) for j in range(3)}
