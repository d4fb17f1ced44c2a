"""Checks of an architecture's network: forward and backward pass, saving and loading."""

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.utils.operations import convert_to_fp32
from torch import Tensor

from segacc.contracts import Facts
from segacc.errors import first_of
from segacc.hookspecs import Architecture
from segacc.loop import loss_sums
from segacc.model import Logits, SegmentationModel, SizeRule
from segacc.model.probe import check_logits
from segacc.model.transfer import stored_names
from segacc.testing.tools import (
    attempt,
    close,
    facts_of,
    gap,
    registry_of,
    require,
    some_images,
    some_labels,
)


@dataclass(frozen=True)
class Subject:
    """An architecture with options, and run facts that its size rule accepts."""

    record: Architecture
    options: Any
    facts: Facts

    def build(
        self, *, seed: int = 0, num_classes: int = 0, options: Any = None, **facts: Any
    ) -> SegmentationModel:
        """Build the network like a run, with random weights from `seed`, in evaluation mode."""
        if num_classes:
            names = facts_of(num_classes).class_names
            facts = {"num_classes": num_classes, "class_names": names, **facts}
        told = replace(self.facts, **facts)
        torch.manual_seed(seed)
        network = self.record.build(self.options if options is None else options, told)
        kind = f"{type(network).__module__}.{type(network).__qualname__}"
        fine = isinstance(network, SegmentationModel)
        require(fine, "build() to return a segacc.model.SegmentationModel", kind)
        network.num_channels = told.num_channels
        return network.eval()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels that the network accepts."""
        return self.facts.crop_size

    def images(self, network: SegmentationModel, size: tuple[int, int] | None = None) -> Tensor:
        """Return a batch of two normalized images (2, C, H, W) float32."""
        channels = [k % 3 for k in range(network.num_channels)]
        return network.normalize(some_images(size or self.size)[:, channels])

    @torch.no_grad()
    def main(self, network: SegmentationModel) -> Tensor:
        """Return the logits (2, K, h, w) of such a batch in evaluation."""
        logits: Logits = network.eval()(self.images(network))
        return logits.main


def subject_of(record: Architecture, options: Any) -> Subject:
    """Choose a small crop that the network accepts."""
    with attempt("the network to be built"):
        subject = Subject(record, options, facts_of(3, crop_size=(64, 64)))
        rule = subject.build().size_rule
        fine = isinstance(rule, SizeRule)
        require(fine, "size_rule to be a segacc.model.SizeRule", type(rule).__name__)
        return replace(subject, facts=replace(subject.facts, crop_size=rule.fit((64, 64))))


def check_network(subject: Subject, *, num_channels: Sequence[int], head_and_encoder: bool) -> None:
    """Check the network in evaluation, in training, and after saving and loading."""
    with attempt("the network to be built and to segment images"):
        same_weights(subject)
        for num_classes in (3, 5):
            shapes(subject, num_classes)
        for count in num_channels:
            channels(subject, count)
        sizes(subject)
        batches(subject)
        steps(subject)
    with attempt("a forward and backward pass in training"):
        reached(subject)
        if head_and_encoder:
            divided(subject)
    with attempt("a forward and backward pass in bfloat16, by autocast"):
        learn(subject, subject.build(), bf16=True)
    with attempt("a forward and backward pass with gradient checkpointing"):
        checkpointed(subject)
    with TemporaryDirectory() as folder:
        with attempt("weights to be saved and loaded"):
            network = saved(subject, Path(folder))
            config_file(subject, Path(folder))
            state_dict(subject, network)
            comes_back(subject, network, folder, None, "build(options)")
        if subject.record.model_types:
            with attempt("a network to be built from the folder it was saved in"):
                options = subject.record.options(config=Path(folder))
                comes_back(subject, network, folder, options, "build(options(config=FOLDER))")
        with attempt("weights to be loaded into a network of other classes"):
            fresh_head(subject, folder)
            other_classes(subject, network, folder)


# --------------------------------------------------------------------------------- forward pass


def same_weights(subject: Subject) -> None:
    """Check that the same seed gives the same float32 weights."""
    first, again = subject.build().state_dict(), subject.build().state_dict()
    names = [n for n in first if n not in again or not torch.equal(first[n], again[n])]
    require(
        not names and len(first) == len(again),
        "two networks built with the same torch seed to have equal weights",
        f"other weights in {first_of(names, 4)}: use torch's generator to draw them",
    )
    kinds = {f"{name}: {one.dtype}" for name, one in first.items() if one.is_floating_point()}
    others = sorted(kind for kind in kinds if not kind.endswith("torch.float32"))
    require(not others, "float32 weights; the run chooses the precision", first_of(others, 4))


def shapes(subject: Subject, num_classes: int) -> None:
    """Check that Logits have K channels, and auxiliary ones occur in training only."""
    network, (height, width) = subject.build(num_classes=num_classes), subject.size
    names = list(inspect.signature(network.forward).parameters)
    expected = "forward(images) to take images only; labels are passed to losses only"
    require(len(names) == 1, expected, f"forward({', '.join(names)})")
    for mode in ("evaluation", "training"):
        logits = network.train(mode == "training")(subject.images(network))
        with attempt(f"segacc.model.Logits of {num_classes} classes in {mode}"):
            check_logits(logits, 2, num_classes=num_classes, where="--arch")
        main, weights = logits.main, [weight for _, weight in logits.auxiliary]
        fine = main.shape[2] <= height and main.shape[3] <= width
        require(fine, f"logits of at most {height}x{width} in {mode}", f"{tuple(main.shape)}")
        found = f"{main.dtype}" if main.isfinite().all() else f"{main.dtype} with nan or inf"
        require(found == "torch.float32", f"finite float32 logits in {mode}", found)
        fine = mode == "training" or not weights
        require(fine, "auxiliary logits in training only", f"{len(weights)} in evaluation")
        fine = all(weight > 0 for weight in weights)
        require(fine, "auxiliary logits with weights above 0", first_of(weights, 4))


def channels(subject: Subject, num_channels: int) -> None:
    """Check that `facts.num_channels` is used."""
    with attempt(f"images of facts.num_channels={num_channels} channels to be accepted"):
        subject.main(subject.build(num_channels=num_channels))


def sizes(subject: Subject) -> None:
    """Check that every accepted size works and that all pixels are used."""
    network = subject.build()
    for size in accepted(network.size_rule, subject.size):
        told = f"{size[0]}x{size[1]}, which size_rule accepts"
        with attempt(f"images of {told}, to be accepted"):
            images = subject.images(network, size).requires_grad_()
            main = network(images).main
        grad = None
        if main.requires_grad:
            weights = torch.randn(main.shape, generator=torch.Generator().manual_seed(0))
            (grad,) = torch.autograd.grad((main * weights).sum(), images, allow_unused=True)
        expected = "a gradient of the logits with respect to the image"
        require(grad is not None, expected, "none: something is detached")
        counts = {"rows": unseen(grad, 2), "columns": unseen(grad, 3)}
        missing = [f"{count} {name}" for name, count in counts.items() if count]
        require(
            not missing,
            f"logits that depend on all of an image of {told}",
            f"that its last {' and '.join(missing)} have no effect: declare "
            "SizeRule(multiple=...) so that segacc pads, or pad in forward",
        )


def accepted(rule: SizeRule, crop: tuple[int, int]) -> list[tuple[int, int]]:
    """Return some sizes that the rule accepts, odd and non-square ones if possible."""
    (height, width), step = crop, rule.multiple
    least = -(-max(rule.minimum, 16) // step) * step
    more = ((0, 0), (7, 13), (1, 3), (2 * step, step), (step, step))
    some = [*((height + rows, width + columns) for rows, columns in more), (least, least)]
    return [size for size in dict.fromkeys(some) if not rule.complaint(size)]


def unseen(grad: Any, axis: int) -> int:
    """Count the last rows (axis 2) or columns (3) of (N, C, H, W) that are all 0."""
    seen = grad.abs().amax([k for k in range(4) if k != axis]).nonzero().flatten()
    return int(grad.shape[axis] - 1 - (int(seen[-1]) if len(seen) else -1))


def batches(subject: Subject) -> None:
    """Check that in evaluation an image's logits depend on the image only."""
    network = subject.build()
    first, again = subject.main(network), subject.main(network)
    expected = "the same logits for the same images in evaluation, twice"
    require(torch.equal(first, again), expected, gap(first, again))
    with attempt("a batch of one image to be accepted in evaluation"), torch.no_grad():
        alone = torch.cat([network(one[None]).main for one in subject.images(network)])
    expected = "the same logits for an image alone and in a batch of two, in evaluation"
    require(close(alone, first, 1e-4), expected, gap(alone, first))


