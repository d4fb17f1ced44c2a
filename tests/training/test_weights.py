"""Where weights come from, what of them fits, and what is said when they do not come."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data_tools import tiny_segformer
from hub_tools import cache, hub, result, start_choosing
from segacc.errors import WeightsError
from segacc.evaluation.segmenter import Segmenter
from segacc.model import SegmentationModel
from segacc.model.hub import Source, choose
from segacc.model.transfer import LoadReport, check_report
from segacc.training.build import load_weights

CLOSED = "http://127.0.0.1:9"  # the port of `discard`, which nobody serves
SECONDS = 15
"""How long a Hub that cannot be reached may hold a start up, by our promise of seconds."""


def saved(folder: Path, num_classes: int = 3, **rest: Any) -> tuple[Path, Any]:
    """Save a tiny SegFormer as best/ does; return the folder and the network."""
    model = tiny_segformer(num_classes, **rest)
    names = [f"c{k}" for k in range(num_classes)]
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, names=names, state_dict=model.state_dict())
    return folder, model


def refusal(model: Any, folder: Path | str) -> str:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        model.load_weights(str(folder))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return str(error.value)


# -------------------------------------------------------------------------------- what is loaded


def test_a_folder_of_the_same_classes_is_loaded_whole(tmp_path: Path) -> None:
    folder, trained = saved(tmp_path, seed=1)
    model = tiny_segformer(seed=2)
    report = model.load_weights(str(folder))
    assert report == LoadReport(str(folder), len(model.state_dict()), num_classes=3)
    assert report.text() == f"weights: {folder}: {report.loaded} tensors loaded"
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_for_other_classes_rows_of_the_same_name_are_taken_over(tmp_path: Path) -> None:
    folder, trained = saved(tmp_path, 3, seed=1)
    model, fresh = tiny_segformer(5, seed=2), tiny_segformer(5, seed=2)
    names = ("c2", "other", "C1", "c-9", "c3")
    report = load_weights(model, Source(str(folder), "runs/old/best"), class_names=names)
    assert (report.new, report.dropped, report.carried) == ((), (), ("c2", "C1"))
    assert report.text() == (
        f"weights: runs/old/best: {report.loaded} tensors loaded; "
        "head: weights of 2 of 5 classes reused by name: c2, C1"
    )
    state, old = model.network.state_dict(), trained.network.state_dict()
    for part in ("weight", "bias"):
        rows, name = state[f"decode_head.classifier.{part}"], f"decode_head.classifier.{part}"
        assert torch.equal(rows[[0, 2]], old[name][[2, 1]])
        assert torch.equal(rows[[1, 3, 4]], fresh.network.state_dict()[name][[1, 3, 4]])
    for name, tensor in old.items():
        assert "classifier" in name or torch.equal(state[name], tensor), name
    assert model(torch.zeros(1, 3, 32, 32)).main.shape == (1, 5, 8, 8)


def test_a_fresh_head_takes_nothing_over(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, 3, seed=1)
    model, before = tiny_segformer(3, seed=2), tiny_segformer(3, seed=2).state_dict()
    report = load_weights(model, Source(str(folder), "old"), fresh_head=True)
    heads = {name for name in before if model.is_head(name)}
    assert set(report.new) == heads == set(report.dropped) and report.carried is None
    for name in heads:
        assert torch.equal(model.state_dict()[name], before[name]), name


@pytest.mark.parametrize("kind", ["SegformerModel", "SegformerForImageClassification"])
def test_a_bare_encoder_leaves_the_head_new(kind: str, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(1)
    config = tiny_segformer().network.config
    encoder = getattr(transformers, kind)(config)
    encoder.save_pretrained(tmp_path)
    model = tiny_segformer(seed=2)
    report = model.load_weights(str(tmp_path))
    own = model.network.state_dict()
    head = {f"network.{name}" for name in own if name.startswith("decode_head.")}
    assert set(report.new) == head and report.loaded == len(own) - len(head)
    classifier = ("network.classifier.bias", "network.classifier.weight")
    dropped = classifier if kind == "SegformerForImageClassification" else ()
    assert report.dropped == dropped
    end = "; not used: classifier.bias, classifier.weight" if dropped else ""
    assert report.text() == (
        f"weights: {tmp_path}: {report.loaded} tensors loaded; "
        f"new: {len(head)} tensors of decode_head{end}"
    )
    for name, tensor in encoder.state_dict().items():
        name = name if name.startswith(("segformer.", "classifier.")) else f"segformer.{name}"
        assert f"network.{name}" in dropped or torch.equal(own[name], tensor), name


def test_bfloat16_weights_are_loaded_as_float32(tmp_path: Path) -> None:
    _, trained = saved(tmp_path, seed=1)
    trained.network.bfloat16().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    model = tiny_segformer(seed=2)
    model.load_weights(str(tmp_path))
    kinds = {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}
    assert kinds == {torch.float32}
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.to(model.state_dict()[name].dtype))


def test_a_network_of_another_kind_is_refused(shared: Path) -> None:
    folder = shared / "mobilenet_v2_1.0_224"
    assert refusal(tiny_segformer(), folder) == (
        f"{folder}: contains a mobilenet_v2 network, but the chosen architecture needs segformer. "
        "Give weights of the same kind, or choose the architecture that they belong to."
    )


def test_weights_of_another_variant_are_refused(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, variant="b0")
    assert refusal(tiny_segformer(), folder) == (
        f"{folder}: these weights do not belong to this network: 2 tensors fit, 122 tensors of "
        "decode_head, segformer would stay random, 84 tensors of segformer would not be used. "
        "Choose the architecture and variant that the weights were saved from, or use "
        "--weights none."
    )


def test_a_folder_whose_weights_are_missing_or_broken(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    path = folder / "model.safetensors"
    whole, model = path.read_bytes(), tiny_segformer(seed=1)
    for content in (whole[: len(whole) // 2], whole[:100], b""):
        path.write_bytes(content)
        assert refusal(model, folder).startswith(f"{folder}: the weights cannot be read: ")
    path.unlink()
    assert refusal(model, folder) == (
        f"{folder}: the weights cannot be read: Error no file named model.safetensors, or "
        f"pytorch_model.bin, found in directory {folder}."
    )
    (folder / "config.json").write_text("{")
    assert refusal(model, folder).startswith(f"{folder}: config.json cannot be read: ")
    (folder / "config.json").unlink()
    assert refusal(model, folder).startswith(f"{folder}: config.json cannot be read: No such")


def test_a_folder_without_a_trained_head_predicts_nothing(shared: Path) -> None:
    folder = shared / "mobilenet_v2_1.0_224"
    with pytest.raises(WeightsError) as error:
        Segmenter.from_pretrained(folder, "cpu")
    assert str(error.value).startswith(
        f"{folder}: not a trained mobilenet_v2 network: 20 tensors are missing, such as "
        "segmentation_head."
    )
    trained = Segmenter.from_pretrained(shared / "deeplabv3_mobilenet_v2_voc", "cpu")
    assert len(trained.labels.names) == 21


def test_nine_tenths_of_the_encoder_must_fit_and_nothing_of_the_head() -> None:
    own = {"encoder.w": torch.zeros(90), "encoder.b": torch.zeros(10), "head.w": torch.zeros(999)}

    def is_head(name: str) -> bool:
        return name.startswith("head")

    report = LoadReport("here", 1, new=("head.w", "encoder.b"))
    assert check_report(report, own, is_head) is report
    own["encoder.b"] = torch.zeros(11)
    with pytest.raises(WeightsError, match=r"^here: these weights do not belong to this network: "):
        check_report(report, own, is_head)


# ------------------------------------------------------------------------------ without the Hub


def test_none_and_an_architecture_without_weights_start_at_random() -> None:
    assert choose("none", "nvidia/mit-b0") == choose("auto", None) == Source(None, "random")
    model = tiny_segformer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert load_weights(model, Source(None, "random")) == LoadReport("random")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_folder_is_taken_as_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "best").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert choose("runs/best", "nvidia/mit-b0") == Source("runs/best", "runs/best")
    assert choose("~/runs", None) == Source(str(tmp_path / "runs"), "~/runs")


@pytest.mark.parametrize("given", ["./best", "/nowhere/best", "a/b/c", "../x"])
def test_a_folder_that_is_not_there(given: str) -> None:
    with pytest.raises(WeightsError) as error:
        choose(given, None)
    assert str(error.value) == f"--weights: no such folder: {given}."


@pytest.mark.parametrize("given", ["my weights", "--x", "a..b", "best"])
def test_a_name_alone_is_no_hub_id(given: str) -> None:
    with pytest.raises(WeightsError) as error:
        choose(given, None)
    assert str(error.value) == (
        f"--weights: no such folder: {given}. A model of the Hub is given as USER/NAME."
    )


@pytest.mark.parametrize("given", ["a/b c", "--x/y", "a/b..c"])
def test_what_is_neither_a_folder_nor_a_hub_id(given: str) -> None:
    with pytest.raises(WeightsError) as error:
        choose(given, None)
    assert str(error.value) == (
        f"--weights {given}: there is no such folder; {given} is no Hub id, "
        "which has the form USER/NAME."
    )


# --------------------------------------------------------------------- a Hub that does not answer


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """The files of a tiny SegFormer, as on the Hub."""
    folder, _ = saved(tmp_path / "published", seed=1)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def unreachable(trouble: str, hub_id: str) -> str:
    return (
        f"the Hub cannot be reached ({trouble}) and {hub_id} is not in the local cache. "
        "Give --weights FOLDER with weights on disk, or --weights none to start from random "
        "weights without this message."
    )


@pytest.mark.slow
def test_a_hub_out_of_reach_ends_in_random_weights_or_an_error_within_seconds(
    silent: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    kept = cache(tmp_path, "nvidia/mit-b1", files)
    half = {name: files[name] for name in ("config.json", "preprocessor_config.json")}
    cache(tmp_path, "nvidia/mit-b2", half)
    cases = [
        ("auto", "nvidia/mit-b0"),  # wanted by default
        ("nvidia/mit-b0", None),  # typed
        ("auto", "nvidia/mit-b1"),  # in the cache
        ("nvidia/mit-b2", None),  # in the cache, but for its weights
    ]
    started = {
        "ConnectError": start_choosing(cases, tmp_path, HF_ENDPOINT=CLOSED),
        "ReadTimeout": start_choosing(cases[:2], tmp_path, HF_ENDPOINT=silent),
        "OfflineModeIsEnabled": start_choosing(cases, tmp_path, HF_HUB_OFFLINE="1"),
    }
    for trouble, process in started.items():
        fallback, typed, *cached = told = result(process)
        assert (fallback["folder"], fallback["name"]) == (
            None,
            "random (nvidia/mit-b0 could not be loaded)",
        )
        assert fallback["warning"] == (
            f"STARTING FROM RANDOM WEIGHTS: {unreachable(trouble, 'nvidia/mit-b0')}"
        )
        assert typed["error"] == (
            "--weights nvidia/mit-b0: there is no such folder; "
            + unreachable(trouble, "nvidia/mit-b0")
        )
        if cached:
            found, without = cached
            assert (found["folder"], found["name"]) == (str(kept), "nvidia/mit-b1")
            assert found["warning"] == ""
            assert without["error"].endswith(unreachable(trouble, "nvidia/mit-b2"))
        seconds = [one["seconds"] for one in told]
        assert max(seconds) < SECONDS, seconds


def test_weights_from_the_cache_are_the_networks(files: dict[str, bytes], tmp_path: Path) -> None:
    folder = cache(tmp_path, "nvidia/mit-b0", files)
    model = tiny_segformer(seed=2)
    report = load_weights(model, Source(str(folder), "nvidia/mit-b0"))
    assert report.text() == f"weights: nvidia/mit-b0: {report.loaded} tensors loaded"
    trained = tiny_segformer(seed=1)
    assert isinstance(model, SegmentationModel)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.slow
def test_a_hub_that_answers_gives_a_folder_and_one_in_trouble_its_cache(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    more = {**files, "pytorch_model.bin": b"not wanted", "README.md": b"not wanted"}
    kept = cache(tmp_path, "down/kept", files)
    names = ("us/tiny", "us/none", "down/kept", "shut/tiny", "portal/tiny")
    cases = [("auto", "us/tiny"), *((name, None) for name in names)]
    with hub({"us/tiny": more, "shut/tiny": more}) as endpoint:
        done = result(start_choosing(cases, tmp_path, HF_ENDPOINT=endpoint))
    (offline,) = result(start_choosing(cases[:1], tmp_path, HF_HUB_OFFLINE="1"))
    fetched, again, unknown, troubled, shut, portal = done
    assert (fetched["name"], fetched["warning"]) == ("us/tiny", "")
    assert again["folder"] == offline["folder"] == fetched["folder"]
    there = {path.name: path.read_bytes() for path in Path(fetched["folder"]).iterdir()}
    assert there == files
    assert unknown["error"].startswith(
        "--weights us/none: there is no such folder; the Hub does not give us/none: "
    )
    assert troubled["folder"] == str(kept)
    assert shut["error"].startswith(
        "--weights shut/tiny: there is no such folder; the Hub refuses access (HTTP 403; `hf auth "
    )
    assert portal["error"].startswith(
        "--weights portal/tiny: there is no such folder; what answers is not the Hub ("
    )


@pytest.mark.slow
def test_a_hub_that_lists_files_and_never_sends_them_is_out_of_reach(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    cases = [("auto", "mute/tiny"), ("mute/tiny", None)]
    with hub({"mute/tiny": files}) as endpoint:
        fallback, typed = result(start_choosing(cases, tmp_path, HF_ENDPOINT=endpoint))
    assert fallback["folder"] is None
    assert fallback["warning"].startswith("STARTING FROM RANDOM WEIGHTS: the Hub cannot be reached")
    assert "the Hub cannot be reached" in typed["error"]
    assert max(fallback["seconds"], typed["seconds"]) < 15
