"""torchvision's networks: built, trained, saved, and filled with the published weights."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_tools import facts
from segacc.contracts import Facts
from segacc.errors import WeightsError
from segacc.hookspecs import Architecture
from segacc.kernels.pixel import cross_entropy_sum
from segacc.kernels.resize import resize
from segacc.model import TransformersModel, hub
from segacc.plugins.architectures.torchvision_networks import (
    DeepLabV3Options,
    FCNOptions,
    LRASPPOptions,
    segacc_architectures,
)

RECORDS = {record.name: record for record in segacc_architectures()}
NAMES = ["deeplabv3", "fcn", "lraspp"]


def tiny(name: str, num_classes: int = 3, *, seed: int = 0, **values: Any) -> TransformersModel:
    torch.manual_seed(seed)
    record = RECORDS[name]
    model = record.build(record.tiny(), facts(num_classes, **values))
    assert isinstance(model, TransformersModel)
    return model.eval()


def images(count: int = 2, height: int = 64, width: int = 96, channels: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn((count, channels, height, width), generator=random)


def test_the_three_are_registered() -> None:
    assert sorted(RECORDS) == NAMES
    for name, record in RECORDS.items():
        assert isinstance(record, Architecture)
        assert record.model_types == (f"segacc_{name}",)
        assert record.default_weights(record.tiny()) is None
        assert record.default_weights(record.options(config=Path("x"))) is None
    assert RECORDS["fcn"].default_weights(FCNOptions()) == "torchvision:fcn_resnet50"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("deeplabv3", DeepLabV3Options(backbone=one)) for one in ("resnet50", "resnet101")),
        ("deeplabv3", DeepLabV3Options(backbone="mobilenet_v3_large")),
        *(("fcn", FCNOptions(backbone=one)) for one in ("resnet50", "resnet101")),
        ("lraspp", LRASPPOptions()),
    ],
)
def test_every_network_has_torchvisions_tensors_and_published_weights(
    name: str, options: Any
) -> None:
    from torchvision.models import get_model

    published = f"{name}_{options.backbone}"
    assert RECORDS[name].default_weights(options) == f"torchvision:{published}"
    weights = hub.published(f"torchvision:{published}")
    auxiliary = {} if name == "lraspp" else {"aux_loss": True}
    with torch.device("meta"):
        model = RECORDS[name].build(options, facts(21))
        theirs = get_model(published, weights=None, weights_backbone=None, **auxiliary)
    mine = {key: tensor.shape for key, tensor in model.network.state_dict().items()}
    assert mine == {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert sum(one.numel() for one in model.parameters()) == weights.meta["num_params"]
    names = {type(module).__name__ for module in model.modules()}
    assert set(model._no_split_modules) <= names and model._no_split_modules
    assert all(any(key.startswith(f"{one}.") for key in mine) for one in _classifiers(model))


def _classifiers(model: Any) -> list[str]:
    return [name.removeprefix("network.") for name in model.classifiers]


@pytest.mark.parametrize("published", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_logits_are_those_of_torchvision(published: str) -> None:
    from torchvision.models import get_model

    name, _, backbone = published.partition("_")
    torch.manual_seed(0)
    auxiliary = {} if name == "lraspp" else {"aux_loss": True}
    theirs = get_model(published, weights=None, weights_backbone=None, num_classes=4, **auxiliary)
    model = RECORDS[name].build(RECORDS[name].options(backbone=backbone), facts(4))
    model.network.load_state_dict(theirs.state_dict())
    model.train(), theirs.train()  # with the statistics of the batch, dropout apart
    for module in (*model.modules(), *theirs.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    with torch.no_grad():
        found, wanted = model(images()), theirs(images())
    torch.testing.assert_close(resize(found.main, (64, 96)), wanted["out"])
    assert len(found.auxiliary) == (name != "lraspp")
    for logits, weight in found.auxiliary:
        assert weight == 0.4
        torch.testing.assert_close(resize(logits, (64, 96)), wanted["aux"])


@pytest.mark.parametrize("name", NAMES)
def test_batch_norm_statistics_are_those_of_the_images_after_tens_of_batches(name: str) -> None:
    """From random weights; those of torchvision's MobileNetV3 are far off for hundreds."""
    model = tiny(name).train()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(40):
            model(torch.randn((4, 3, 64, 64), generator=random))
    norms = [one for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    assert len(norms) > 40
    seen: list[Tensor] = []
    norms[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].var((0, 2, 3))))
    with torch.no_grad():
        model(torch.randn((16, 3, 64, 64), generator=random))
    found = norms[0].running_var
    assert found is not None
    torch.testing.assert_close(found, seen[0], rtol=0.2, atol=1e-3)


