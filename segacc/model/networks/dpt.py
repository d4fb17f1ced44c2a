"""DPT's decoder on any plain ViT; transformers' DPT always builds a ViT of its own."""

from typing import Any

from torch import Tensor
from transformers.backbone_utils import load_backbone
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.modeling_utils import PreTrainedModel

from segacc.model.networks.configs import DptSegConfig
from segacc.model.networks.linear import segmenter_output


class DptForSemanticSegmentation(PreTrainedModel):  # type: ignore[misc]
    """A plain ViT with the decoder and heads of transformers' DPTForSemanticSegmentation.

    The decoder sees patch tokens only: the readout is "ignore" (Ranftl et al., DPT, ICCV 2021,
    section 3), as a backbone returns no class token. Images may have any shape.
    """

    config_class = DptSegConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"

    def __init__(self, config: DptSegConfig) -> None:
        """Build with random weights."""
        # Not above: this module may be imported in the middle of transformers' own import.
        from transformers.models.dpt.configuration_dpt import DPTConfig
        from transformers.models.dpt.modeling_dpt import (
            DPTAuxiliaryHead,
            DPTNeck,
            DPTSemanticSegmentationHead,
        )

        super().__init__(config)
        self.backbone = load_backbone(config)
        parts = DPTConfig(
            hidden_size=self.backbone.channels[-1],
            readout_type="ignore",
            neck_hidden_sizes=list(config.neck_hidden_sizes),
            fusion_hidden_size=config.fusion_hidden_size,
            use_batch_norm_in_fusion_residual=True,
            semantic_classifier_dropout=config.dropout,
            id2label=config.id2label,
        )
        self.neck = DPTNeck(parts)
        self.head = DPTSemanticSegmentationHead(parts)
        self.auxiliary_head = None
        if config.auxiliary_loss_weight > 0:
            self.auxiliary_head = DPTAuxiliaryHead(parts)
            self.auxiliary_head.head[3].p = config.dropout  # fixed at 0.1
        self.post_init()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any
    ) -> SemanticSegmenterOutput:
        """Map images (N, C, H, W) to logits (N, K, h, w), 16 per patch in height and width."""
        maps = self.backbone(pixel_values).feature_maps
        reassembled = zip(self.neck.reassemble_stage.layers, self.neck.convs, maps, strict=True)
        fused = self.neck.fusion_stage([conv(layer(one)) for layer, conv, one in reassembled])
        logits, auxiliary = self.head(fused), None
        if self.auxiliary_head is not None and (self.training or labels is not None):
            auxiliary = self.auxiliary_head(fused[-1])
        weight = self.config.auxiliary_loss_weight
        return segmenter_output(
            self, logits, labels, auxiliary_logits=auxiliary, auxiliary_loss_weight=weight
        )
