"""The tensors of mmsegmentation's networks by the names that they have in transformers.

For mmsegmentation 0.x and 1.x: MiT with SegFormer's head, Swin and ConvNeXt with UPerNet's, and
ResNet, also with DeepLabV3+'s. The names are those of `mmseg/models/backbones` and `decode_heads`,
and of ConvNeXt in mmpretrain; SegFormer's own repository, whose names differ, is read too.
"""

from torch import Tensor

from segacc.errors import WeightsError, first_of
from segacc.model.weight_files.renaming import Rule, Tensors, rename, within

KNOWN = (
    "Of mmsegmentation's weights, those of SegFormer, of UPerNet on Swin and ConvNeXt, of "
    "DeepLabV3+ on ResNet, and of ResNet encoders can be loaded."
)
STAGES = "segformer.stages"
BLOCK = {
    **{"norm1": "layernorm_before", "norm2": "layernorm_after"},
    **{r"attn\.sr": "attention.sequence_reduction.sequence_reduction"},
    **{r"attn\.norm": "attention.sequence_reduction.layer_norm"},
}
"""Parts of a block of MiT with the same names in mmsegmentation and in SegFormer's repository."""


def to_linear(tensor: Tensor) -> Tensor:
    """Return a 1x1 convolution's weight (O, I, 1, 1) as that of a linear layer, (O, I)."""
    return tensor.flatten(1) if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def to_blocks(tensor: Tensor) -> Tensor:
    """Reorder the input channels of Swin's patch merging, the last dimension (..., 4 C).

    mmsegmentation's come from torch's unfold, where all 4 pixels of a channel are together, row by
    row; in transformers all channels of a pixel are together, column by column.
    """
    if tensor.shape[-1] % 4:
        return tensor
    grid = tensor.reshape(*tensor.shape[:-1], -1, 2, 2)  # (..., C, row, column)
    return grid.transpose(-1, -3).flatten(-3)  # (..., column, row, C)


def last_first(tensor: Tensor) -> Tensor:
    """Reverse the four feature maps (C channels each) in the input of SegFormer's fusion (O, 4 C).

    mmsegmentation concatenates from the finest to the coarsest, transformers in reverse.
    """
    if tensor.ndim != 4 or tensor.shape[1] % 4:
        return tensor
    grid = tensor.reshape(tensor.shape[0], 4, -1, *tensor.shape[2:])
    return grid.flip(1).flatten(1, 2)


def _mit() -> list[Rule]:
    """Return the rules of mmsegmentation's MixVisionTransformer."""
    layer = r"backbone\.layers\.(\d+)"
    start, block = rf"{layer}\.1\.(\d+)", rf"{STAGES}.\1.blocks.\2"
    attention = rf"{block}.attention"
    qkv = tuple(rf"{attention}.{one}_proj.\3" for one in "qkv")
    embedding = {r"0\.projection": "proj", r"0\.norm": "layer_norm"}
    stage = {old: f"patch_embeddings.{new}" for old, new in embedding.items()} | {"2": "layer_norm"}
    return [
        *within(layer, rf"{STAGES}.\1", stage),
        Rule(rf"{start}\.attn\.attn\.in_proj_(weight|bias)", qkv),
        *within(start, block, {r"attn\.attn\.out_proj": "attention.o_proj", **BLOCK}),
        Rule(rf"{start}\.ffn\.layers\.0\.(.+)", (rf"{block}.mlp.fc1.\3",), to_linear),
        *within(start, block, {r"ffn\.layers\.1": "mlp.dwconv.dwconv"}),
        Rule(rf"{start}\.ffn\.layers\.4\.(.+)", (rf"{block}.mlp.fc2.\3",), to_linear),
    ]


