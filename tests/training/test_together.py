"""What only one of several processes meets is told by all, and none waits for another."""

from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from torch import nn

from data_tools import Counts, chosen_metric, facts, random_sample
from segacc.data.batches import EvalData, Source
from segacc.errors import SegaccError
from segacc.evaluation.protocol import Protocol
from segacc.evaluation.scoring import Scoring
from segacc.labels import LabelMap
from segacc.loop import evaluate
from segacc.model import Logits, SegmentationModel, SizeRule
from segacc.testing.tools import forked

LABELS = LabelMap.plain(["a", "b", "c"])


class Even(SegmentationModel):
    """Takes multiples of 8 pixels."""

    size_rule = SizeRule(multiple=8)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, images: Any) -> Logits:
        return Logits(self.layer(images))


def scored(sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """Evaluate images of these sizes, taken in turn by the processes; return what is told."""
    network, whole = Even(), Protocol.parse("whole", "-")
    given = [random_sample(number, size=size) for number, size in enumerate(sizes)]
    data, counts = EvalData(Source(given, LABELS)), chosen_metric("counts", Counts)
    accelerator = Accelerator(cpu=True)
    scoring = Scoring(accelerator, network, network, data, whole, facts(), [counts])
    try:
        evaluate(scoring, stop=lambda: False)
    except SegaccError as error:
        return {"kind": type(error).__name__, "text": str(error)}
    return {"images": scoring.num_images}


@pytest.mark.slow
@pytest.mark.launch
def test_an_image_that_does_not_fit_is_told_by_all(tmp_path: Path) -> None:
    """The second process meets it in its first batch, and goes on to its last one."""
    sizes = [(16, 24), (16, 20), (24, 16), (8, 8), (16, 16)]
    for found in forked(lambda: scored(sizes), tmp_path, 2):
        assert found == {
            "kind": "OptionError",
            "text": "--protocol whole: the network supports only multiples of 8 pixels, but an "
            "image is 16x20. Use --protocol whole:pad=8, which pads it.",
        }