@pytest.mark.parametrize(("name", "stride"), [("deeplabv3", 16), ("fcn", 16), ("lraspp", 8)])
def test_any_size_trains_and_the_head_is_known(name: str, stride: int) -> None:
    model = tiny(name, 5)
    for height, width in ((64, 96), (65, 33)):
        assert model.size_rule.complaint((height, width)) == ""
        logits = model(images(1, height, width))
        assert logits.main.shape == (1, 5, -(-height // stride), -(-width // stride))
        assert logits.auxiliary == ()
    assert model.min_batch_size == (2 if name == "deeplabv3" else 1)
    logits = model.train()(images(model.min_batch_size))
    labels = torch.zeros(model.min_batch_size, 64, 96, dtype=torch.int64)
    terms = [(logits.main, 1.0), *logits.auxiliary]
    sum(weight * cross_entropy_sum(one, labels) for one, weight in terms).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert model.is_head(parameter_name) is (".backbone." not in parameter_name)


def test_the_auxiliary_head_can_be_left_out() -> None:
    model = RECORDS["fcn"].build(FCNOptions(backbone="tiny", auxiliary=0.0), facts())
    assert not any("aux" in name for name, _ in model.named_parameters())
    assert model.train()(images()).auxiliary == ()
    other = RECORDS["fcn"].build(FCNOptions(backbone="tiny", auxiliary=0.25), facts())
    assert [weight for _, weight in other.train()(images()).auxiliary] == [0.25]


@pytest.mark.parametrize("name", NAMES)
def test_other_channels_fit_the_first_convolution(name: str, tmp_path: Path) -> None:
    rgb = tiny(name)
    rgb.save_pretrained(tmp_path, names=["c0", "c1", "c2"], state_dict=rgb.state_dict())
    model = tiny(name, num_channels=5)
    assert model(images(channels=5)).main.shape[1] == 3
    report = model.load_weights(str(tmp_path), class_names=("c0", "c1", "c2"))
    assert (report.new, report.adapted) == ((), ("network.backbone.0.0.weight",))


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_folder_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    model, names = tiny(name, 4), ("sky", "road", "car", "tree")
    model.save_pretrained(tmp_path, names=names, state_dict=model.state_dict())
    loaded, info = AutoModelForSemanticSegmentation.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values()) and loaded.config.id2label == dict(enumerate(names))
    with torch.no_grad():
        logits = loaded(images()).logits
        torch.testing.assert_close(logits, model(images()).main, rtol=1e-5, atol=1e-6)
    assert not AutoImageProcessor.from_pretrained(tmp_path).do_resize
    record = RECORDS[name]
    again = record.build(record.options(config=tmp_path), facts(4))
    report = again.load_weights(str(tmp_path), class_names=names)
    assert (report.new, report.dropped) == ((), ())
    assert all(torch.equal(one, again.state_dict()[key]) for key, one in model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_a_head_for_other_classes_starts_as_a_fresh_one(name: str, tmp_path: Path) -> None:
    model = tiny(name, 40)
    model.save_pretrained(
        tmp_path, names=[str(k) for k in range(40)], state_dict=model.state_dict()
    )
    fresh = tiny(name, 60, seed=1).network
    loaded = type(fresh).from_pretrained(
        tmp_path,
        id2label=fresh.config.id2label,
        label2id=fresh.config.label2id,
        ignore_mismatched_sizes=True,
    )
    for one in _classifiers(model):
        found, wanted = (net.get_submodule(one) for net in (loaded, fresh))
        assert found.weight.shape[0] == 60 and not found.weight.isnan().any()
        torch.testing.assert_close(found.weight.std(), wanted.weight.std(), rtol=0.3, atol=0)
        assert found.bias.abs().max() <= found.in_channels**-0.5
    first = loaded.backbone.state_dict().values(), model.network.backbone.state_dict().values()
    assert all(torch.equal(one, other) for one, other in zip(*first, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_transformers_own_loss_is_right(name: str) -> None:
    network, x = tiny(name, 4).network, images()
    labels = torch.randint(4, (2, 64, 96), generator=torch.Generator().manual_seed(1))
    labels[:, :9] = 255
    out = network(x, labels=labels)
    wanted = cross_entropy_sum(out.logits, labels)
    if name != "lraspp":
        early = network.aux_classifier(network.backbone(x)["aux"])
        wanted = wanted + 0.4 * cross_entropy_sum(early, labels)
    torch.testing.assert_close(out.loss, wanted / (labels != 255).sum())


# ------------------------------------------------------------------------ torchvision's own weights


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give torch an empty hub cache."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub"


@pytest.fixture
def server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> Iterator[tuple[Any, Path]]:
    """Serve a file as torchvision's LRASPP, named by its sum; yield (tensors, the file)."""
    from torchvision.models import get_model

    torch.manual_seed(5)
    theirs = get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None)
    served = tmp_path / "served"
    served.mkdir()
    torch.save(theirs.state_dict(), served / "weights.pth")
    digest = hashlib.sha256((served / "weights.pth").read_bytes()).hexdigest()[:8]
    file = (served / "weights.pth").rename(served / f"lraspp-{digest}.pth")
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    weights = hub.published("lraspp_mobilenet_v3_large")
    url = f"http://127.0.0.1:{http.server_port}/{file.name}"
    monkeypatch.setattr(weights.value, "url", url)
    yield theirs, file
    http.shutdown()
    http.server_close()


NAME = "torchvision:lraspp_mobilenet_v3_large"


def test_weights_are_downloaded_and_converted_once(
    server: tuple[Any, Path], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, file = server
    folder = Path(hub.fetch(NAME))
    assert folder == cache / "segacc" / file.stem
    assert sorted(path.name for path in folder.parent.iterdir()) == [file.stem]
    assert capsys.readouterr().out == ""
    file.unlink()
    assert hub.fetch(NAME) == str(folder)  # from the folder
    (folder / "config.json").unlink(), (folder / "model.safetensors").unlink(), folder.rmdir()
    assert hub.fetch(NAME) == str(folder)  # from torch's own cache

    names = ("dog", "sofa", "unheard of", "background")
    run = Facts(num_classes=4, class_names=names)
    model = RECORDS["lraspp"].build(LRASPPOptions(), run)
    before = model.state_dict()["network.classifier.low_classifier.bias"][2].clone()
    report = model.load_weights(str(folder), class_names=names)
    assert (report.new, report.dropped) == ((), ())
    assert report.carried == ("dog", "sofa", "background")
    bias = model.state_dict()["network.classifier.low_classifier.bias"]
    wanted = theirs.classifier.low_classifier.bias
    assert torch.equal(bias, torch.stack([wanted[12], wanted[18], before, wanted[0]]))


def test_transformers_loads_the_converted_folder(server: tuple[Any, Path]) -> None:
    from transformers import AutoModelForSemanticSegmentation

    theirs, _ = server
    loaded, info = AutoModelForSemanticSegmentation.from_pretrained(
        hub.fetch(NAME), output_loading_info=True
    )
    assert not any(info.values()) and loaded.config.id2label[0] == "__background__"
    with torch.no_grad():
        wanted = theirs.eval()(images())["out"]
        torch.testing.assert_close(resize(loaded(images()).logits, (64, 96)), wanted)


def test_a_damaged_file_is_told(server: tuple[Any, Path], cache: Path) -> None:
    _, file = server
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"are damaged, .* invalid hash value"):
        hub.fetch(NAME)
    (cache / "checkpoints" / file.name).write_bytes(b"not weights")
    with pytest.raises(WeightsError, match="are damaged, in torch's cache or at their source"):
        hub.fetch(NAME)
    assert not (cache / "segacc").exists()


@pytest.mark.parametrize("silent", [False, True])
def test_a_server_out_of_reach_is_told_soon(
    cache: Path, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    before, start = socket.getdefaulttimeout(), time.monotonic()
    monkeypatch.setattr(hub, "HUB_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if not silent:
            listening.close()
        weights = hub.published(NAME)
        monkeypatch.setattr(weights.value, "url", f"http://127.0.0.1:{port}/x-01234567.pth")
        with pytest.raises(WeightsError) as error:
            hub.fetch(NAME)
    assert str(error.value).startswith(f"http://127.0.0.1:{port}/x-01234567.pth cannot be reached")
    assert f"{NAME} is not in torch's cache. Give --weights FOLDER" in str(error.value)
    assert time.monotonic() - start < 5 and socket.getdefaulttimeout() == before


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(WeightsError) as error:
        hub.fetch("torchvision:resnet51")
    assert str(error.value).startswith(
        "torchvision:resnet51: torchvision has no such weights. Known: "
        "torchvision:deeplabv3_mobilenet_v3_large, "
    )
