"""Checks that an architecture implements the interface of segacc.model, including a short run."""

from collections.abc import Sequence
from dataclasses import dataclass
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
from segacc.evaluation.predict import predict
from segacc.evaluation.segmenter import Segmenter
from segacc.hookspecs import Architecture, Dataset, DataSplits, Sample, hookimpl
from segacc.labels import LabelMap
from segacc.settings.sources import Layer
from segacc.testing import forward, saving, training
from segacc.testing.subject import Subject, subject_of
from segacc.testing.tools import (
    alone_on_cpu,
    changed,
    few,
    forked,
    registry_with,
    some_images,
    some_labels,
)
from segacc.testing.training import different, learn
from segacc.training.feed import Meter, step_batches
from segacc.training.limits.signals import StopSignal
from segacc.training.plan import Plan, make_plan
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
        with seeded(0):
            subject = subject_of(record, one)
            forward.check(subject, num_channels=num_channels)
            training.check(subject, head_and_encoder=head_and_encoder)
            saving.check(subject)
            check_run(subject)
            if processes > 1:
                check_processes(subject, processes)


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The test data set has no options."""


def pictures(subject: Subject) -> Dataset:
    """Return a data set of the subject's crop size; raw ids are 0, 7, 14 and 255 (ignored)."""
    facts, (height, width) = subject.facts, subject.size
    ids = {7 * k: k for k in range(facts.num_classes)} | {IGNORE: IGNORE}
    palette = tuple((50 * k, 200 - 20 * k, 7) for k in range(facts.num_classes))
    sizes = {"train": [subject.size] * 8, "validation": [(height + 11, width + 37)]}
    splits = {
        split: [sample(size, facts.num_classes, k) for k, size in enumerate(many)]
        for split, many in sizes.items()
    }
    data = DataSplits(splits, LabelMap(facts.class_names, ids, palette))
    return Dataset(
        name="pictures_of_the_check",
        summary="noise",
        options=NoOptions,
        build=lambda options: data,
    )


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


def plan_of(subject: Subject, folder: Path, **more: Any) -> Plan:
    """Plan a run of one step in `folder`, from settings as a user types them."""
    data = pictures(subject)
    settings = {
        "arch": {"name": subject.record.name, **changed(subject.options)},
        "dataset": data.name,
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
    layer = Layer(settings, "segacc.testing")
    return make_plan([layer], registry_with(subject.record, data))


def check_run(subject: Subject) -> None:
    """Train one step, and compare a Segmenter's prediction with the run's network."""
    expected = "a run of one step, and a Segmenter from its folder"
    with (
        TemporaryDirectory() as folder,
        subject.report.attempt(expected),
        alone_on_cpu(),
        seeded(0),
        installed(subject.record),
    ):
        run = build_run(plan_of(subject, Path(folder) / "run"))
        for _ in loop.train(run):
            pass
        run.lock.release()
        survives(subject, run, run.folder / "last")


def installed(record: Architecture) -> Any:
    """Make segacc find a record's plugin as if it were the only one installed."""

    class Plugin:
        @hookimpl
        def segacc_architectures(self) -> list[Architecture]:
            return [record]

    points = [("segacc-testing", "", SimpleNamespace(name="main", load=Plugin))]
    return patch.object(registry, "installed_plugins", lambda: points)


def survives(subject: Subject, run: Run, folder: Path) -> None:
    """Check that label map, palette, protocol and prediction are restored from a saved run."""
    segmenter = Segmenter.from_pretrained(folder, "cpu")
    wanted = {"label map and palette": run.labels, "protocol": run.scoring.protocol}
    found = {"label map and palette": segmenter.labels, "protocol": segmenter.protocol}
    for name, one in wanted.items():
        expected = f"the {name} of the run to be restored from its folder"
        subject.report.require(found[name] == one, expected, f"{found[name]}")
    image = some_images((subject.size[0] + 9, subject.size[1] + 21), count=1)[0]
    network = run.network.eval()
    mine, theirs = segmenter(image), predict(network, network, image, run.scoring.protocol)
    same = (torch.from_numpy(mine) == theirs).float().mean().item()
    expected = "a Segmenter from the run's folder to give the same prediction as the run's network"
    subject.report.require(same == 1, expected, f"{100 * (1 - same):.2g} % other pixels")


def check_processes(subject: Subject, count: int) -> None:
    """Take a step on several processes, and check that it equals the step of one process."""
    expected = f"a step on {count} processes to equal that of one process"
    with TemporaryDirectory() as folder, subject.report.attempt(expected):
        with alone_on_cpu():
            whole = step(subject, Path(folder) / "whole", batch_size=2 * count)
        cut = Path(folder) / "cut"
        parts = forked(lambda: step(subject, cut, batch_size=2), Path(folder), count)
        for rank, part in enumerate(parts[1:], 1):
            names = [n for n, one in part["weights"].items() if not same(one, parts[0], n)]
            found = f"other weights on process {rank} in {few(names)}"
            subject.report.require(not names, f"{expected}, with equal weights on each", found)
        like_one(subject, parts[0], whole, expected)


def like_one(subject: Subject, part: dict[str, Any], whole: dict[str, Any], expected: str) -> None:
    """Compare one process's losses and gradients; approximately if they depend on random draws."""
    exact = not draws(subject)
    mine, theirs = part["losses"], whole["losses"]
    subject.report.require(
        torch.allclose(mine, theirs, rtol=1e-4 if exact else 0.2),
        f"{expected}, with {'the same' if exact else 'about the same'} losses",
        f"{listed(mine)} and {listed(theirs)}",
    )
    if exact:
        names = different(part["gradients"], whole["gradients"], 1e-3)
        subject.report.require(not names, f"{expected}, with the same gradients", few(names))
        return
    mine, theirs = length(part["gradients"]), length(whole["gradients"])
    fine = bool(theirs / 1.5 < mine) and bool(mine < theirs * 1.5)
    wanted = f"{expected}, with a gradient of about the same length"
    subject.report.require(fine, wanted, f"{mine:.6g} and {theirs:.6g}")


def length(gradients: dict[str, Tensor]) -> Tensor:
    """Return the norm over all gradients."""
    norm: Tensor = torch.stack([one.norm() for one in gradients.values()]).norm()
    return norm


def listed(losses: Tensor) -> str:
    """Format losses with few digits."""
    return ", ".join(f"{loss:.6g}" for loss in losses.tolist())


def same(weight: Tensor, other: dict[str, Any], name: str) -> bool:
    """Compare with a weight of another process."""
    return torch.equal(weight, other["weights"][name])


def step(subject: Subject, folder: Path, *, batch_size: int) -> dict[str, Any]:
    """Take one step, and return losses, gradients and weights by name."""
    more = {"freeze_batchnorm": True, "max_grad_norm": 1e9, "max_steps": 2}
    with seeded(0):
        run = build_run(plan_of(subject, folder, batch_size=batch_size, **more))
        without_dropout(run.network)
        with StopSignal() as signal:
            window = next(step_batches(run, Meter(run), signal))
        losses = loop.train_step(run, window).losses
    run.lock.release()
    network, state = run.network, run.optimizer.state
    if run.accelerator.num_processes > 1:
        losses = run.accelerator.reduce(losses, "sum")
    named = list(network.named_parameters())
    return {
        "losses": losses,
        "gradients": {name: state[one]["exp_avg"] * 10 for name, one in named if one in state},
        "weights": {name: one.detach() for name, one in named},
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
