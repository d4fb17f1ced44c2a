"""Networks of transformers that classify masks, behind the contract of `segacc.model`.

A query says a class and a mask; the score of a class at a pixel is the sum over queries of the
class's probability times the mask's (Cheng et al., MaskFormer, NeurIPS 2021, section 3.4).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segacc.contracts import Facts, LossTerm
from segacc.errors import WeightsError
from segacc.kernels.masks import DenseLoss, PointLoss, Prediction, SetLoss, Term
from segacc.model.contract import Logits
from segacc.model.transfer import LoadReport, resize_positions
from segacc.model.transformers_model import TransformersModel
from segacc.model.transformers_weights import read_config

ANNEALING_POWER = 0.9
QUERIES = ("query", "queries_embedder", "queries_features")
"""Embeddings with a row for each query, by the last part of their name."""


def class_scores(prediction: Prediction, size: tuple[int, int] | None = None) -> Tensor:
    """Turn queries into scores of each class at each pixel.

    Args:
        prediction: of N images with Q queries.
        size: (h, w) that mask logits are resized to before the sigmoid, or None.

    Returns:
        (N, K, h, w) float32; not probabilities: they do not sum to 1.
    """
    masks = prediction.masks.float()
    if size is not None:
        masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
    with torch.autocast(masks.device.type, enabled=False):
        classes = prediction.classes.float().softmax(-1)[..., :-1]
        return torch.einsum("nqk,nqhw->nkhw", classes, masks.sigmoid())


class MaskModel(TransformersModel):
    """A network of transformers whose queries say a class and a mask.

    It brings its own loss in three terms: class, mask, dice. In evaluation its logits are the
    scores that `post_process_semantic_segmentation` of its image processor resizes to the image.

    Args:
        network: with `criterion` and `weight_dict`.
        image_processor: see TransformersModel.
        num_queries: Q.
        score_size: (h, w) that the image processor resizes mask logits to before their sigmoid;
            None where it leaves them.
        more: see TransformersModel.
    """

    set_loss: type[SetLoss] = PointLoss
    probabilities = True

    def __init__(
        self,
        network: Any,
        image_processor: Any,
        *,
        num_queries: int,
        score_size: tuple[int, int] | None = None,
        **more: Any,
    ) -> None:
        """Wrap; see the class."""
        super().__init__(network, image_processor, **more)
        self.num_queries, self.score_size = num_queries, score_size

    def forward(self, images: Tensor) -> Logits:
        """Map normalized images (N, C, H, W) to Logits; `queries` are Predictions, last first.

        Layers before the last are there in training only; there the scores, which no loss reads,
        are those of the masks as they are, without a gradient.
        """
        predictions = self.predictions(images)
        if not self.training:
            return Logits(self._scores(predictions[0], images), queries=predictions[:1])
        with torch.no_grad():
            return Logits(class_scores(predictions[0]), queries=predictions)

    def _scores(self, prediction: Prediction, images: Tensor) -> Tensor:
        """Score as the image processor does, and never finer than the images are."""
        scores = class_scores(prediction, self.score_size)
        sizes = zip(scores.shape[-2:], images.shape[-2:], strict=True)
        least = tuple(min(own, theirs) for own, theirs in sizes)
        if least == tuple(scores.shape[-2:]):
            return scores
        return F.interpolate(scores, size=least, mode="bilinear", align_corners=False)

    def predictions(self, images: Tensor) -> tuple[Prediction, ...]:
        """Predict with every decoder layer, the last one first, then from the first on."""
        found = self.network(pixel_values=images, output_auxiliary_logits=True)
        return layers_of(found, found.auxiliary_logits)

    def losses(self, facts: Facts) -> dict[str, LossTerm]:
        """Return class, mask and dice loss, of the weights in the network's config."""
        losses = self.set_loss(self.network, num_queries=self.num_queries)
        return {name: Term(losses, name) for name in losses.weights}

    def load_weights(
        self, source: str, *, class_names: Sequence[str] = (), fresh_head: bool = False
    ) -> LoadReport:
        """Load weights; the weight of "no object" stays this network's own."""
        report = super().load_weights(source, class_names=class_names, fresh_head=fresh_head)
        self.network.criterion.empty_weight.fill_(1.0)[-1] = self.network.criterion.eos_coef
        return report

    def resize_tensor(self, name: str, found: Tensor, own: Tensor) -> Tensor | None:
        """Take over as many queries as there are; fit the rest as TransformersModel does."""
        if name.endswith(tuple(f".{one}.weight" for one in QUERIES)):
            return take_queries(found, own)
        return super().resize_tensor(name, found, own)


def take_queries(found: Tensor, own: Tensor) -> Tensor | None:
    """Fill the first rows and the last, OneFormer's task, of `own` (Q, C) from (other Q, C)."""
    if found.shape[1] != own.shape[1]:
        return None
    filled, num_queries = own.clone(), min(len(found), len(own)) - 1
    filled[:num_queries], filled[-1] = found[:num_queries], found[-1]
    return filled


