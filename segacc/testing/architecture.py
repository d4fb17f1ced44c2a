"""Checks that an architecture implements the interface of segacc.model, including a short run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image
from torch import Tensor, nn

from segacc import loop, registry
from segacc.contracts import IGNORE
from segacc.data.order import seeded
from segacc.errors import first_of
from segacc.evaluation.predict import predict
from segacc.evaluation.segmenter import Segmenter
from segacc.hookspecs import Architecture, Dataset, DataSplits, Sample, hookimpl
from segacc.labels import LabelMap
from segacc.settings.sources import Layer
from segacc.testing.network import Subject, check_network, different, learn, subject_of
from segacc.testing.tools import (
    alone_on_cpu,
    attempt,
    changed,
    forked,
    naming,
    require,
    some_images,
    some_labels,
)
from segacc.training.feed import Meter, step_batches
from segacc.training.plan import make_plan
from segacc.training.run import Run
from segacc.training.setup import build_run


def check_architecture(
    record: Architecture,
    *options: Any,
    processes: int = 1,
    head_and_encoder: bool = True,
    num_channels: Sequence[int] = (1, 3, 4),
) -> None:
    """Check that an architecture implements `segacc.model.SegmentationModel` correctly.

    Two builds give the same weights; logits are finite and have K channels; every size accepted by
    `size_rule` works and is used to the last row and column; images of a batch do not affect each
    other in evaluation; gradients reach the parameters, also in bfloat16 and with gradient
    checkpointing; weights are restored from `save_pretrained`, and by class name in a network with
    other classes; a run of one step is saved, and a Segmenter gives the same prediction as the
    run's network.

    Args:
        record: the record that the hook returns.
        options: options of the networks to check, one after the other; default `record.tiny()`.
        processes: with 2 or more, a step is also taken by this many processes (gloo) and must equal
            that of one process: losses, gradients, and weights on each. If the training loss is
            random even without dropout, losses and gradients only need to be similar.
        head_and_encoder: False for a network that `is_head` does not divide into two parts.
        num_channels: numbers of image channels to test; a run may use 1, 3 or 4.

    Raises:
        AssertionError: a check failed; the message says what was expected and found.
    """
    for one in options or (record.tiny(),):
        with seeded(0), naming(record, one):
            subject = subject_of(record, one)
            check_network(subject, num_channels=num_channels, head_and_encoder=head_and_encoder)
            check_run(subject)
            if processes > 1:
                check_processes(subject, processes)


# ---------------------------------------------------------------------------------- a short run


def noise_of(subject: Subject) -> Dataset:
    """Return a data set of the subject's crop size; raw ids are 0, 7, 14 and 255 (ignored)."""
    facts, (height, width) = subject.facts, subject.size
    ids = {7 * k: k for k in range(facts.num_classes)} | {IGNORE: IGNORE}
    palette = tuple((50 * k, 200 - 20 * k, 7) for k in range(facts.num_classes))
    splits = {
        "train": [sample(subject.size, facts.num_classes, k) for k in range(8)],
        "validation": [sample((height + 11, width + 37), facts.num_classes, 0)],
    }
    data = DataSplits(splits, LabelMap(facts.class_names, ids, palette))
    return Dataset(name="noise", summary="noise", build=lambda options: data)


def sample(size: tuple[int, int], num_classes: int, number: int) -> Sample:
    """Generate a sample of noise."""
    image = some_images(size, count=1, seed=number)[0].permute(1, 2, 0)
    label = some_labels(size, num_classes, count=1, seed=number)[0]
    raw = label.where(label == IGNORE, label * 7).to(torch.uint8)
    return Sample(png(image), png(raw), str(number))


def png(pixels: Tensor) -> bytes:
    """Encode (H, W) or (H, W, 3) uint8 as PNG."""
    file = BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG")
    return file.getvalue()


@contextmanager
def run_of(subject: Subject, folder: Path, **more: Any) -> Iterator[Run]:
    """Build a run of one step from settings as a user types them, on the CPU.

    The record and the test data set come from a plugin that is the only one installed.
    """
    data, name = noise_of(subject), "segacc-testing"

    class Plugin:
        @hookimpl
        def segacc_architectures(self) -> list[Architecture]:
            return [subject.record]

        @hookimpl
        def segacc_datasets(self) -> list[Dataset]:
            return [data]

    settings = {
        "arch": {"name": f"{name}/{subject.record.name}", **changed(subject.options)},
        "dataset": f"{name}/{data.name}",
        "weights": "none",
        "aug": ("none",),
        "crop_size": subject.size,
        "batch_size": 2,
        "max_steps": 1,
        "num_workers": 0,
        "num_pictures": 0,
        "output_dir": folder,
        **more,
    }
    points = [(name, "", SimpleNamespace(name="main", load=Plugin))]
    with (
        patch.object(registry, "installed_plugins", lambda: points),
        alone_on_cpu(),
        seeded(0),
    ):
        layers = [Layer(settings, "segacc.testing")]
        run = build_run(make_plan(layers, registry.load_registry()))
        try:
            yield run
        finally:
            run.lock.release()


