"""Low-rank adapters (LoRA, Hu et al., ICLR 2022) in a network's tensors: their names, and merging.

Nothing here needs peft, which put them there: a layer `query` with the weight W became
`query.base_layer` with W, `query.lora_A.default` with A and `query.lora_B.default` with B.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from segacc.errors import WeightsError
from segacc.model.exported import SIDE_FILE
from segacc.model.transfer import read_json, read_tensors

ADAPTER = re.compile(r"\.lora_(?P<part>[AB])\.default\.weight$")
"""The end of an adapter tensor's name."""
BASE = ".base_layer."
"""What peft inserts into the names of the tensors of an adapted layer."""


def is_adapter(name: str) -> bool:
    """Return whether a tensor is part of an adapter, by its name."""
    return ADAPTER.search(name) is not None


def adapters_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that are part of an adapter."""
    return {name: one for name, one in tensors.items() if is_adapter(name)}


def merged(tensors: Mapping[str, Tensor], alpha: int) -> dict[str, Tensor]:
    """Merge adapters into the weights: W + (alpha / r) B A, computed in float64.

    Args:
        tensors: all tensors of a network. A is (r, in) or, of a convolution, (r, in, kh, kw); B is
            (out, r) or (out, r, 1, 1); W is (out, in) or (out, in, kh, kw).
        alpha: the option of `--lora`; r is the number of rows of A.

    Returns:
        The tensors under the names of the network without adapters.
    """
    found = {}
    for name, one in tensors.items():
        path, base, rest = name.rpartition(BASE)
        if base and rest == "weight":
            a, b = (tensors[f"{path}.lora_{part}.default.weight"] for part in "AB")
            one = _sum(one, a, b, alpha / a.shape[0])
        if not is_adapter(name):
            found[f"{path}.{rest}" if base else name] = one
    return found


def _sum(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return W + scale B A, on the CPU, since not all devices have float64."""
    change = b.detach().cpu().double().flatten(1) @ a.detach().cpu().double().flatten(1)
    whole = weight.detach().cpu().double() + scale * change.view(weight.shape)
    return whole.to(weight.dtype)


def read_checkpoint(weights: Path, settings: Path) -> dict[str, Tensor]:
    """Read a checkpoint's safetensors file; adapters are merged, as in best/ and last/.

    Args:
        weights: the file.
        settings: the folder with the segacc.json of the run.

    Raises:
        WeightsError: the file is missing or damaged; or has adapters whose options are not known.
    """
    found = read_tensors(weights.parent, weights.name)
    if not adapters_of(found):
        return found
    side = settings / SIDE_FILE
    match read_json(side) if side.is_file() else {}:
        case {"lora": {"alpha": int() as alpha}}:
            return merged(found, alpha)
    raise WeightsError(
        f"{weights}: contains adapters of --lora, but {side} does not tell their `alpha`. Give "
        "best/ or last/ of this run, in which they are merged."
    )
