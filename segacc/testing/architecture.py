"""Does an architecture keep the contract of segacc.model?"""

from collections.abc import Sequence
from typing import Any

from segacc.data.order import seeded
from segacc.hookspecs import Architecture
from segacc.testing import forward, runs, saving, training
from segacc.testing.subject import subject_of


def check_architecture(
    record: Architecture,
    *options: Any,
    processes: int = 1,
    head_and_encoder: bool = True,
    num_channels: Sequence[int] = (1, 3, 4),
) -> None:
    """Check that an architecture keeps the contract of `segacc.model.SegmentationModel`.

    Built twice, it is the same; logits are finite and have K channels; every size that its
    `size_rule` accepts works and is looked at to the last row and column; images of a batch are
    not mixed in evaluation; gradients reach the parameters, in bfloat16 and with gradient
    checkpointing too; weights come back from `save_pretrained`, and by class name into
    a network of other classes; a run of one step is saved, and a Segmenter predicts what the run's
    network did.

    Args:
        record: what the hook returned.
        options: of networks that are checked one after the other; default `record.tiny()`.
        processes: with 2 or more, a step is also taken by so many processes, over gloo, and must be
            that of one process: the losses and gradients, and the same weights on each. Where the
            training loss is random without dropout too, losses and gradients must only be near.
        head_and_encoder: False for a network that `is_head` does not divide in two.
        num_channels: of the images that are tried; a run may ask for 1, 3 or 4.

    Raises:
        AssertionError: what was expected and what was found.
    """
    for one in options or (record.tiny(),):
        with seeded(0):
            subject = subject_of(record, one)
            forward.check(subject, num_channels=num_channels)
            training.check(subject, head_and_encoder=head_and_encoder)
            saving.check(subject)
            runs.check(subject)
            if processes > 1:
                runs.check_processes(subject, processes)
