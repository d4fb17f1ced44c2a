"""What a checkpoint goes on with: what a resumed run must share with it, and what it may change.

What changes the meaning of the weights is refused; what only changes the numbers is told in a line.
"""

import json
from collections.abc import Sequence
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segacc.contracts import VERSION, Drawn
from segacc.data.samples import digest, evenly_spaced, ids_of
from segacc.data.streams import TrainStream
from segacc.errors import cut
from segacc.hookspecs import Sample
from segacc.registry import installed_plugins, options_text
from segacc.settings.sources import Settings, plain_values
from segacc.training.plan import FIXED
from segacc.training.run import Run

ANYWAY = (
    *("architecture", "class_names", "label_map", "training_images", "sample_digest"),
    "file_sizes",
)
"""Differences that `--resume-anyway` passes; with others, the order of samples is not defined."""
NUMBERS = (
    *(name for name in FIXED if name != "arch"),
    *("aug", "loss", "class_weights", "metric", "lr", "head_lr_scale", "weight_decay", "schedule"),
    *("warmup_steps", "warmup_start", "encoder_warmup_steps", "max_grad_norm", "sync_batchnorm"),
    *("train_split", "eval_split", "val_fraction", "mixed_precision", "channels_last"),
    "compile",
)
"""Settings that change the numbers of a run."""
SPLIT = ("batch_size", "gradient_accumulation_steps", "processes")
"""How the images of a step are split into micro-batches."""
ROUNDING = (
    "sums are rounded otherwise, so from here on the weights are not those of an unbroken run bit "
    "for bit"
)
OTHER_PARTS = (
    "the micro-batches are others, which changes what batch norm and dropout do in a step; without "
    "them, sums are rounded otherwise"
)
LOOKED_AT = 10_000
"""Maximum number of samples whose files are looked at, evenly spaced."""


def order_settings(run: Run, sizes: str) -> dict[str, Any]:
    """Return what a resumed run must share with its checkpoint: order and meaning of the samples.

    Samples are identified by their ids and the sizes of their files, not by their paths, so that a
    data set can be moved.
    """
    config, data = run.config, run.train_data
    mapped = {key: one for key, one in run.labels.to_dict().items() if key != "palette"}
    arch = options_text(run.plan.arch)
    found: dict[str, Any] = {
        "seed": config.seed,
        "total_batch_size": run.total_batch_size,
        "training_images": data.num_samples,
        "class_names": list(run.labels.names),
        "label_map": digest([json.dumps(mapped, sort_keys=True, default=str)]),
        "architecture": json.loads(json.dumps({**arch, "config": None}, default=str)),
    }
    if isinstance(data, TrainStream):
        return found | {
            "processes": run.accelerator.num_processes,
            "num_workers": config.num_workers,
            "batch_size": config.batch_size,
            "shards": len(data.stream.shards),
            "shard_digest": digest([name.rpartition("/")[2] for name in data.stream.shards]),
            "buffer": data.stream.buffer,
            "file_sizes": sizes,
        }
    return found | {
        "sample_digest": digest(ids_of(data.source.samples), data.order.chances),
        "file_sizes": sizes,
    }


def number_settings(run: Run, times: str) -> dict[str, Any]:
    """Return what changes the numbers of a resumed run: settings, versions, times of files."""
    values = plain_values(Settings(run.config))
    found = {
        **{name: values.get(name) for name in (*NUMBERS, *SPLIT)},
        "mixed_precision": run.accelerator.mixed_precision,  # also if the launcher chose it
        "processes": run.accelerator.num_processes,
        "segacc": VERSION,
        "torch": version("torch"),
        "threads": run.threads,
        **{f"plugin {name}": number for name, number, _ in installed_plugins()},
        "file_times": times,
    }
    stored: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return stored


def file_digests(run: Run) -> tuple[str, str]:
    """Return digests of the sizes and of the times of the training files.

    At most LOOKED_AT samples are looked at, evenly spaced. Remote and missing files count, too;
    samples in a table have no files.
    """
    data = run.train_data
    if isinstance(data, TrainStream):
        files = [Path(shard) for shard in data.stream.shards]
    else:
        files = files_of(data.source.samples)
    sizes, times = blake2b(digest_size=6), blake2b(digest_size=6)
    for file in files:
        try:
            found = file.stat()
            size, time = found.st_size, found.st_mtime_ns
        except (OSError, ValueError):
            size = time = -1
        sizes.update(b"%d " % size)
        times.update(b"%d " % time)
    return sizes.hexdigest(), times.hexdigest()


def files_of(samples: Sequence[Sample]) -> list[Path]:
    """Return the image and label files of up to LOOKED_AT samples."""
    if not len(samples) or not isinstance(samples[0].image, Path):
        return []
    chosen = [samples[index] for index in evenly_spaced(len(samples), LOOKED_AT)]
    images = (one.image for one in chosen)
    labels = (one.label.file if isinstance(one.label, Drawn) else one.label for one in chosen)
    paths = (path for pair in zip(images, labels, strict=True) for path in pair)
    return [path for path in paths if isinstance(path, Path)]


def changes(was: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Return how each value that differs has changed, as `was 2, now 4`."""
    return {
        key: f"was {told(was.get(key))}, now {told(now.get(key))}"
        for key in {**now, **was}
        if was.get(key) != now.get(key)
    }


def numbers_changed(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a note for each value of `number_settings` that differs."""
    different = changes({"compile": False, **was}, now)
    for key in ("mixed_precision", "threads", *SPLIT):
        if was.get(key) is None:  # not recorded by older versions
            different.pop(key, None)
    threads = different.pop("threads", "")
    parts = [f"{key} {different.pop(key)}" for key in SPLIT if key in different]
    notes = [f"{key} {how}" for key, how in different.items()]
    notes += [f"{'; '.join(parts)}: {OTHER_PARTS}"] if parts else []
    return [*notes, *([f"threads {threads}: {ROUNDING}"] if threads else [])]


def told(value: object) -> str:
    """Return a value in an error or a note."""
    return cut(str(value), 300)
