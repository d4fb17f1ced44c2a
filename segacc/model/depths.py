"""Numbers the parameters of an encoder by depth, from their names, for `--layer-decay`.

With two stages of two blocks each, L is 4, and the depths are:

    stem.weight                   0
    stages.0.blocks.1.weight      2
    stages.1.downsample.weight    3    part of the next block
    stages.1.blocks.1.weight      4
    norm.weight                   5    as is the head
"""

import re
from collections.abc import Sequence

BLOCKS = (
    r"(?:^|\.)(?P<stage>(?:layers?|blocks?|stages?|s)[._]?\d+)"
    r"(?P<block>\.(?:transformer\.)?(?:(?:layers?|blocks|b)[._]?)?\d+)?\."
)
"""Finds the block of a parameter in the naming of transformers, torchvision and timm: `layers.3.`,
`stages.1.blocks.0.`, `layer2.0.`, `s1.b2.`. A parameter with a `stage` but no `block`, such as a
patch merging layer, belongs to a neighbouring block; a stage without blocks is a block itself."""

NORMS = ("norms.", "norm.")
"""Name parts before a number that is not a block number: `hidden_states_norms.stage2.` are norms
on a backbone's outputs, after its last block."""


def block_depths(names: Sequence[str], pattern: str = BLOCKS) -> tuple[dict[str, int], int]:
    """Number an encoder's parameters by depth.

    Args:
        names: parameter names of the encoder in order of registration, which is the order of use.
        pattern: a regular expression with the groups `stage` and `block`, searched in each name.

    Returns:
        Depths by name: 0 before the first block, 1..L for the L blocks in order, L + 1 after the
        last one; and L, which is 0 if no block is found.
    """
    parts = [_place(name, pattern) for name in names]
    divided = {stage for stage, block in parts if block != stage}
    parts = [(stage, "" if block in divided else block) for stage, block in parts]
    order = {block: k for k, block in enumerate(dict.fromkeys(b for _, b in parts if b), 1)}
    found, depth, within = {}, 0, ""
    for name, (stage, block) in zip(names, parts, strict=True):
        if block:
            depth, within = order[block], stage
        elif stage:  # part of the next block, or of the last one of its stage
            found[name] = depth + 1 if depth and stage != within else depth
            continue
        behind = not block and 0 < depth == len(order)
        found[name] = depth + 1 if behind else depth
    return found, len(order)


def _place(name: str, pattern: str) -> tuple[str, str]:
    """Return the prefixes of a name up to its stage and its block; equal if there is one level."""
    match = re.search(pattern, name)
    if match is None or name[: match.start("stage")].endswith(NORMS):
        return "", ""
    stage = name[: match.end("stage")]
    return stage, name[: match.end("block")] if match["block"] else stage