def _authors_mit() -> list[Rule]:
    """Return the rules of MiT in SegFormer's own repository, where stages are counted from 1."""
    rules: list[Rule] = []
    for k in range(4):
        start, block = rf"backbone\.block{k + 1}\.(\d+)", rf"{STAGES}.{k}.blocks.\1"
        key_value = tuple(rf"{block}.attention.{one}_proj.\2" for one in "kv")
        stage = {
            rf"patch_embed{k + 1}\.proj": "patch_embeddings.proj",
            rf"patch_embed{k + 1}\.norm": "patch_embeddings.layer_norm",
            f"norm{k + 1}": "layer_norm",
        }
        mlp = {r"mlp\.fc1": "mlp.fc1", r"mlp\.fc2": "mlp.fc2"}
        mlp[r"mlp\.dwconv\.dwconv"] = "mlp.dwconv.dwconv"
        attention = {r"attn\.q": "attention.q_proj", r"attn\.proj": "attention.o_proj"}
        rules += [
            *within("backbone", f"{STAGES}.{k}", stage),
            Rule(rf"{start}\.attn\.kv\.(weight|bias)", key_value),
            *within(start, block, {**BLOCK, **attention, **mlp}),
        ]
        head = {rf"linear_c{k + 1}\.proj": f"linear_projections.{k}.proj"}
        rules += within(r"decode_head", "decode_head", head)
    last = {r"linear_fuse\.conv": "linear_fuse", r"linear_fuse\.bn": "batch_norm"}
    return [*rules, *within("decode_head", "decode_head", {**last, "linear_pred": "classifier"})]


SEGFORMER_HEAD = [
    *within(
        r"decode_head\.convs\.(\d)",
        r"decode_head.linear_projections.\1",
        {"conv": "conv", "bn": "norm"},
    ),
    Rule(r"decode_head\.fusion_conv\.conv\.(.+)", (r"decode_head.linear_fuse.\1",), last_first),
    *within("decode_head", "decode_head", {r"fusion_conv\.bn": "batch_norm"}),
    *within("decode_head", "decode_head", {"conv_seg": "classifier"}),
]
"""mmsegmentation's SegformerHead."""


def _swin(swin: str) -> list[Rule]:
    """Return the rules of mmsegmentation's SwinTransformer; `swin` is transformers' prefix."""
    stage, layer = r"backbone\.stages\.(\d+)", rf"{swin}.encoder.layers.\1"
    start, block = rf"{stage}\.blocks\.(\d+)", rf"{layer}.blocks.\2"
    attention, bias = rf"{block}.attention", "relative_position_bias_table"
    qkv = tuple(rf"{attention}.{one}_proj.\3" for one in "qkv")
    parts = {
        **{"norm1": "layernorm_before", "norm2": "layernorm_after"},
        **{r"attn\.w_msa\.proj": "attention.o_proj"},
        **{r"ffn\.layers\.0\.0": "mlp.fc1", r"ffn\.layers\.1": "mlp.fc2"},
    }
    embeddings = {"projection": "patch_embeddings.projection", "norm": "norm"}
    return [
        *within(r"backbone\.patch_embed", f"{swin}.embeddings", embeddings),
        Rule(rf"{start}\.attn\.w_msa\.qkv\.(weight|bias)", qkv),
        Rule(rf"{start}\.attn\.w_msa\.{bias}", (rf"{attention}.relative_position_bias.{bias}",)),
        Rule(rf"{start}\.attn\.w_msa\.relative_position_index", ()),
        *within(start, block, parts),
        Rule(rf"{stage}\.downsample\.(.+)", (rf"{layer}.downsample.\2",), to_blocks),
    ]


def _convnext() -> list[Rule]:
    """Return the rules of mmpretrain's ConvNeXt."""
    encoder = "backbone.encoder.stages"
    start, block = r"backbone\.stages\.(\d+)\.(\d+)", rf"{encoder}.\1.layers.\2"
    down = r"backbone\.downsample_layers\.([123])"
    return [
        *within(
            r"backbone\.downsample_layers\.0",
            "backbone.embeddings",
            {"0": "patch_embeddings", "1": "layernorm"},
        ),
        *within(down, rf"{encoder}.\1.downsampling_layer", {"0": "0", "1": "1"}),
        Rule(rf"{start}\.gamma", (rf"{block}.layer_scale_parameter",)),
        *within(start, block, {"depthwise_conv": "dwconv", "norm": "layernorm"}),
        *(
            Rule(rf"{start}\.pointwise_conv{k}\.(.+)", (rf"{block}.pwconv{k}.\3",), to_linear)
            for k in (1, 2)
        ),
    ]


