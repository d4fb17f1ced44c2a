"""The order in memory of feature maps that are resized."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class ChannelsLast(TorchFunctionMode):
    """Resizes feature maps of one image in the order in which they lie in memory.

    `permute` and `reshape` make maps (1, C, h, w) of tokens (1, h * w, C). They leave the batch
    dimension a stride that torch does not count as its channels-last order, although the maps are
    in it. `interpolate` on a CPU then copies what it makes twice (torch 2.14), and the next
    convolution converts it: SegFormer-b0 takes half as long again for an image.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a torch function; give `interpolate` its input with usual channels-last strides."""
        # torch gives the input by position, however it was typed
        if func is F.interpolate and args[0].is_contiguous(memory_format=torch.channels_last):
            given, (_, channels, height, width) = args[0], args[0].shape
            strides = (channels * height * width, 1, width * channels, channels)
            args = (given.as_strided(given.shape, strides), *args[1:])
        return func(*args, **(kwargs or {}))


def ordered(images: Tensor, *, training: bool) -> AbstractContextManager[Any]:
    """Return the context for a forward pass of images (N, C, H, W): ChannelsLast for one on a CPU.

    In training, and in a graph that torch traces, it does nothing.
    """
    single = len(images) == 1 and images.device.type == "cpu"
    plain = training or not single or torch.compiler.is_compiling()
    return nullcontext() if plain else ChannelsLast()
