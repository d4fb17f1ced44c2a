"""How deep each parameter of an encoder lies, read off the names: for layer-wise learning rates."""

import re
from collections.abc import Sequence

BLOCKS = (
    r"(?:^|\.)(?P<stage>(?:layers?|blocks?|stages?|s)[._]?\d+)"
    r"(?P<block>\.(?:transformer\.)?(?:(?:layers?|blocks|b)[._]?)?\d+)?\."
)
"""Finds the block of a parameter as transformers, torchvision and timm number them: `layers.3.`,
`stages.1.blocks.0.`, `layer2.0.`, `s1.b2.`. What has a `stage` but no `block`, as a patch merging,
joins a neighbour; a stage without any block in it is a block itself."""

NORMS = ("norms.", "norm.")
"""Ends of what stands before a number that is no block's: `hidden_states_norms.stage2.` are a
backbone's norms of its outputs, behind its last block."""


def block_depths(names: Sequence[str], pattern: str = BLOCKS) -> tuple[dict[str, int], int]:
    """Number an encoder's parameters by depth.

    Args:
        names: of the encoder's parameters, in the order of registration, which is that of use.
        pattern: a regular expression with the groups `stage` and `block`, searched in each name.

    Returns:
        By name, 0 for what comes before the first block, 1..L for the L blocks in order, L + 1 for
        what comes after the last one; and L, which is 0 where no block is found.
    """
    places = [_place(name, pattern) for name in names]
    divided = {stage for stage, block in places if block != stage}
    places = [(stage, "" if block in divided else block) for stage, block in places]
    order = {block: k for k, block in enumerate(dict.fromkeys(b for _, b in places if b), 1)}
    found, depth, within = {}, 0, ""
    for name, (stage, block) in zip(names, places, strict=True):
        if block:
            depth, within = order[block], stage
        elif stage:  # it belongs to the next block, or to the last one of its stage
            found[name] = depth + 1 if depth and stage != within else depth
            continue
        behind = not block and 0 < depth == len(order)
        found[name] = depth + 1 if behind else depth
    return found, len(order)


def _place(name: str, pattern: str) -> tuple[str, str]:
    """Return the beginnings of a name that say its stage and its block; the same for one level."""
    match = re.search(pattern, name)
    if match is None or name[: match.start("stage")].endswith(NORMS):
        return "", ""
    stage = name[: match.end("stage")]
    return stage, name[: match.end("block")] if match["block"] else stage
