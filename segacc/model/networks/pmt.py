"""PMT's decoder on a plain ViT, usually a frozen one; transformers lacks it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.backbone_utils import load_backbone
from transformers.utils import ModelOutput

from segacc.model.networks.configs import PmtSegConfig
from segacc.model.networks.linear import FrozenBackboneModel

HEAD_DIM = 64
"""Width of an attention head of nearly every ViT, for those whose config does not tell."""


@dataclass
class PmtOutput(ModelOutput):  # type: ignore[misc]
    """The predictions of N images, by the names of transformers.

    Attributes:
        class_queries_logits: (N, Q, K + 1), the last class is "no object".
        masks_queries_logits: (N, Q, h, w).
        auxiliary_logits: the same of the tokens before each block, in order, as dicts; in
            evaluation only where attention is masked.
        patch_offsets: as given.
    """

    class_queries_logits: Tensor | None = None
    masks_queries_logits: Tensor | None = None
    auxiliary_logits: tuple[dict[str, Tensor], ...] | None = None
    patch_offsets: list[Tensor] | None = None


class Lateral(nn.Module):
    """The way of one encoder layer to the decoder: batch norm, residual MLP, scale per channel.

    Args:
        width: C.
        scale: layer scale, 1 at first.
    """

    def __init__(self, width: int, scale: nn.Module) -> None:
        """Build the layers; see the class."""
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.down = nn.Linear(width, width // 2)
        self.up = nn.Linear(width // 2, width)
        self.scale = scale

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (N, T, C) to the same shape."""
        normed: Tensor = self.norm(tokens.mT).mT
        projected: Tensor = self.up(F.gelu(self.down(normed)))
        scaled: Tensor = self.scale(normed + projected)
        return scaled


