"""Mask classification networks of transformers, adapted to the interface of `segacc.model`.

Each query predicts a class and a mask; the score of a class at a pixel is the sum over queries of
class probability times mask probability (Cheng et al., MaskFormer, NeurIPS 2021, section 3.4).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segacc.contracts import Facts, LossTerm
from segacc.errors import WeightsError
from segacc.kernels.masks import DenseLoss, PointLoss, Prediction, SetLoss, Term
from segacc.model.contract import Logits
from segacc.model.transfer import LoadReport, fit_channels, resize_positions
from segacc.model.transformers_model import TransformersModel
from segacc.model.transformers_weights import read_config

ANNEALING_POWER = 0.9
QUERIES = ("query", "queries_embedder", "queries_features")
"""Last parts of the names of embeddings with one row per query."""


def class_scores(prediction: Prediction, size: tuple[int, int] | None = None) -> Tensor:
    """Combine the queries into scores of each class at each pixel.

    Args:
        prediction: for N images with Q queries.
        size: (h, w) to resize mask logits to before the sigmoid, or None.

    Returns:
        (N, K, h, w) float32 scores; they do not sum to 1.
    """
    masks = prediction.masks.float()
    if size is not None:
        masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
    device = masks.device.type
    with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
        classes = prediction.classes.float().softmax(-1)[..., :-1]
        return torch.einsum("nqk,nqhw->nkhw", classes, masks.sigmoid())


class MaskModel(TransformersModel):
    """A mask classification network of transformers.

    It defines its own loss with three terms: class, mask, dice. In evaluation, its logits are the
    scores that its image processor resizes in `post_process_semantic_segmentation`.

    Args:
        network: a network with `criterion` and `weight_dict`.
        image_processor: see TransformersModel.
        num_queries: Q, the number of queries; None for that in the network's config.
        score_size: (h, w) to which the image processor resizes mask logits before the sigmoid; None
            if it does not resize them.
        more: see TransformersModel.
    """

    set_loss: type[SetLoss] = PointLoss
    probabilities = True
    class_weighted = True
    one_size = "torch.export takes minutes to trace even a tiny one for images of any size"

    def __init__(
        self,
        network: Any,
        image_processor: Any,
        *,
        num_queries: int | None = None,
        score_size: tuple[int, int] | None = None,
        classifiers: Sequence[str] = ("class_predictor",),
        as_stored: Sequence[str] = ("num_queries",),
        **more: Any,
    ) -> None:
        """Wrap a network; see the class."""
        super().__init__(
            network, image_processor, classifiers=classifiers, as_stored=as_stored, **more
        )
        self.num_queries = network.config.num_queries if num_queries is None else num_queries
        self.score_size = score_size

    def forward(self, images: Tensor) -> Logits:
        """Map normalized images (N, C, H, W) to Logits; `queries` are Predictions, last first.

        Predictions of earlier layers are returned in training only. Then `main`, which no loss
        uses, is computed at mask resolution, without gradient.
        """
        predictions = self.predictions(images)
        if not self.training:
            return Logits(self._scores(predictions[0], images), queries=predictions[:1])
        with torch.no_grad():
            return Logits(class_scores(predictions[0]), queries=predictions)

    def _scores(self, prediction: Prediction, images: Tensor) -> Tensor:
        """Compute scores like the image processor, at most at the resolution of the images."""
        scores = class_scores(prediction, self.score_size)
        sizes = zip(scores.shape[-2:], images.shape[-2:], strict=True)
        least = tuple(min(own, theirs) for own, theirs in sizes)
        if least == tuple(scores.shape[-2:]):
            return scores
        return F.interpolate(scores, size=least, mode="bilinear", align_corners=False)

    def predictions(self, images: Tensor) -> tuple[Prediction, ...]:
        """Return the predictions of all decoder layers: the last one, then the others in order."""
        found = self.network(pixel_values=images, output_auxiliary_logits=True)
        return layers_of(found, found.auxiliary_logits)

    def losses(self, facts: Facts) -> dict[str, LossTerm]:
        """Return class, mask and dice loss with the weights in the network's config."""
        losses = self.set_loss(
            self.network, num_queries=self.num_queries, class_weights=facts.class_weights
        )
        return {name: Term(losses, name) for name in losses.weights}

    def load_weights(
        self, source: str, *, class_names: Sequence[str] = (), fresh_head: bool = False
    ) -> LoadReport:
        """Load weights, but keep this network's weight of "no object"."""
        report = super().load_weights(source, class_names=class_names, fresh_head=fresh_head)
        self._keep_weight()
        return report

    def load_file(
        self, path: str | Path, *, class_names: Sequence[str] = (), fresh_head: bool = False
    ) -> LoadReport:
        """Load a file of weights like `load_weights`."""
        report = super().load_file(path, class_names=class_names, fresh_head=fresh_head)
        self._keep_weight()
        return report

    def _keep_weight(self) -> None:
        self.network.criterion.empty_weight.fill_(1.0)[-1] = self.network.criterion.eos_coef

    def resize_tensor(self, name: str, found: Tensor, own: Tensor) -> Tensor | None:
        """Reuse as many queries as fit; resize other tensors like TransformersModel."""
        if name.endswith(tuple(f".{one}.weight" for one in QUERIES)):
            return take_queries(found, own)
        return super().resize_tensor(name, found, own)


