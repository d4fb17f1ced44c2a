"""PMT: its decoder beside the authors' structure, frozen encoders, weights, folders, errors."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data_tools import facts
from segacc.errors import OptionError
from segacc.evaluation.predict import predict
from segacc.evaluation.protocol import Protocol, default_protocol
from segacc.kernels.resize import resize
from segacc.model.contract import SizeRule
from segacc.model.probe import probe
from segacc.plugins.architectures.backbones import TEST
from segacc.plugins.architectures.pmt import PmtOptions, _sizes, build

NAMES = ("c0", "c1", "c2")
SMALL = {"num_queries": 5, "num_blocks": 2, "train_num_points": 64}
GRID = (4, 6)
PATCHES = {"dinov3_vit": 16, "dinov2_with_registers": 14}


def make(backbone: str = "dinov3_vit", seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    chosen: dict[str, Any] = {"backbone": backbone, **SMALL}
    if not backbone.startswith("timm/"):
        chosen["size"] = TEST
    options = PmtOptions(**(more if "config" in more else {**chosen, **more}))
    return build(options, facts(3, crop_size=(64, 64)))


def batch(height: int = 64, width: int = 96, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def stir(model: Any) -> None:
    """Give norms, scales and statistics other values than those they begin with."""
    torch.manual_seed(3)
    for name, one in model.network.named_parameters():
        if one.ndim == 1 and not name.startswith("backbone."):
            one.data.add_(0.2 * torch.randn_like(one))
    for name, one in model.network.named_buffers():
        if name.startswith("laterals.") and one.is_floating_point():
            one.add_(0.3 * torch.rand_like(one))


# -------------------------------------------------------------------------- the authors' structure


def norm(tokens: Tensor, state: dict[str, Tensor], name: str, eps: float) -> Tensor:
    """Normalize the last dimension."""
    mean, spread = tokens.mean(-1, keepdim=True), tokens.var(-1, keepdim=True, unbiased=False)
    return (tokens - mean) / (spread + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(tokens: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    found = tokens @ state[f"{name}.weight"].T
    return found + state[f"{name}.bias"] if f"{name}.bias" in state else found


def lateral(tokens: Tensor, state: dict[str, Tensor], name: str, training: bool) -> Tensor:
    """Batch norm over images and tokens, plus two linear layers of it, times a scale."""
    mean, spread = state[f"{name}.norm.running_mean"], state[f"{name}.norm.running_var"]
    if training:
        flat = tokens.flatten(0, 1)
        mean, spread = flat.mean(0), flat.var(0, unbiased=False)
    normed = (tokens - mean) / (spread + 1e-5).sqrt()
    normed = normed * state[f"{name}.norm.weight"] + state[f"{name}.norm.bias"]
    inner = F.gelu(linear(normed, state, f"{name}.down"))
    return (normed + linear(inner, state, f"{name}.up")) * state[f"{name}.scale.lambda1"]


def turned(heads: Tensor, grid: tuple[int, int]) -> Tensor:
    """Rotate the patches among the tokens (N, heads, T, D) as DINOv3 does; base 100."""
    size = heads.shape[-1]
    rows, columns = (2 * (torch.arange(side) + 0.5) / side - 1 for side in grid)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(-1, 2)
    speeds = 100 ** -(torch.arange(size // 4) * 4 / size)
    angles = (2 * math.pi * places[:, :, None] * speeds).flatten(1)  # (h * w, D / 2)
    first, second = heads[..., -len(places) :, :].chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    patches = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([heads[..., : -len(places), :], patches], dim=-2)


def block(
    tokens: Tensor, state: dict[str, Tensor], name: str, seen: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Compute a block of DINOv3 with 2 heads; `seen` (N, T, T) tells which token sees which."""
    normed = norm(tokens, state, f"{name}.norm1", 1e-5)
    query, key, value = (
        linear(normed, state, f"{name}.attention.{one}_proj").unflatten(2, (2, -1)).transpose(1, 2)
        for one in ("q", "k", "v")
    )
    query, key = turned(query, grid), turned(key, grid)
    scores = query @ key.mT / query.shape[-1] ** 0.5
    shares = scores.masked_fill(~seen[:, None], -math.inf).softmax(-1)
    mixed = linear((shares @ value).transpose(1, 2).flatten(2), state, f"{name}.attention.o_proj")
    tokens = tokens + mixed * state[f"{name}.layer_scale1.lambda1"]
    inner = linear(norm(tokens, state, f"{name}.norm2", 1e-5), state, f"{name}.mlp.up_proj")
    inner = linear(F.gelu(inner), state, f"{name}.mlp.down_proj")
    return tokens + inner * state[f"{name}.layer_scale2.lambda1"]


