"""A plugin whose network needs much memory, under a real limit or with an error where it is told.

`offer` in tests/plugin_tools.py writes it into a folder as pip would.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import segacc


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much memory there is, and where it is full anyway."""

    room: int = 0
    """Memory that the first step may take in MB; 0: no limit."""
    only: str = ""
    """The rank to which `room` and `full` apply; empty: all."""
    full: str = ""
    """Where an error of full memory is raised: forward, loss or backward."""
    images: int = 1
    """It is raised for more images than this."""
    call: int = 0
    """It is raised in this call only, counted from 1; 0: in all."""
    after: int = 0
    """It is raised after so many steps."""
    noise: bool = False
    """With batch norm and dropout."""


def is_meant(options: Options) -> bool:
    return options.only in ("", os.environ.get("RANK", "0"))


def limit(room: int) -> None:
    """Let this process have so many MB more than it has now; 0 lifts the limit."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + room * 10**6 if room else hard, hard))


class Fault:
    """Raises torch's error of full memory."""

    def __init__(self, options: Options) -> None:
        self.options, self.calls, self.trains = options, 0, False

    def at(self, place: str, images: int) -> None:
        import torch

        options = self.options
        if options.full != place or not is_meant(options) or not self.trains:
            return
        self.calls += 1
        if images > options.images and options.call in (0, self.calls):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def through(fault: Fault, images: int) -> Any:
    """Return a function whose backward pass may fail."""
    from torch.autograd import Function

    class Through(Function):
        @staticmethod
        def forward(ctx: Any, maps: Any) -> Any:
            return maps.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            fault.at("backward", images)
            return gradient

    return Through.apply


def network(options: Options, facts: segacc.Facts) -> Any:
    """Build it: large activations first, then more parameters than fit in one bucket of DDP.

    Nothing of it is compiled when it is first called, as oneDNN's convolutions are, which then fail
    for good if the memory was full.
    """
    import torch
    from torch import nn
    from torch.nn.functional import avg_pool2d

    from segacc.model import Logits, SegmentationModel

    def parameter(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(*shape))

    class Network(SegmentationModel):
        head_prefixes = ("head",)

        def __init__(self) -> None:
            super().__init__()
            self.fault = Fault(options)
            self.body = nn.ParameterList(parameter(16, 1, 1) for _ in range(4))
            self.noise = nn.Sequential(nn.BatchNorm2d(16), nn.Dropout(0.2))
            self.deep = nn.ParameterList(parameter(512, 512) for _ in range(4))
            self.head = parameter(facts.num_classes, 16, 1, 1)
            if not options.noise:
                self.noise = nn.Sequential()

        def on_step(self, step: int, total: int) -> None:
            self.fault.trains = step >= options.after
            if options.room and is_meant(options):  # later threads take an unknown share of it
                limit(options.room if step == 0 else 0)

        def forward(self, images: Any) -> Any:
            if options.room and not self.training:
                limit(0)
            maps = images.mean(1, keepdim=True)
            for weight in self.body:
                maps = (maps * weight).tanh()
            maps = avg_pool2d(self.noise(maps), 8)
            if self.training:
                self.fault.at("forward", len(images))
                maps = through(self.fault, len(images))(maps)
            for weight in self.deep:
                maps = maps + weight.square().mean()
            return Logits((maps[:, None] * self.head).sum(2))

    return Network()


class Loss:
    """Cross-entropy."""

    def __init__(self, options: Options) -> None:
        self.fault = Fault(options)

    def count(self, labels: Any) -> Any:
        self.fault.trains = labels.shape[-1] != 48  # that of the trial before training
        return (labels != 255).sum().float()

    def sum(self, logits: Any, labels: Any) -> Any:
        from torch.nn.functional import cross_entropy

        from segacc.kernels.resize import resize_to_labels

        self.fault.at("loss", len(labels))
        full = resize_to_labels(logits, labels)
        return cross_entropy(full, labels, ignore_index=255, reduction="sum")


@segacc.hookimpl
def segacc_architectures() -> list[segacc.Architecture]:
    record = segacc.Architecture(
        name="hungry",
        summary="Needs much memory.",
        options=Options,
        build=network,
        default_weights=lambda options: None,
        tiny=Options,
    )
    return [record]


@segacc.hookimpl
def segacc_losses() -> list[segacc.Loss]:
    build = lambda options, facts: Loss(options)  # noqa: E731
    return [segacc.Loss(name="hungry", summary="s", options=Options, build=build)]
