"""Weights into a network: decided by one process for all, loaded, reported."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segacc.errors import WeightsError
from segacc.model import SegmentationModel
from segacc.model.hub import Source, choose, fetch
from segacc.model.transfer import LoadReport


def load(
    model: SegmentationModel,
    source: Source,
    *,
    class_names: Sequence[str] = (),
    fresh_head: bool = False,
) -> LoadReport:
    """Load what `choose` decided into the network; see `SegmentationModel.load_weights`.

    Raises:
        WeightsError: they do not belong to the network.
    """
    if source.folder is None:
        return LoadReport(source.name)
    report = model.load_weights(source.folder, class_names=class_names, fresh_head=fresh_head)
    return replace(report, source=source.name)


def agree(given: str, default_id: str | None, accelerator: Any) -> Source:
    """Let the main process `choose` for all; each node's first process fetches for its own disk.

    Raises:
        WeightsError: as `choose`, on every process.
    """
    from accelerate.utils import broadcast_object_list, gather_object

    source = None
    if accelerator.is_main_process:
        try:
            source = choose(given, default_id)
        except Exception as error:  # carried to the others, which wait
            source = Source(None, "", error=error)
    decision: list[Source] = broadcast_object_list([source])
    shared = decision[0]
    if shared.error is not None:
        raise shared.error
    failed = ""
    with accelerator.local_main_process_first():  # all come here: it holds barriers
        if shared.folder and not Path(shared.folder).is_dir():  # another node, another disk
            try:
                shared = replace(shared, folder=fetch(shared.name))
            except WeightsError as error:
                failed = str(error)
    if failures := list(filter(None, gather_object([failed]))):
        raise WeightsError(failures[0])
    return shared