def decoder_config(config: PmtSegConfig, width: int) -> Any:
    """Return the config of EoMT's parts in transformers, of which the decoder is made.

    The encoder's rotary positions are also the decoder's; for a ViT without them it gets those of
    DINOv3, as in the authors' code, but without their random rescaling in training.
    """
    from transformers import EomtDinov3Config

    inner: Any = config.backbone_config
    heads = [one for one in range(max(width // HEAD_DIM, 1), 0, -1) if width % (4 * one) == 0]
    more: dict[str, Any] = {}
    if rope := getattr(inner, "rope_parameters", None):
        more["rope_parameters"] = dict(rope)
    parts = EomtDinov3Config(
        hidden_size=width,
        intermediate_size=config.intermediate_size,
        num_attention_heads=getattr(inner, "num_attention_heads", None) or heads[0],
        layer_norm_eps=1e-5,
        patch_size=config.patch_size,
        num_upscale_blocks=max(1, int(math.log2(config.patch_size)) - 2),
        pos_embed_rescale=None,
        **more,
    )
    parts._attn_implementation = config._attn_implementation
    return parts


class PmtForUniversalSegmentation(FrozenBackboneModel):
    """A plain ViT, frozen unless the config says otherwise, and the Plain Mask Decoder.

    The tokens of four encoder layers, normalized and projected, are summed; queries are put before
    them, and blocks like DINOv3's process all tokens, with EoMT's masked attention and heads. After
    Cavagnero et al., PMT (CVPR 2026 workshops, arXiv 2603.25398), and the settings of tue-mps/pmt.
    A frozen backbone has no gradients and stays in evaluation mode. Images may have any size that
    the backbone takes.
    """

    config_class = PmtSegConfig
    # Not "backbone", or transformers would rename the decoder's tensors as those of a DINOv2 too.
    base_model_prefix = "pmt"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: PmtSegConfig) -> None:
        """Build with random weights."""
        # Not above: this module may be imported in the middle of transformers' own import.
        from transformers.models.eomt_dinov3 import modeling_eomt_dinov3 as eomt

        super().__init__(config)
        self.backbone = load_backbone(config)
        width = self.backbone.channels[-1]
        parts = decoder_config(config, width)
        self.laterals = nn.ModuleList(
            Lateral(width, eomt.EomtDinov3LayerScale(parts)) for _ in self.backbone.channels
        )
        self.query = nn.Embedding(config.num_queries, width)
        self.rope_embeddings = eomt.EomtDinov3RotaryEmbedding(parts)
        self.layers = nn.ModuleList(eomt.EomtDinov3Layer(parts) for _ in range(config.num_blocks))
        self.layernorm = nn.LayerNorm(width)
        self.upscale_block = eomt.EomtDinov3ScaleBlock(parts)
        self.mask_head = eomt.EomtDinov3MaskHead(parts)
        self.class_predictor = nn.Linear(width, config.num_labels + 1)
        self.weight_dict = {
            "loss_cross_entropy": config.class_weight,
            "loss_mask": config.mask_weight,
            "loss_dice": config.dice_weight,
        }
        self.criterion = eomt.EomtDinov3Loss(config=config, weight_dict=self.weight_dict)
        self.register_buffer("attn_mask_probs", torch.ones(config.num_blocks))
        self.post_init()
        self.train(self.training)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the decoder like torch, as the authors do, and the rest like transformers."""
        from transformers import initialization as init

        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            module.reset_parameters()
            return
        super()._init_weights(module)
        for name in ("lambda1", "attn_mask_probs"):
            if isinstance(one := getattr(module, name, None), Tensor):
                init.ones_(one)
        if hasattr(module, "empty_weight"):  # of the criterion
            weight = torch.ones(self.config.num_labels + 1)
            weight[-1] = self.config.no_object_weight
            init.copy_(module.empty_weight, weight)

    def encode(self, pixel_values: Tensor) -> list[Tensor]:
        """Return the tokens (N, T, C) of the chosen layers, after the encoder's last norm.

        They start with its class and register tokens. A network of timm returns patches only, and
        BEiT has no norm at its end.
        """
        learning = torch.is_grad_enabled() and not self.config.freeze_backbone
        with torch.set_grad_enabled(learning):
            if self.config.backbone_config.model_type == "timm_backbone":
                maps = self.backbone(pixel_values).feature_maps
                return [one.flatten(2).mT for one in maps]
            states = self.backbone(pixel_values, output_hidden_states=True).hidden_states
            norms = (getattr(self.backbone, name, None) for name in ("norm", "layernorm"))
            norm = next(filter(None, norms), nn.Identity())
            return [norm(states[k]) for k in self.backbone.out_indices]

    def forward(
        self, pixel_values: Tensor, patch_offsets: list[Tensor] | None = None, **kwargs: Any
    ) -> PmtOutput:
        """Map images (N, C, H, W) to classes and masks; masks have 4 x 4 pixels per patch of 16.

        Args:
            pixel_values: the images, normalized.
            patch_offsets: as EomtImageProcessor gives them for images that it splits.
            kwargs: unused.
        """
        height, width = (side // self.config.patch_size for side in pixel_values.shape[-2:])
        found = self.decode(self.encode(pixel_values), (height, width))
        return PmtOutput(
            **found[-1], auxiliary_logits=tuple(found[:-1]), patch_offsets=patch_offsets
        )

    def decode(self, states: Sequence[Tensor], grid: tuple[int, int]) -> list[dict[str, Tensor]]:
        """Map the encoder's tokens, each (N, T, C), to the predictions of all blocks, in order.

        Args:
            states: of the chosen layers; the last h * w of the T tokens are the patches.
            grid: (h, w).
        """
        hidden = sum(lateral(one) for lateral, one in zip(self.laterals, states, strict=True))
        hidden = torch.cat([self.query.weight.expand(len(hidden), -1, -1), hidden], dim=1)
        side = self.config.patch_size
        image = self.query.weight.new_empty(1, 1, grid[0] * side, grid[1] * side)  # for its shape
        positions, found = self.rope_embeddings(image), []
        for number, block in enumerate(self.layers):
            mask = None
            if self.training or self.attn_mask_probs[number] > 0:
                found.append(self.predict(hidden, grid))
                mask = self._attention_mask(hidden, found[-1]["masks_queries_logits"], number, grid)
            hidden = block(hidden, attention_mask=mask, position_embeddings=positions)
        return [*found, self.predict(hidden, grid)]

    def predict(self, hidden: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        """Predict class and mask of each query from the tokens (N, Q + T, C) before a block."""
        hidden = self.layernorm(hidden)
        queries, patches = hidden[:, : self.config.num_queries], hidden[:, -grid[0] * grid[1] :]
        maps = self.upscale_block(patches.mT.reshape(len(hidden), -1, *grid))
        masks = torch.einsum("nqc,nchw->nqhw", self.mask_head(queries), maps)
        return {
            "class_queries_logits": self.class_predictor(queries),
            "masks_queries_logits": masks,
        }

    @torch.no_grad()
    def _attention_mask(
        self, hidden: Tensor, masks: Tensor, block: int, grid: tuple[int, int]
    ) -> Tensor:
        """Let each query see the patches inside its mask only: (N, 1, T, T), added to the scores.

        In training, a random part of the queries, rising as the block's probability falls, sees
        all patches. Queries always see each other and the class and register tokens.
        """
        count, tokens = hidden.shape[:2]
        inside = F.interpolate(masks, size=grid, mode="bilinear").flatten(2) > 0  # (N, Q, h * w)
        if self.training:
            chance = torch.rand(inside.shape[:2], device=hidden.device)
            inside |= (chance >= self.attn_mask_probs[block])[..., None]
        mask = hidden.new_zeros(count, 1, tokens, tokens)
        outside = ~inside[:, None]
        mask[:, :, : outside.shape[2], -outside.shape[3] :].masked_fill_(
            outside, torch.finfo(hidden.dtype).min
        )
        return mask
