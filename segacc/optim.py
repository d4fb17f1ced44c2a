"""Parameter groups: encoder or head, with or without weight decay."""

import re
from typing import Any

from torch import nn

from segacc.model import SegmentationModel

NO_DECAY = re.compile(
    r"(^|[._])(pos(ition(al)?)?_?emb\w*|relative_position_bias\w*|(cls|mask|reg\w*)_token\w*)"
)
"""Names of embeddings that must not be pulled to zero."""


def parameter_groups(
    model: SegmentationModel, *, lr: float, head_lr_scale: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Group the trainable parameters: encoder or head, with or without decay.

    Norms and biases are the parameters of at most one dimension; they and embeddings have no decay.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim <= 1 or NO_DECAY.search(name) is not None
            groups.setdefault((model.is_head(name), plain), []).append(parameter)
    return [
        {
            "head": head,
            "name": ("head" if head else "encoder") + (", no decay" if plain else ""),
            "params": groups[head, plain],
            "lr": lr * (head_lr_scale if head else 1.0),
            "initial_lr": lr * (head_lr_scale if head else 1.0),
            "weight_decay": 0.0 if plain else weight_decay,
        }
        for head, plain in sorted(groups)
    ]