def take_queries(found: Tensor, own: Tensor) -> Tensor | None:
    """Copy the first rows and the last (OneFormer's task) from `found` to `own`, (Q, C) each."""
    if found.shape[1] != own.shape[1]:
        return None
    filled, num_queries = own.clone(), min(len(found), len(own)) - 1
    filled[:num_queries], filled[-1] = found[:num_queries], found[-1]
    return filled


def layers_of(found: Any, auxiliary: Sequence[dict[str, Tensor]]) -> tuple[Prediction, ...]:
    """Convert an output of transformers: the last layer's prediction, then the auxiliary ones."""
    last = Prediction(found.class_queries_logits, found.masks_queries_logits)
    others = (
        Prediction(one["class_queries_logits"], one["masks_queries_logits"]) for one in auxiliary
    )
    return (last, *others)


class OneFormerModel(MaskModel):
    """OneFormer with the task input "semantic" in every forward pass.

    Args:
        network: built with `is_training=False`, i.e. without text encoder.
        task: token ids of "the task is semantic".
        more: see MaskModel.
    """

    def __init__(self, network: Any, image_processor: Any, *, task: Sequence[int], **more: Any):
        """Wrap a network; see the class."""
        super().__init__(network, image_processor, **more)
        padded = [*task, *[0] * network.config.task_seq_len][: network.config.task_seq_len]
        self.register_buffer("task", torch.tensor([padded], dtype=torch.float32), persistent=False)

    def predictions(self, images: Tensor) -> tuple[Prediction, ...]:
        """Return the predictions of all decoder layers: the last one, then the others in order."""
        task = self.get_buffer("task").expand(len(images), -1)
        found = self.network(pixel_values=images, task_inputs=task, output_auxiliary_logits=True)
        return layers_of(found, found.auxiliary_predictions or ())


class MaskFormerModel(MaskModel):
    """MaskFormer with a loss at every decoder layer, as in the paper.

    transformers' `use_auxiliary_loss` fails in a plain forward pass and omits the norm between
    decoder and heads, so the heads are called here.
    """

    set_loss = DenseLoss

    def predictions(self, images: Tensor) -> tuple[Prediction, ...]:
        """Return the predictions of all decoder layers: the last one, then the others in order."""
        found = self.network.model(images, output_hidden_states=self.training)
        states = [found.transformer_decoder_last_hidden_state]  # (N, Q, C), normalized
        if self.training:
            norm = self.network.model.transformer_module.decoder.layernorm
            states += [norm(state) for state in found.transformer_decoder_hidden_states[1:-1]]
        pixels = found.pixel_decoder_last_hidden_state  # (N, C, h, w)
        return tuple(self._predict(state, pixels) for state in states)

    def _predict(self, state: Tensor, pixels: Tensor) -> Prediction:
        masks = torch.einsum("nqc,nchw->nqhw", self.network.mask_embedder(state), pixels)
        return Prediction(self.network.class_predictor(state), masks)

    def load_weights(
        self, source: str, *, class_names: Sequence[str] = (), fresh_head: bool = False
    ) -> LoadReport:
        """Load a whole MaskFormer.

        Raises:
            WeightsError: the folder has a bare Swin encoder, or see TransformersModel.
        """
        if read_config(source).get("model_type") == "swin":
            raise WeightsError(
                f"{source}: contains a bare Swin encoder. MaskFormer uses another Swin, whose "
                "tensors have other names. Give weights of a whole MaskFormer, or choose "
                "mask2former, which can load this folder."
            )
        return super().load_weights(source, class_names=class_names, fresh_head=fresh_head)