NORMS = within(
    "backbone", "backbone", {f"norm{k}": f"hidden_states_norms.stage{k + 1}" for k in range(4)}
)
"""Norms on the feature maps of Swin and ConvNeXt."""


def _uper_head() -> list[Rule]:
    """Return the rules of UPerHead, and of FCNHead as auxiliary head."""
    heads = r"(decode_head|auxiliary_head)"
    return [
        *within(heads, r"\1", {"conv_seg": "classifier"}),
        Rule(rf"{heads}\.(.+)\.bn\.(.+)", (r"\1.\2.batch_norm.\3",)),
    ]


def segformer(found: Tensors, own: Tensors, fresh_head: bool) -> dict[str, Tensor]:
    """Rename the tensors of a SegFormer for transformers' network, or for `decoder=mmseg`.

    Raises:
        WeightsError: the file has the other of the two decoders, unless the head is not loaded.
    """
    found = with_backbone(found, ("layers.", "patch_embed1."))
    theirs = "decode_head.convs.0.conv.weight" in found
    authors = "decode_head.linear_c1.proj.weight" in found
    mine = any(".linear_projections.0.norm." in name for name in own)
    if theirs and not mine and not fresh_head:
        raise WeightsError(
            "its decoder is mmsegmentation's, with batch norm and ReLU after the convolution of "
            "each feature map. Add decoder=mmseg to --arch segformer to load it, or leave it out "
            "by --head fresh."
        )
    if authors and mine and not fresh_head:
        raise WeightsError(
            "its decoder is that of SegFormer's authors. Leave out decoder=mmseg to load it, or "
            "leave out the decoder by --head fresh."
        )
    if authors:  # which do not use mmsegmentation's classifier, but have it too
        found = {name: one for name, one in found.items() if ".conv_seg." not in name}
    rules = [*_mit(), *_authors_mit(), *(SEGFORMER_HEAD if theirs else ())]
    return _recognized(rename(found, rules), own)


def upernet(found: Tensors, own: Tensors, fresh_head: bool) -> dict[str, Tensor]:
    """Rename the tensors of a UPerNet on Swin or ConvNeXt for transformers' network."""
    found = with_backbone(found, ("stages.", "patch_embed.", "downsample_layers."))
    inner = any(name.startswith("backbone.swin.") for name in own)
    head = _uper_head() if "decode_head.psp_modules.0.1.conv.weight" in found else []
    swin = _swin("backbone.swin" if inner else "backbone")
    return _recognized(rename(found, [*swin, *_convnext(), *NORMS, *head]), own)


def resnet(found: Tensors, own: Tensors, fresh_head: bool) -> dict[str, Tensor]:
    """Return the tensors of a network on ResNet, whose encoder has the names of torchvision.

    Raises:
        WeightsError: the encoder has a deep stem, or a head of mmsegmentation would be loaded.
    """
    found = with_backbone(found, ("conv1.", "layer1.", "stem."))
    if any(name.startswith("backbone.stem.") for name in found):
        raise WeightsError(
            "its encoder is ResNetV1c or V1d, which begin with three convolutions (a deep stem); "
            "torchvision's ResNet begins with one. --arch deeplabv3plus has such encoders, as "
            f"backbone=timm/resnet50c. {KNOWN}"
        )
    if any(name.startswith("decode_head.") for name in found) and not fresh_head:
        raise WeightsError(
            "its head (decode_head) is mmsegmentation's, which torchvision's networks do not have. "
            "Load the encoder alone by --head fresh."
        )
    return found


TIMM = "backbone._backbone."
"""What transformers puts before the names of a timm network."""
STEM = {"0": "conv1.0", "1": "conv1.1", "3": "conv1.3", "4": "conv1.4", "6": "conv1.6", "7": "bn1"}
"""A deep stem: three convolutions and batch norms."""
TIMM_RESNET = [
    *within(r"backbone\.stem", "backbone._backbone", STEM),
    Rule(r"backbone\.((?:conv1|bn1|layer\d)\..+)", (r"backbone._backbone.\1",)),
]
"""mmsegmentation's ResNet, V1c and V1d, whose blocks have the names of torchvision and timm."""
DEPTHS: dict[tuple[tuple[int, ...], bool], str] = {
    **{((2, 2, 2, 2), False): "18", ((3, 4, 6, 3), False): "34", ((3, 4, 6, 3), True): "50"},
    **{((3, 4, 23, 3), True): "101", ((3, 8, 36, 3), True): "152"},
}
"""Layers of a ResNet by the blocks of its stages, and whether they are bottlenecks."""
SECOND = "decode_head.sep_bottleneck.0.depthwise_conv.conv.weight"
"""Part of DeepLabV3+'s decoder that DeepLabV3 does not have."""


