"""Scores, and what they must carry to be compared with others."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass

Scores = dict[str, float | dict[str, float]]

Weights = Literal["raw", "ema"]
"""The weights that are trained, or their exponential moving average."""
IGNORED = "pixels labelled 255 count for nothing"
ABSENT = "a class in neither labels nor predictions is left out of the means"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """By what rules, and on what, scores were taken."""

    protocol: str
    """How the network saw the images, as it is typed."""
    num_images: int
    """Images that were scored, unreadable ones left out."""
    weights: Weights = "raw"
    """The weights themselves, or their exponential moving average."""
    precision: str = "no"
    """Accelerate's mixed precision; `no` is float32, `tf32` the same where torch lets a GPU round
    the factors of its products to 10 bits, as it does by itself in convolutions."""
    ignored: str = IGNORED
    absent_classes: str = ABSENT
    label_size: str = "original"
    """Predictions are compared with labels at the label's own size."""

    def short(self) -> str:
        """Tell what differs from run to run."""
        return f"protocol {self.protocol}, {self.weights} weights, {self.number_format}"

    def rules(self) -> str:
        """Tell by what rules pixels and classes count."""
        return f"labels at their {self.label_size} size; {self.ignored}; {self.absent_classes}"

    def text(self) -> str:
        """Tell them all in one line."""
        return (
            f"{self.num_images} images, protocol {self.protocol} at the label's {self.label_size} "
            f"size; {self.ignored}; {self.absent_classes}; {self.weights} weights; "
            f"{self.number_format}"
        )

    @property
    def number_format(self) -> str:
        """What the network computed in."""
        return {"no": "float32", "tf32": "float32 (products in TF32)"}.get(
            self.precision, self.precision
        )