def heads(
    tokens: Tensor, state: dict[str, Tensor], grid: tuple[int, int], scale_blocks: int
) -> tuple[Tensor, Tensor]:
    """Compute class and mask logits of the 5 queries."""
    tokens = norm(tokens, state, "layernorm", 1e-5)
    queries = tokens[:, :5]
    maps = tokens[:, -grid[0] * grid[1] :].mT.unflatten(2, grid)
    for k in range(scale_blocks):
        one = f"upscale_block.block.{k}"
        maps = F.conv_transpose2d(
            maps, state[f"{one}.conv1.weight"], state[f"{one}.conv1.bias"], stride=2
        )
        maps = F.conv2d(F.gelu(maps), state[f"{one}.conv2.weight"], padding=1, groups=maps.shape[1])
        maps = norm(maps.movedim(1, -1), state, f"{one}.layernorm2d", 1e-6).movedim(-1, 1)
    masks = queries
    for k in (1, 2, 3):
        masks = linear(F.gelu(masks) if k > 1 else masks, state, f"mask_head.fc{k}")
    masks = (masks @ maps.flatten(2)).unflatten(2, maps.shape[2:])
    return linear(queries, state, "class_predictor"), masks


def read_plainly(
    states: list[Tensor], state: dict[str, Tensor], *, training: bool, masked: bool, scales: int
) -> list[tuple[Tensor, Tensor]]:
    """Compute the predictions of all blocks from the encoder's hidden states, each (N, T, C).

    As image/models/pmd.py and pmt.py of tue-mps/pmt describe them.
    """
    tokens = sum(lateral(one, state, f"laterals.{k}", training) for k, one in enumerate(states))
    tokens = torch.cat([state["query.weight"].expand(len(tokens), -1, -1), tokens], dim=1)
    found = []
    for k in range(2):
        found.append(heads(tokens, state, GRID, scales))
        seen = torch.ones(len(tokens), tokens.shape[1], tokens.shape[1], dtype=torch.bool)
        if masked:
            small = F.interpolate(found[-1][1], GRID, mode="bilinear").flatten(2)
            seen[:, :5, -small.shape[2] :] = small > 0
        tokens = block(tokens, state, f"layers.{k}", seen, GRID)
    return [*found, heads(tokens, state, GRID, scales)]


def bare(model: Any, folder: Path) -> Any:
    """Save the encoder alone, with random weights, as those on the Hub are; return it."""
    from transformers import AutoModel

    torch.manual_seed(5)
    encoder = AutoModel.from_config(model.network.config.backbone_config).eval()
    encoder.save_pretrained(folder)
    return encoder