def layers_of(found: Any, auxiliary: Sequence[dict[str, Tensor]]) -> tuple[Prediction, ...]:
    """Read an output of transformers: the last layer's prediction, then the auxiliary ones."""
    last = Prediction(found.class_queries_logits, found.masks_queries_logits)
    others = (
        Prediction(one["class_queries_logits"], one["masks_queries_logits"]) for one in auxiliary
    )
    return (last, *others)


class OneFormerModel(MaskModel):
    """OneFormer, told in every forward pass that the task is semantic.

    Args:
        network: built with `is_training=False`: without text encoder.
        task: token ids of "the task is semantic".
        more: see MaskModel.
    """

    def __init__(self, network: Any, image_processor: Any, *, task: Sequence[int], **more: Any):
        """Wrap; see the class."""
        super().__init__(network, image_processor, **more)
        padded = [*task, *[0] * network.config.task_seq_len][: network.config.task_seq_len]
        self.register_buffer("task", torch.tensor([padded], dtype=torch.float32), persistent=False)

    def predictions(self, images: Tensor) -> tuple[Prediction, ...]:
        """Predict with every decoder layer, the last one first, then from the first on."""
        task = self.get_buffer("task").expand(len(images), -1)
        found = self.network(pixel_values=images, task_inputs=task, output_auxiliary_logits=True)
        return layers_of(found, found.auxiliary_predictions or ())


class MaskFormerModel(MaskModel):
    """MaskFormer, with a loss at every decoder layer as in the paper.

    transformers' own `use_auxiliary_loss` fails in a plain forward pass, and leaves out the norm
    between decoder and heads; so the heads are called here.
    """

    set_loss = DenseLoss

    def predictions(self, images: Tensor) -> tuple[Prediction, ...]:
        """Predict with every decoder layer, the last one first, then from the first on."""
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
            WeightsError: a bare Swin encoder, or what TransformersModel refuses.
        """
        if read_config(source).get("model_type") == "swin":
            raise WeightsError(
                f"{source}: holds a bare Swin encoder. MaskFormer's Swin is another one, whose "
                "tensors have other names. Give a whole MaskFormer, or choose mask2former, which "
                "takes this folder."
            )
        return super().load_weights(source, class_names=class_names, fresh_head=fresh_head)


class EomtModel(MaskModel):
    """EoMT: a plain ViT whose last blocks see the queries, at one image size.

    Args:
        annealing: in training, take the masks off the queries' attention, block after block, as
            the paper does; else their probabilities stay what the weights came with, but for the
            first evaluation, which makes them 0 or 1.
        more: see MaskModel.
    """

    def __init__(self, network: Any, image_processor: Any, *, annealing: bool, **more: Any) -> None:
        """Wrap, and keep what the network predicts at every block, which it does not return."""
        super().__init__(network, image_processor, **more)
        self.annealing = annealing
        self._found: list[Prediction] = []
        predict = network.predict

        def keep(tokens: Tensor) -> tuple[Tensor, Tensor]:
            masks, classes = predict(tokens)
            self._found.append(Prediction(classes, masks))
            return masks, classes

        network.predict = keep

    def predictions(self, images: Tensor) -> tuple[Prediction, ...]:
        """Predict with every block that sees the queries, the last one first."""
        self._found = []
        self.network(pixel_values=images)
        found, self._found = self._found, []
        return (found[-1], *found[:-1])

    def parameter_depths(self) -> dict[str, int]:
        """Tell how deep each parameter lies; the last norm comes before the blocks by name only."""
        found = super().parameter_depths()
        last = max(found.values())
        return {k: last if k.startswith("network.layernorm.") else v for k, v in found.items()}

    def on_step(self, step: int, total: int) -> None:
        """Set the probabilities with which attention is masked."""
        if self.annealing:
            probabilities = mask_probabilities(step, total, self.network.config.num_blocks)
            self.network.attn_mask_probs.copy_(torch.tensor(probabilities))

    def train(self, mode: bool = True) -> "EomtModel":
        """Switch; in evaluation a block is masked or not, so that predictions do not vary."""
        super().train(mode)
        if not mode:
            self.network.attn_mask_probs.round_()
        return self

    def resize_tensor(self, name: str, found: Tensor, own: Tensor) -> Tensor | None:
        """Fit position embeddings (T, C) of another image size."""
        if name.endswith("embeddings.position_embeddings.weight"):
            resized = resize_positions(found[None], own[None])
            return None if resized is None else resized[0]
        return super().resize_tensor(name, found, own)

    def save_pretrained(
        self, folder: Path, *, names: Sequence[str], state_dict: dict[str, Tensor]
    ) -> None:
        """Write; blocks are masked or not, as in evaluation."""
        key = "network.attn_mask_probs"
        fixed = {**state_dict, key: state_dict[key].round()}
        super().save_pretrained(folder, names=names, state_dict=fixed)


def mask_probabilities(step: int, total: int, num_blocks: int) -> list[float]:
    """Return the probability of masked attention in each block, in a step of `total`.

    It falls from 1 to 0 in one block after the other, over equal parts of the training; there is
    such a part before the first and after the last (Kerssies et al., CVPR 2025; the published
    configurations).
    """
    part = total / (num_blocks + 2)
    done = ((step - (block + 1) * part) / part for block in range(num_blocks))
    return [(1 - min(max(share, 0.0), 1.0)) ** ANNEALING_POWER for share in done]