def check_run(subject: Subject) -> None:
    """Train one step, and check that a Segmenter from the run's folder does what the run does."""
    with (
        TemporaryDirectory() as folder,
        attempt("a run of one step, and a Segmenter from its folder"),
        run_of(subject, Path(folder) / "run") as run,
    ):
        for _ in loop.train(run):
            pass
        segmenter = Segmenter.from_pretrained(run.folder / "last", "cpu")
        for name, mine, theirs in (
            ("label map and palette", segmenter.labels, run.labels),
            ("protocol", segmenter.protocol, run.scoring.protocol),
        ):
            expected = f"the {name} of the run to be restored from its folder"
            require(mine == theirs, expected, f"{mine}")
        image = some_images((subject.size[0] + 9, subject.size[1] + 21), count=1)[0]
        network = run.network.eval()
        wanted = predict(network, network, image, run.scoring.protocol)
        other = (torch.from_numpy(segmenter(image)) != wanted).float().mean().item()
        expected = "a Segmenter from the run's folder to predict the same as the run's network"
        require(not other, expected, f"{100 * other:.2g} % other pixels")


# ----------------------------------------------------------------------------- several processes


def check_processes(subject: Subject, count: int) -> None:
    """Take a step on several processes, and check that it equals the step of one process.

    Losses and gradients only need to be similar if they depend on random draws.
    """
    expected = f"a step on {count} processes to equal that of one process"
    with TemporaryDirectory() as folder, attempt(expected):
        whole = step(subject, Path(folder) / "whole", batch_size=2 * count)
        cut = Path(folder) / "cut"
        first, *others = forked(lambda: step(subject, cut, batch_size=2), Path(folder), count)
        for rank, other in enumerate(others, 1):
            weights = first["weights"]
            names = [n for n, one in other["weights"].items() if not torch.equal(one, weights[n])]
            found = f"other weights on process {rank} in {first_of(names, 4)}"
            require(not names, f"{expected}, with equal weights on each", found)
        exact = not draws(subject)
        mine, theirs = first["losses"], whole["losses"]
        require(
            torch.allclose(mine, theirs, rtol=1e-4 if exact else 0.2),
            f"{expected}, with {'the same' if exact else 'about the same'} losses",
            " and ".join(", ".join(f"{loss:.6g}" for loss in one) for one in (mine, theirs)),
        )
        if exact:
            names = different(first["gradients"], whole["gradients"], 1e-3)
            require(not names, f"{expected}, with the same gradients", first_of(names, 4))
        else:
            norm = nn.utils.get_total_norm
            mine, theirs = norm(first["gradients"].values()), norm(whole["gradients"].values())
            wanted = f"{expected}, with a gradient of about the same length"
            require(theirs / 1.5 < mine < theirs * 1.5, wanted, f"{mine:.6g} and {theirs:.6g}")


def step(subject: Subject, folder: Path, *, batch_size: int) -> dict[str, Any]:
    """Take one step, and return losses, gradients and weights by name."""
    more = {"freeze_batchnorm": True, "max_grad_norm": 1e9, "max_steps": 2}
    with run_of(subject, folder, batch_size=batch_size, **more) as run:
        without_dropout(run.network)
        window = next(step_batches(run, Meter(run), run.signal))
        losses = loop.train_step(run, window).losses
        if run.accelerator.num_processes > 1:
            losses = run.accelerator.reduce(losses, "sum")
    state, named = run.optimizer.state, dict(run.network.named_parameters())
    return {
        "losses": losses,
        "gradients": {n: state[one]["exp_avg"] * 10 for n, one in named.items() if one in state},
        "weights": {name: one.detach() for name, one in named.items()},
    }


def without_dropout(network: nn.Module) -> None:
    """Disable torch's dropout layers."""
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


def draws(subject: Subject) -> bool:
    """True if the training loss is random even without dropout layers."""
    found = []
    for seed in range(2):
        network = subject.build()
        network.freeze_batchnorm()
        without_dropout(network)
        found.append(learn(subject, network, seed=seed)[0])
    return not torch.equal(*found)
