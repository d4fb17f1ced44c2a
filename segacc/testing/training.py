"""Checks of an architecture: gradients, precision, gradient checkpointing."""

from typing import Any

import torch
from accelerate.utils.operations import convert_to_fp32
from torch import Tensor

from segacc.model import SegmentationModel
from segacc.testing.subject import Subject
from segacc.testing.tools import few


def check(subject: Subject, *, head_and_encoder: bool) -> None:
    """Check the backward pass."""
    with subject.report.attempt("a forward and backward pass in training"):
        reached(subject)
        if head_and_encoder:
            divided(subject)
    with subject.report.attempt("a forward and backward pass in bfloat16, by autocast"):
        half(subject)
    with subject.report.attempt("a forward and backward pass with gradient checkpointing"):
        checkpointed(subject)


def learn(
    subject: Subject, network: SegmentationModel, *, bf16: bool = False, seed: int = 1
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run forward and backward like a training step; return the loss and the gradients."""
    network.train().on_step(0, 10)
    torch.manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = network(subject.images(network))
    converted: Any = convert_to_fp32(logits) if bf16 else logits  # like accelerate
    loss = subject.loss(network, converted, subject.labels())
    expected = f"a finite loss{' in bfloat16' if bf16 else ''}"
    subject.report.require(torch.isfinite(loss), expected, f"{loss}")
    loss.backward()  # type: ignore[no-untyped-call]
    named = network.named_parameters()
    return loss.detach(), {name: one.grad for name, one in named if one.grad is not None}


def reached(subject: Subject) -> None:
    """Check that most parameters have a finite gradient; segacc freezes those without."""
    network = subject.build()
    _, gradients = learn(subject, network)
    finite(subject, gradients, "finite gradients")
    wanted = {n: one.numel() for n, one in network.named_parameters() if one.requires_grad}
    total, missing = sum(wanted.values()), [name for name in wanted if name not in gradients]
    share = sum(wanted[name] for name in missing) / max(total, 1)
    expected = "a gradient for most parameters (segacc freezes the others)"
    found = f"none for {few(missing)}: {100 * share:.0f} % of all parameters"
    subject.report.require(wanted, "some trainable parameters", "none")
    subject.report.require(share <= 0.5, expected, found)


def finite(subject: Subject, gradients: dict[str, Tensor], expected: str) -> None:
    """Check that gradients are finite."""
    broken = [name for name, one in gradients.items() if not torch.isfinite(one).all()]
    subject.report.require(not broken, expected, f"inf or nan for {few(broken)}")


def divided(subject: Subject) -> None:
    """Check that some parameters belong to the head, and some to the encoder."""
    network = subject.build()
    names = [name for name, one in network.named_parameters() if one.requires_grad]
    heads = [name for name in names if network.is_head(name)]
    expected = "is_head() to be true for some trainable parameters and false for others"
    found = f"{len(heads)} of {len(names)} in the head"
    cure = "set head_prefixes, or check with head_and_encoder=False"
    subject.report.require(0 < len(heads) < len(names), expected, f"{found}: {cure}")


def half(subject: Subject) -> None:
    """Check that gradients are finite with mixed precision."""
    _, gradients = learn(subject, subject.build(), bf16=True)
    finite(subject, gradients, "finite gradients in bfloat16")


def checkpointed(subject: Subject) -> None:
    """Check that gradient checkpointing gives the same loss and gradients, if it is supported."""
    network = subject.build()
    answer = network.enable_gradient_checkpointing()
    expected = "enable_gradient_checkpointing() to return True or False"
    subject.report.require(isinstance(answer, bool), expected, f"{answer!r}")
    if not answer:
        return
    loss, gradients = learn(subject, network)
    plain_loss, plain = learn(subject, subject.build())
    same = torch.isclose(loss, plain_loss, rtol=1e-5)
    expected = "the same loss with gradient checkpointing as without"
    subject.report.require(same, expected, f"{loss:.6g} and {plain_loss:.6g}")
    missing = sorted({*plain} ^ {*gradients})
    expected = "the same gradients with gradient checkpointing as without"
    subject.report.require(not missing, expected, f"none for {few(missing)}")
    off = different(gradients, plain, 1e-5)
    subject.report.require(not off, expected, f"other ones for {few(off)}")


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