def resnet_name(names: Tensors) -> str:
    """Return timm's name for the ResNet with these tensors; empty for another encoder.

    `resnet50c` has a deep stem, and `resnet50d` also averages before the convolutions of shortcuts.
    """
    inner = [name.removeprefix(TIMM) for name in names if name.startswith(TIMM)]
    stages = [
        {one.split(".")[1] for one in inner if one.startswith(f"layer{k}.")} for k in (1, 2, 3, 4)
    ]
    blocks = tuple(len(found) for found in stages)
    if 0 in blocks:
        return ""
    depth = DEPTHS.get((blocks, "layer1.0.conv3.weight" in inner), "-".join(map(str, blocks)))
    averages = any(".downsample.2." in one for one in inner)
    return f"resnet{depth}{'d' if averages else 'c' if 'conv1.0.weight' in inner else ''}"


def deeplabv3plus(found: Tensors, own: Tensors, fresh_head: bool) -> dict[str, Tensor]:
    """Rename the tensors of a DeepLabV3+ on ResNet, or of a ResNet of mmsegmentation or timm.

    Raises:
        WeightsError: it is another ResNet than the network's; or, unless the head is not loaded,
            the decoder is another one, or mmsegmentation dilates the encoder otherwise than timm.
    """
    if any(name.startswith(TIMM) for name in found):  # saved by segacc
        return dict(found)
    found = with_backbone(found, ("stem.", "conv1.", "layer1."))
    state = _recognized(rename(found, TIMM_RESNET), own)
    theirs, mine = resnet_name(state), resnet_name(own)
    if any(name.startswith("decode_head.") for name in state) and not fresh_head:
        _refuse_head(state, theirs)
    if theirs and theirs != mine:
        lacking = theirs in ("resnet18c", "resnet34c")
        hint = "timm has no such network." if lacking else f"Choose backbone=timm/{theirs}."
        raise WeightsError(
            f"its encoder is {theirs} by the names of timm, and that of the chosen architecture is "
            f"{mine or 'no ResNet'}. {hint}"
        )
    return state


def _refuse_head(state: Tensors, encoder: str) -> None:
    """Refuse a decoder that is not DeepLabV3+'s, or whose encoder is dilated otherwise.

    timm dilates both convolutions of a basic block, and averages in shortcuts of stride 1 too.

    Raises:
        WeightsError: the error tells without its origin.
    """
    if SECOND not in state:
        raise WeightsError(
            "its decoder (decode_head) has no sep_bottleneck, so it is not that of DeepLabV3+, but "
            "another one, such as DeepLabV3's. Load the encoder alone by --head fresh."
        )
    if encoder.startswith(("resnet18", "resnet34")) or encoder.endswith("d"):
        raise WeightsError(
            f"its encoder is {encoder} by the names of timm, which dilates it otherwise than "
            "mmsegmentation, so that logits would differ. DeepLabV3+ on ResNet and ResNetV1c with "
            "50, 101 or 152 layers can be loaded; of others, the encoder alone by --head fresh."
        )


def _recognized(state: dict[str, Tensor], own: Tensors) -> dict[str, Tensor]:
    """Return renamed tensors.

    Raises:
        WeightsError: none of the names is the network's.
    """
    if state.keys().isdisjoint(own):
        raise WeightsError(
            f"none of its tensors ({first_of(state, 3)}) is known to this architecture. {KNOWN} "
            "Choose the architecture and variant that the file was saved from."
        )
    return state


def with_backbone(found: Tensors, starts: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors of an encoder alone with the prefix that it has in a network."""
    if any(name.startswith("backbone.") for name in found):
        return dict(found)
    alone = any(name.startswith(starts) for name in found)
    return {f"backbone.{name}" if alone else name: one for name, one in found.items()}