@torch.no_grad()
@pytest.mark.parametrize("backbone", PATCHES)
def test_all_predictions_are_those_of_the_authors_structure(backbone: str, tmp_path: Path) -> None:
    model = make(backbone)
    encoder = bare(model, tmp_path)
    report = model.load_weights(str(tmp_path))
    assert report.dropped == () and not [one for one in report.new if not model.is_head(one)]
    stir(model)
    patch = PATCHES[backbone]
    images = batch(GRID[0] * patch, GRID[1] * patch)
    hidden = encoder(images, output_hidden_states=True).hidden_states
    assert len(hidden) == 5
    last_norm = getattr(encoder, "norm", None) or encoder.layernorm
    states = [last_norm(one) for one in hidden[1:]]
    assert states[0].shape[1] > 24 + 1, "class and register tokens enter the decoder"
    before = {name: one.clone() for name, one in model.network.state_dict().items()}
    for training, probability in ((True, 1.0), (True, 0.0), (False, 1.0), (False, 0.0)):
        model.train(training).network.load_state_dict(before)
        model.network.attn_mask_probs.fill_(probability)
        wanted = read_plainly(
            states, before, training=training, masked=probability == 1, scales=patch // 8
        )
        found = model.predictions(images)
        found = (*found[1:], found[0])
        assert len(found) == (1 if (training, probability) == (False, 0.0) else 3)
        for ours, theirs in zip(found, wanted[-len(found) :], strict=True):
            torch.testing.assert_close(ours.classes, theirs[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(ours.masks, theirs[1], rtol=1e-5, atol=1e-5)


def test_a_falling_probability_takes_masks_off_that_share_of_queries() -> None:
    model = make().train()
    network: Any = model.network
    network.attn_mask_probs.fill_(0.75)
    hidden, masks = torch.zeros(400, 5 + 2 + 24, 16), -torch.ones(400, 5, 16, 24)
    mask = network._attention_mask(hidden, masks, 0, GRID)
    assert mask.shape == (400, 1, 31, 31)
    assert not mask[:, :, 5:].any() and not mask[..., :7].any()
    hides = (mask[:, 0, :5, 7:] < -1e30).float().mean(-1)
    assert set(hides.unique().tolist()) == {0.0, 1.0}
    assert 0.71 < hides.mean() < 0.79  # of 2000


@pytest.mark.parametrize(("size", "layers"), [("small", 12), ("base", 12), ("large", 24)])
def test_the_sizes_are_the_authors(size: str, layers: int) -> None:
    """interaction_indices and hidden_dim of image/configs of tue-mps/pmt; layers from 0 there."""
    found = _sizes(PmtOptions(size=size), facts(3, crop_size=(64, 64)))
    assert PmtOptions().num_blocks == 6 and PmtOptions().num_queries == 100
    config = found["backbone_config"]
    theirs = [5, 11, 17, 23] if layers == 24 else [2, 5, 8, 11]
    assert [int(one.removeprefix("stage")) - 1 for one in config.out_features] == theirs
    assert found["intermediate_size"] == config.hidden_size
    assert found["patch_size"] == 16 and config.pos_embed_rescale is None


# --------------------------------------------------------------------------------- frozen encoders


def step(model: Any) -> None:
    """Take one step on the losses."""
    learns = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(learns, lr=1e-2)
    labels = torch.arange(96).div(33).long().expand(2, 64, 96)
    queries = model(batch()).queries
    assert len(queries) == 3
    terms = model.losses(facts(3)).values()
    sums = [term.sum(queries, labels) / term.count(labels) for term in terms]
    torch.stack(sums).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("unfreeze", [False, True])
def test_a_step_changes_the_decoder_and_only_an_encoder_that_is_not_frozen(unfreeze: bool) -> None:
    model = make(unfreeze=unfreeze).train()
    assert model.network.backbone.training is unfreeze
    assert model.network.layers.training and model.network.laterals.training
    parameters = dict(model.named_parameters())
    encoder = {name for name in parameters if not model.is_head(name)}
    assert encoder == {name for name in parameters if name.startswith("network.backbone.")}
    assert {name for name, one in parameters.items() if not one.requires_grad} == (
        set() if unfreeze else encoder
    )
    unused = probe(model, (64, 64)).unused
    assert unused == (("network.backbone.embeddings.mask_token",) if unfreeze else ())
    before = {name: one.clone() for name, one in model.state_dict().items()}
    step(model)
    after = model.state_dict()
    changed = {name for name, one in after.items() if not torch.equal(one, before[name])}
    assert changed >= {name for name in parameters if model.is_head(name)}
    assert bool(changed & encoder) is unfreeze
    assert all(parameters[name].grad is None for name in encoder) is not unfreeze
    assert "network.laterals.3.norm.running_mean" in changed


def test_parts_that_sharding_checkpointing_and_layer_decay_need() -> None:
    model = make(unfreeze=True)
    kinds = {type(module).__name__ for module in model.modules()}
    assert set(model._no_split_modules) == {"DINOv3ViTLayer", "EomtDinov3Layer"} <= kinds
    assert model.enable_gradient_checkpointing()
    assert model.network.layers[0].gradient_checkpointing
    depths = model.parameter_depths()
    assert depths["network.query.weight"] == depths["network.layers.0.norm1.weight"] == 5
    assert depths["network.backbone.norm.weight"] == 5
    assert depths["network.backbone.model.layer.2.norm1.weight"] == 3
    assert list(model.batchnorms()) == [f"network.laterals.{k}.norm" for k in range(4)]


# ---------------------------------------------------------------------------- folders, image sizes


@torch.no_grad()
def test_a_saved_folder_is_that_network(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation, pipeline

    model = make(no_object_weight=0.3)
    stir(model)
    model.train().on_step(9, 10)
    model.eval().save_pretrained(tmp_path, names=NAMES, state_dict=model.state_dict())
    loaded, info = AutoModelForUniversalSegmentation.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values())
    assert not any(one.requires_grad for one in loaded.backbone.parameters())
    images = batch()
    assert torch.equal(
        loaded.eval()(images).masks_queries_logits, model.network(images).masks_queries_logits
    )
    again = make(seed=3, config=tmp_path)
    report = again.load_weights(str(tmp_path), class_names=NAMES)
    assert report.new == report.dropped == ()
    assert torch.equal(again.eval()(images).main, model(images).main)

    pixels = torch.randint(256, (1, 3, 96, 160), dtype=torch.uint8)
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    given = processor(images=picture, return_tensors="pt")
    (theirs,) = processor.post_process_semantic_segmentation(
        loaded(**given), [(96, 160)], return_segmentation_scores=True
    )
    ours = resize(model(model.normalize(pixels)).main, (96, 160))[0]
    torch.testing.assert_close(ours, theirs["segmentation_scores"], rtol=1e-4, atol=1e-5)
    pipe: Any = pipeline("image-segmentation", model=str(tmp_path))
    mine = predict(model, model, pixels[0], Protocol())
    for one in pipe(picture, subtask="semantic"):
        found = torch.from_numpy(np.array(one["mask"])) > 0
        assert torch.equal(found, mine == int(one["label"][1:]))


def test_a_network_of_timm_gives_its_patches_at_its_one_size() -> None:
    pytest.importorskip("timm")
    model = make("timm/test_vit").eval()
    assert model.size_rule == SizeRule(fixed=(160, 160))
    assert model.network.layers[0].attention.num_heads == 1
    found = model(batch(160, 160)).main
    assert found.shape == (2, 3, 160, 160) and found.isfinite().all()
    assert default_protocol(model, (160, 160)).text().startswith("slide:crop=160")


@pytest.mark.parametrize("backbone", ["beit", "dinov2"])
def test_any_other_plain_vit_takes_any_multiple_of_its_patches(backbone: str) -> None:
    model = make(backbone).eval()
    patch = model.network.config.patch_size
    assert model(batch(3 * patch, 5 * patch)).main.isfinite().all()


# ----------------------------------------------------------------------------------------- errors


def test_what_is_no_plain_vit_is_refused() -> None:
    with pytest.raises(OptionError) as error:
        make("convnext")
    assert str(error.value) == (
        "--arch pmt: backbone=convnext: PMT needs a plain ViT, such as dinov3_vit; convnext has "
        "feature maps of several sizes, for which there is mask2former."
    )
    with pytest.raises(ValueError, match='Did you mean "dinov3_vit"'):
        make("dinov3")
    with pytest.raises(OptionError, match="pmt: annealing_start has 1 numbers, but 2 blocks have"):
        make(annealing_start=(0.1,), annealing_end=(0.2,))