@torch.no_grad()
def steps(subject: Subject) -> None:
    """Check that on_step may be called before each step."""
    network = subject.build()
    with attempt("on_step(0, 10) to on_step(9, 10), and forward after each"):
        for step in range(10):
            network.train().on_step(step, 10)
            if step in (0, 9):
                network(subject.images(network))


# -------------------------------------------------------------------------------- backward pass


def learn(
    subject: Subject, network: SegmentationModel, *, bf16: bool = False, seed: int = 1
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run forward and backward like a training step; return the finite loss and gradients."""
    network.train().on_step(0, 10)
    torch.manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits: Any = network(subject.images(network))
    logits, precision = (convert_to_fp32(logits), " in bfloat16") if bf16 else (logits, "")
    labels = some_labels(subject.size, subject.facts.num_classes)
    losses = network.losses(subject.facts)
    if not losses:
        record = registry_of().find("loss", "cross_entropy", "segacc.testing")
        losses = {"cross_entropy": record.build(record.options(), subject.facts)}
    run: Any = SimpleNamespace(losses=losses)
    counts = torch.stack([loss.count(labels) for loss in losses.values()])
    total: Any = (loss_sums(run, logits, labels) / counts.where(counts > 0, 1)).sum()
    require(total.isfinite(), f"a finite loss{precision}", f"{total}")
    total.backward()
    named = network.named_parameters()
    gradients = {name: one.grad for name, one in named if one.grad is not None}
    broken = [name for name, one in gradients.items() if not one.isfinite().all()]
    require(not broken, f"finite gradients{precision}", f"inf or nan for {first_of(broken, 4)}")
    return total.detach(), gradients


def reached(subject: Subject) -> None:
    """Check that most parameters have a gradient; segacc freezes those without."""
    network = subject.build()
    _, gradients = learn(subject, network)
    wanted = {n: one.numel() for n, one in network.named_parameters() if one.requires_grad}
    require(wanted, "some trainable parameters", "none")
    missing = [name for name in wanted if name not in gradients]
    share = sum(wanted[name] for name in missing) / sum(wanted.values())
    expected = "a gradient for most parameters (segacc freezes the others)"
    found = f"none for {first_of(missing, 4)}: {100 * share:.0f} % of all parameters"
    require(share <= 0.5, expected, found)


def divided(subject: Subject) -> None:
    """Check that some parameters belong to the head, and some to the encoder."""
    network = subject.build()
    names = [name for name, one in network.named_parameters() if one.requires_grad]
    count = sum(map(network.is_head, names))
    require(
        0 < count < len(names),
        "is_head() to be true for some trainable parameters and false for others",
        f"{count} of {len(names)} in the head: set head_prefixes, or check with "
        "head_and_encoder=False",
    )


def checkpointed(subject: Subject) -> None:
    """Check that gradient checkpointing gives the same loss and gradients, if it is supported."""
    network = subject.build()
    answer = network.enable_gradient_checkpointing()
    expected = "enable_gradient_checkpointing() to return True or False"
    require(isinstance(answer, bool), expected, f"{answer!r}")
    if not answer:
        return
    loss, gradients = learn(subject, network)
    plain_loss, plain = learn(subject, subject.build())
    same, found = torch.isclose(loss, plain_loss, rtol=1e-5), f"{loss:.6g} and {plain_loss:.6g}"
    require(same, "the same loss with gradient checkpointing as without", found)
    expected = "the same gradients with gradient checkpointing as without"
    missing = sorted({*plain} ^ {*gradients})
    require(not missing, expected, f"none for {first_of(missing, 4)}")
    off = different(gradients, plain, 1e-5)
    require(not off, expected, f"other ones for {first_of(off, 4)}")


def different(mine: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> list[str]:
    """Return the names of tensors that differ, relative to their own or the overall largest value.

    Gradients that are 0 up to rounding, such as those of a key's bias, are compared with the
    others.
    """
    largest = max((one.abs().max().item() for one in theirs.values()), default=0.0)
    return [
        name
        for name, one in theirs.items()
        if (mine[name] - one).abs().max() > tolerance * (one.abs().max() + 0.1 * largest)
    ]


# ---------------------------------------------------------------------------- saving and loading


def saved(subject: Subject, folder: Path) -> SegmentationModel:
    """Build a network, run it once in training so that its statistics change, and save it."""
    network = subject.build(seed=1)
    network.train().on_step(0, 10)
    with torch.no_grad():
        network(subject.images(network))
    state = {name: one.clone() for name, one in network.eval().state_dict().items()}
    network.save_pretrained(folder, names=subject.facts.class_names, state_dict=state)
    return network


def config_file(subject: Subject, folder: Path) -> None:
    """Check that config.json has the class names, and the model_type if there is one."""
    names, kinds = subject.facts.class_names, subject.record.model_types
    found = stored_names(folder)
    expected = f"id2label in config.json to be {', '.join(names)}"
    require(tuple(found) == names, expected, first_of(found, 4) or "none")
    told = str(json.loads((folder / "config.json").read_text()).get("model_type"))
    require(not kinds or told in kinds, f"model_type in config.json: {' or '.join(kinds)}", told)


def state_dict(subject: Subject, network: SegmentationModel) -> None:
    """Check that the state dict determines the logits."""
    again = subject.build(seed=2)
    again.load_state_dict(network.state_dict())
    mine, theirs = subject.main(again), subject.main(network)
    found = f"{gap(mine, theirs)} after load_state_dict: register such tensors as buffers"
    require(close(mine, theirs, 1e-5), "state_dict() to determine the logits", found)


def comes_back(
    subject: Subject, network: SegmentationModel, folder: str, options: Any, how: str
) -> None:
    """Check that a new network with the saved weights gives the same logits.

    Small differences are allowed, because the memory layout of tensors affects kernel selection.
    """
    again = subject.build(seed=2, options=options)
    report = again.load_weights(folder, class_names=subject.facts.class_names)
    what, how = "all tensors of save_pretrained", f"{how} and load_weights"
    require(
        not report.new, f"{what} to be restored by {how}", f"that {first_of(report.new, 4)} are new"
    )
    found = f"that {first_of(report.dropped, 4)} are not used"
    require(not report.dropped, f"{what} to be used by {how}", found)
    mine, theirs = subject.main(again), subject.main(network)
    expected = f"the same logits after save_pretrained, {how}"
    require(close(mine, theirs, 1e-5), expected, gap(mine, theirs))


def fresh_head(subject: Subject, folder: str) -> None:
    """Check that the head is not loaded if it is to be fresh."""
    network = subject.build(seed=2, num_classes=4)
    before = {name: one.clone() for name, one in network.state_dict().items()}
    names = facts_of(4).class_names
    network.load_weights(folder, class_names=names, fresh_head=True)
    heads = {n: one for n, one in network.named_parameters() if network.is_head(n)}
    moved = [name for name, one in heads.items() if not torch.equal(one, before[name])]
    expected = "load_weights(fresh_head=True) not to load the head"
    require(not moved, expected, f"that {first_of(moved, 4)} changed")


def other_classes(subject: Subject, network: SegmentationModel, folder: str) -> None:
    """Check that rows of classes with the same name are reused: a new class, then 3 reversed."""
    names = ("house", *reversed(subject.facts.class_names))
    kept = subject.build(seed=2, num_classes=4, class_names=names)
    kept.load_weights(folder, class_names=names)
    mine, theirs = kept.state_dict(), network.state_dict()
    for module in kept.classifiers:
        rows = [name for name in mine if name.startswith(f"{module}.") and mine[name].ndim]
        expected = f"`classifiers` to list modules with tensors; {module} is listed"
        require(rows, expected, "no tensor with this name")
        for name in rows:
            more, fewer = mine[name], theirs[name]
            fine = len(more) - len(fewer) == 1 and len(fewer) >= 3
            expected = f"{name}, listed in `classifiers`, to have a row for each class"
            require(fine, expected, f"{len(more)} for 4, {len(fewer)} for 3")
            expected = f"rows of {name} to be reused by class name in a network with other classes"
            require(torch.equal(more[1:4], fewer[:3].flip(0)), expected, "other values")
