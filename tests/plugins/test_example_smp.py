"""examples/segacc-smp: the networks of segmentation-models-pytorch, compared with SMP and timm."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from cli_tools import TINY, Warm, assert_succeeded
from data_tools import facts
from launches import ROOT
from plugin_tools import pip_install
from segacc.errors import OptionError
from segacc.testing import check_architecture, check_import, registry_of

pytest_plugins = ["cli_fixtures"]
pytestmark = pytest.mark.slow

ENCODER = "tu-test_efficientnet"
"""An encoder of 82 thousand parameters."""
STRIDES = {
    **dict.fromkeys(("unet", "unetplusplus", "manet", "linknet"), 1),
    **dict.fromkeys(("fpn", "pan", "deeplabv3plus", "upernet", "segformer"), 4),
    **dict.fromkeys(("pspnet", "deeplabv3"), 8),
    "dpt": 2,
}
MULTIPLES = {"pspnet": 8, "deeplabv3": 8, "deeplabv3plus": 16, "pan": 16, "dpt": 16}
DPT = {
    "encoder": "tu-test_vit2",
    "depth": 3,
    "kwargs": {"decoder_intermediate_channels": [8, 8, 8], "decoder_fusion_channels": 8},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("smp") / "site"
    return pip_install(target, ROOT / "examples" / "segacc-smp")


@pytest.fixture(scope="module")
def plugin(site: Path) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield importlib.import_module("segacc_smp")


def network(plugin: ModuleType, **options: Any) -> Any:
    torch.manual_seed(0)
    return plugin.build(plugin.Options(**{"encoder": ENCODER, **options}), facts(3)).eval()


def write_encoder(folder: Path, name: str, colors: dict[str, Any]) -> Any:
    """Write a network of timm as the Hub has it, with random weights; return it."""
    whole = timm.create_model(name).eval()
    save_file(whole.state_dict(), folder / "model.safetensors")
    about = {"architecture": name, "pretrained_cfg": colors}
    (folder / "config.json").write_text(json.dumps(about))
    return whole


@pytest.mark.parametrize("decoder", STRIDES)
@torch.no_grad()
def test_resized_logits_are_the_output_of_smp(plugin: ModuleType, decoder: str) -> None:
    options = DPT if decoder == "dpt" else {}
    mine = network(plugin, decoder=decoder, **options)
    more = {"encoder_depth": 3, "dynamic_img_size": True} if decoder == "dpt" else {}
    kind = getattr(smp, plugin.CLASSES[decoder])
    name = options.get("encoder", ENCODER)
    theirs = kind(name, encoder_weights=None, classes=3, **options.get("kwargs", {}), **more)
    state = {name.removeprefix("network."): one for name, one in mine.state_dict().items()}
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, 128, 192)
    logits, stride = mine(images).main, STRIDES[decoder]
    assert logits.shape == (2, 3, 128 // stride, 192 // stride)
    resized = interpolate(logits, size=(128, 192), mode="bilinear", align_corners=True)
    torch.testing.assert_close(resized, theirs.eval()(images), rtol=0, atol=1e-6)
    assert mine.size_rule.multiple == MULTIPLES.get(decoder, 32)
    assert not mine.size_rule.complaint((128, 192))


def test_the_kit_accepts_a_decoder_with_and_one_without_upsampling(plugin: ModuleType) -> None:
    check_import("segacc_smp")
    record = registry_of(plugin).find("architecture", "smp", "this test")
    segformer = plugin.Options(decoder="segformer", encoder=ENCODER)
    check_architecture(record, record.tiny(), segformer)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "test_vit2"])
@torch.no_grad()
def test_weights_of_timm_are_read_from_a_folder(
    plugin: ModuleType, tmp_path: Path, name: str
) -> None:
    whole = write_encoder(tmp_path, name, {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]})
    options = {"decoder": "dpt", **DPT} if name == "test_vit2" else {}
    mine = network(plugin, **{**options, "encoder": f"tu-{name}"})
    assert mine.mean == ((0.485, 0.456, 0.406) if name == "test_efficientnet" else (0.5,) * 3)
    report = mine.load_weights(str(tmp_path))
    assert not [one for one in report.new if ".encoder." in one]
    assert (mine.mean, mine.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    images = torch.randn(1, 3, 160, 160)
    found = mine.network.encoder(images)
    last = found[0][-1] if name == "test_vit2" else found[-1]
    torch.testing.assert_close(last, whole.forward_intermediates(images)[1][-1])
    mine.save_settings(tmp_path)
    resumed = network(plugin)
    resumed.load_settings(tmp_path)
    assert (resumed.mean, resumed.std) == (mine.mean, mine.std)


def test_weights_of_smp_are_read_from_a_folder(plugin: ModuleType, tmp_path: Path) -> None:
    theirs = smp.FPN("resnet18", encoder_weights=None, classes=3).eval()
    theirs.save_pretrained(tmp_path / "whole")
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    save_file(theirs.encoder.state_dict(), encoder / "model.safetensors")
    given = {"mean": [127.5] * 3, "std": [63.75] * 3, "input_range": [0, 255]}
    (encoder / "config.json").write_text(json.dumps({**given, "input_space": "RGB"}))
    mine = network(plugin, decoder="fpn", encoder="resnet18")
    assert not [name for name in mine.load_weights(str(encoder)).new if ".encoder." in name]
    assert (mine.mean, mine.std) == ((0.5,) * 3, (0.25,) * 3)
    report = mine.load_weights(str(tmp_path / "whole"))
    assert (report.new, report.dropped) == ((), ())
    theirs.segmentation_head[1] = torch.nn.Identity()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(mine(images).main, theirs(images))
    (encoder / "config.json").write_text(json.dumps({**given, "input_space": "BGR"}))
    with pytest.raises(OptionError, match="expects BGR images"):
        mine.load_weights(str(encoder))


@torch.no_grad()
def test_a_state_dict_of_smp_is_read_from_a_file(plugin: ModuleType, tmp_path: Path) -> None:
    theirs = smp.FPN(ENCODER, encoder_weights=None, classes=3).eval()
    state, names = theirs.state_dict(), ("c0", "c1", "c2")
    module = {f"model.{name}": one for name, one in state.items()}
    lightning = {"state_dict": module, "pytorch-lightning_version": "2.5", "epoch": 1}
    theirs.segmentation_head[1] = torch.nn.Identity()
    images = torch.randn(1, 3, 64, 64)
    for content in (state, lightning):
        torch.save(content, tmp_path / "weights.pth")
        mine = network(plugin, decoder="fpn")
        report = mine.load_file(tmp_path / "weights.pth", class_names=names)
        assert (report.new, report.dropped) == ((), ())
        assert torch.equal(mine(images).main, theirs(images))
    torch.save(theirs.encoder.state_dict(), tmp_path / "encoder.pth")
    new = network(plugin, decoder="fpn").load_file(tmp_path / "encoder.pth").new
    assert new and all(".encoder." not in name for name in new)
    other = plugin.build(plugin.Options(decoder="fpn", encoder=ENCODER), facts(5))
    torch.save(state, tmp_path / "weights.pth")
    report = other.load_file(tmp_path / "weights.pth")
    assert {name.split(".")[1] for name in report.new} == {"segmentation_head"}


def test_default_weights_are_those_of_smp_and_timm(plugin: ModuleType) -> None:
    for options, wanted in (
        ({}, "smp-hub/resnet34.imagenet"),
        ({"encoder": "dpn92"}, "smp-hub/dpn92.imagenet-5k"),
        ({"encoder": "tu-resnet10t"}, "timm/resnet10t.c3_in1k"),
        ({"decoder": "dpt"}, "timm/vit_base_patch16_224.augreg_in21k"),
        ({"encoder": "tu-nothing"}, None),
    ):
        assert plugin.default_weights(plugin.Options(**options)) == wanted
    licences = [plugin.weights_license(plugin.Options(encoder=one)) for one in ("vgg11", ENCODER)]
    assert licences == ["", timm.get_pretrained_cfg("test_efficientnet").license]
    assert licences[1] == "apache-2.0"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"encoder": "resnt34"},
            'there is no encoder "resnt34". Did you mean resnet34 or tu-resnet34? SMP\'s own are '
            "listed by segmentation_models_pytorch.encoders.get_encoder_names(), and timm's, "
            "written as tu-NAME, by timm.list_models().",
        ),
        (
            {"encoder": "mit_b0", "decoder": "linknet"},
            "decoder=linknet with encoder=mit_b0 cannot be built: ValueError: Encoder `mit_b0` is "
            "not supported for Linknet. Choose another encoder, or check depth and kwargs.",
        ),
        (
            {"encoder": "resnet18", "kwargs": {"decoder_widths": [8]}},
            "kwargs: Unet has no argument decoder_widths. It has, among others, decoder_use_norm, "
            "decoder_channels, decoder_attention_type, decoder_interpolation.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    plugin: ModuleType, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(OptionError) as error:
        network(plugin, **options)
    assert str(error.value) == f"--arch smp: {text}"


def test_options_that_the_run_determines_are_refused(plugin: ModuleType) -> None:
    with pytest.raises(ValueError, match="kwargs: classes cannot be set here"):
        plugin.Options(kwargs={"classes": 2})
    with pytest.raises(ValueError, match="kwargs: upsampling cannot be set"):
        plugin.Options(kwargs={"upsampling": 4})


def test_a_run_of_two_steps_is_evaluated(
    warm: Warm, data: Path, site: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    colors = {"mean": [0.5] * 3, "std": [0.25] * 3}
    write_encoder(folder, "test_efficientnet", colors)
    dataset = ("--dataset", f"folder:root={data}", "--output-dir", "run")
    arch = f"smp:decoder=unet,encoder={ENCODER},kwargs={{decoder_channels: [16, 16, 8, 8, 8]}}"
    given = ("--arch", arch, "--weights", folder, *TINY[4:], *dataset)
    done = warm("train", *given, cwd=tmp_path, site=site)
    assert_succeeded(done)
    assert "tensors loaded" in done.stdout + done.stderr
    about = json.loads((tmp_path / "run" / "best" / "segacc.json").read_text())
    assert about["size_rule"]["multiple"] == 32
    assert about["normalization"] == colors
    assert about["plugin"] == {"distribution": "segacc-smp", "version": "0.1.0"}
    assert_succeeded(warm("evaluate", "run", cwd=tmp_path, site=site))