class AnnealedModel(MaskModel):
    """A network whose masked attention is gradually disabled during training, as EoMT and PMT.

    Args:
        network: also has `attn_mask_probs`, (B,) probabilities of masked attention in its B blocks,
            and `num_blocks` in its config.
        annealing: in training, gradually disable masked attention, block after block, as in the
            paper; otherwise its probabilities stay as loaded until the first evaluation, which
            rounds them to 0 or 1.
        windows: shares of the training at which it begins and ends in each block with queries;
            empty for equal parts, one block after the other.
        more: see MaskModel.
    """

    no_export = "torch.export cannot trace its masked attention, which is on or off by a tensor"

    def __init__(
        self,
        network: Any,
        image_processor: Any,
        *,
        annealing: bool,
        windows: Sequence[tuple[float, float]] = (),
        **more: Any,
    ) -> None:
        """Wrap a network; see the class."""
        super().__init__(network, image_processor, **more)
        self.annealing = annealing
        self.windows = tuple(windows) or equal_windows(network.config.num_blocks)

    def on_step(self, step: int, total: int) -> None:
        """Set the probabilities of masked attention."""
        if self.annealing:
            probabilities = mask_probabilities(step, total, self.windows)
            self.network.attn_mask_probs.copy_(torch.tensor(probabilities))

    def train(self, mode: bool = True) -> "AnnealedModel":
        """Switch the mode; in evaluation the probabilities are rounded, to be deterministic."""
        super().train(mode)
        if not mode:
            self.network.attn_mask_probs.round_()
        return self

    def save_pretrained(
        self, folder: Path, *, names: Sequence[str], state_dict: dict[str, Tensor]
    ) -> None:
        """Write the network with rounded probabilities of masked attention, as in evaluation."""
        key = "network.attn_mask_probs"
        fixed = {**state_dict, key: state_dict[key].round()}
        super().save_pretrained(folder, names=names, state_dict=fixed)


class EomtModel(AnnealedModel):
    """EoMT: a plain ViT whose last blocks process the queries too, at one image size.

    Args:
        network: EoMT of transformers.
        more: see AnnealedModel.
    """

    def __init__(self, network: Any, image_processor: Any, **more: Any) -> None:
        """Wrap a network, and collect its predictions at each block, which it does not return."""
        super().__init__(network, image_processor, **more)
        self._found: list[Prediction] = []
        predict = network.predict

        def keep(tokens: Tensor) -> tuple[Tensor, Tensor]:
            masks, classes = predict(tokens)
            self._found.append(Prediction(classes, masks))
            return masks, classes

        disable = network._disable_attention_mask

        def disable_some(mask: Tensor, **more: Any) -> Tensor:
            return mask if mask.is_meta else disable(mask, **more)  # it asks for a value

        network.predict, network._disable_attention_mask = keep, disable_some

    def predictions(self, images: Tensor) -> tuple[Prediction, ...]:
        """Return the predictions of all blocks with queries: the last one, then the others."""
        self._found = []
        self.network(pixel_values=images)
        found, self._found = self._found, []
        return (found[-1], *found[:-1])

    def parameter_depths(self) -> dict[str, int]:
        """Return parameter depths; the last norm is registered before the blocks."""
        found = super().parameter_depths()
        last = max(found.values())
        return {k: last if k.startswith("network.layernorm.") else v for k, v in found.items()}

    def resize_tensor(self, name: str, found: Tensor, own: Tensor) -> Tensor | None:
        """Resize position embeddings (T, C) of another image size, or patches of another size.

        As timm does, from whose weights the authors start.
        """
        if name.endswith("embeddings.position_embeddings.weight"):
            resized = resize_positions(found[None], own[None], antialias=True)
            return None if resized is None else resized[0]
        if name.endswith("patch_embeddings.projection.weight") and found.shape[:1] == own.shape[:1]:
            from timm.layers import resample_patch_embed

            patches = resample_patch_embed(found, list(own.shape[2:]))
            same = patches.shape[1] == own.shape[1]
            return patches if same else fit_channels(patches, own.shape[1])
        return super().resize_tensor(name, found, own)


def equal_windows(num_blocks: int) -> tuple[tuple[float, float], ...]:
    """Return windows of equal length, one block after the other.

    There is one more part of the training before the first block and one after the last (Kerssies
    et al., CVPR 2025; the published configurations with DINOv2).
    """
    parts = num_blocks + 2
    return tuple(((k + 1) / parts, (k + 2) / parts) for k in range(num_blocks))


def mask_probabilities(
    step: int, total: int, windows: Sequence[tuple[float, float]]
) -> list[float]:
    """Return the probability of masked attention in each block at `step` of `total` steps.

    In a block's window, shares of the training, it falls from 1 to 0 as (1 - x) ** 0.9 for x from 0
    to 1 (Kerssies et al., CVPR 2025).
    """
    now = step / total
    done = ((now - start) / (end - start) for start, end in windows)
    return [(1 - min(max(share, 0.0), 1.0)) ** ANNEALING_POWER for share in done]
