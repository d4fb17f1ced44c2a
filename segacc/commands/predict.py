"""`segacc predict`: find images, segment them, and write predictions and overlays."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from segacc.commands.console import progress_bar, quiet_libraries
from segacc.commands.predict_files import (
    AREAS,
    Job,
    areas_file,
    find_pictures,
    write_ids,
    write_probabilities,
)
from segacc.errors import OptionError, UnreadableError, is_main
from segacc.evaluation.model_folder import Model, find_model, local_model
from segacc.settings.config import PredictConfig
from segacc.training.folders import writable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from segacc.evaluation.segmenter import Segmenter
    from segacc.labels import LabelMap


def predict_command(given: str, inputs: Sequence[str | Path], config: PredictConfig) -> int:
    """Segment images; return 1 if some could not be segmented.

    Args:
        given: the model; see `find_model`.
        inputs: see `find_pictures`.
        config: the settings.
    """
    local_model(given, "MODEL")
    folder = writable(config.output_dir, "--output-dir")
    jobs, notes = find_pictures(inputs, folder, recursive=config.recursive)
    model = find_model(given, "MODEL")
    console = Console(stderr=True, soft_wrap=True, quiet=not is_main())
    for note in filter(None, (model.told, *notes)):
        console.out(note, highlight=False)
    with console.status("Loading torch and the weights ..."):
        quiet_libraries()
        segmenter = load_segmenter(model, config.protocol)
    failed = segment_all(segmenter, jobs, config, console)
    for reason in failed:
        sys.stderr.write(f"{reason}\n")
    console.print(
        f"{len(jobs) - len(failed)} of {len(jobs)} predictions written to {config.output_dir}",
        markup=False,
        highlight=False,
    )
    return 1 if failed else 0


def load_segmenter(model: Model, protocol: str | None) -> "Segmenter":
    """Load a model with its own protocol, or the given one."""
    from segacc.evaluation.protocol import Protocol
    from segacc.evaluation.segmenter import Segmenter

    wanted = None if protocol is None else Protocol.parse(protocol, "--protocol")
    segmenter = Segmenter.from_pretrained(model.folder)
    return segmenter if wanted is None else segmenter.with_protocol(wanted)


def segment_all(
    segmenter: "Segmenter", jobs: Sequence[Job], config: PredictConfig, console: Console
) -> list[str]:
    """Segment each image; return the errors of those that are unreadable or of unsupported size.

    Raises:
        OptionError: the raw label ids do not fit in a PNG.
    """
    refuse_wide(segmenter.labels)
    failed = []
    with ExitStack() as stack, progress_bar(console, len(jobs)) as tick:
        areas = areas_file(config.output_dir / AREAS, segmenter.labels.names)
        add = stack.enter_context(areas) if config.areas else None
        for job in jobs:
            tick(description=job.picture.name)
            try:
                job.index.parent.mkdir(parents=True, exist_ok=True)
                prediction = segment(segmenter, job, config)
                if add:
                    add(job.picture, prediction)
            except UnreadableError as error:
                failed.append(str(error))
            except OptionError as error:  # an image size that the network does not support
                failed.append(f"{job.picture}: {error}")
            tick(advance=1)
    return failed


def refuse_wide(labels: "LabelMap") -> None:
    """Refuse raw label ids that do not fit in 16 bits.

    Raises:
        OptionError: an id is above 65535.
    """
    import numpy as np

    raw = labels.restore(np.arange(len(labels.names)))
    if raw.itemsize > 2:
        raise OptionError(
            f"The network's raw label ids go up to {raw.max()}, but a PNG can hold only 65535. In "
            "Python, segacc.Segmenter returns classes, and its labels.restore converts them to raw "
            "ids."
        )


def segment(segmenter: "Segmenter", job: Job, config: PredictConfig) -> "np.ndarray[Any, Any]":
    """Write the files of one image, and return its prediction (H, W)."""
    from segacc.data.decode import read_image
    from segacc.data.pictures import draw_prediction, visible, write_picture

    labels = segmenter.labels
    image = read_image(
        job.picture, str(job.picture), segmenter.network.num_channels, segmenter.reading
    )
    prediction = segmenter(image)
    write_ids(labels.restore(prediction), labels, job.index)
    if config.overlay:
        pixels = visible(image)
        write_picture(
            draw_prediction(pixels, prediction, names=labels.names, palette=labels.palette),
            job.overlay,
        )
    if config.save_probabilities:
        found = probabilities_of(segmenter, image, config.save_probabilities)
        write_probabilities(found, labels.names, job.probabilities)
    return prediction


def probabilities_of(segmenter: "Segmenter", image: "Tensor", dtype: str) -> "np.ndarray[Any, Any]":
    """Return the class probabilities of an image: (K, H, W) uint8, 255 times them, or float16."""
    import torch

    from segacc.evaluation.predict import probability_bands

    network, pixels = segmenter.network, image.to(segmenter.device)
    parts = [
        (band * 255).round().to(torch.uint8).cpu() if dtype == "uint8" else band.half().cpu()
        for band in probability_bands(network, network, pixels, segmenter.protocol)
    ]
    return torch.cat(parts, dim=1).numpy()
