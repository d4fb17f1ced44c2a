"""The network in an exported file, for all that takes a SegmentationModel."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segacc.model.contract import Logits, SegmentationModel, SizeRule
from segacc.model.exported import Session, open_session


class ExportedModel(SegmentationModel):
    """A network that runs in a session of another runtime; it cannot be trained.

    The file takes pixels of 0..255 and normalizes them itself. `normalize` therefore returns them
    unchanged but for an offset of 1, so that the zeros with which images are padded afterwards can
    be told from black; `forward` replaces these by the mean colour.

    Args:
        session: runs the file.
        about: the description in the file.
    """

    def __init__(self, session: Session, about: dict[str, Any]) -> None:
        """Prepare the network; see the class."""
        super().__init__()
        file, colors = about["file"], about["normalization"]
        self.session = session
        self.mean, self.std = tuple(colors["mean"]), tuple(colors["std"])
        self.num_channels = about["facts"]["num_channels"]
        self.num_classes = about["facts"]["num_classes"]
        self.size_rule = SizeRule.from_dict(about["size_rule"])
        self.probabilities, self.precision = file["probabilities"], file["precision"]
        self.one_hot = file["output"]["name"] == "classes"
        self.alone = file["input"]["shape"][0] == 1
        self.dtype = getattr(torch, file["input"]["dtype"])
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # carries the device
        color = torch.tensor(file["input"]["padding"]).view(1, -1, 1, 1)
        self.register_buffer("color", color)

    @classmethod
    def open(cls, path: Path, about: dict[str, Any], runtime: str, device: str) -> "ExportedModel":
        """Open a file with a runtime.

        Raises:
            WeightsError: the runtime cannot open it.
        """
        return cls(open_session(path, runtime, device), about)

    def normalize(self, images: Tensor) -> Tensor:
        """Convert pixels (N, C, H, W) uint8 to float32 1..256; see the class."""
        return images.float() + 1

    def pixels(self, images: Tensor) -> Tensor:
        """Return the input of the file for images (N, C, H, W) of `normalize`, then padded."""
        color: Tensor = self.get_buffer("color")
        found = torch.where(images == 0, color, images - 1)
        return found.round().to(self.dtype) if self.dtype == torch.uint8 else found

    def forward(self, images: Tensor) -> Logits:
        """Map images (N, C, H, W) of `normalize` to Logits.

        A file that returns classes gives (N, K, H, W) uint8, 1 for the class and 0 for the others.
        """
        parts = torch.split(self.pixels(images), 1 if self.alone else len(images))
        found = torch.cat([self.session(part) for part in parts]).to(images.device)
        if self.one_hot:
            classes = torch.arange(self.num_classes, dtype=torch.uint8, device=found.device)
            found = (found[:, None] == classes.view(1, -1, 1, 1)).to(torch.uint8)
        return Logits(found)
