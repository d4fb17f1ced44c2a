"""A model is found by a run folder, best/, last/, a checkpoint or a Hub id, with its weights."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor

from cli_tools import SHORT, Warm, assert_refused, assert_succeeded
from run_tools import FIXED
from segacc import loop
from segacc.contracts import Facts
from segacc.errors import OptionError, WeightsError
from segacc.evaluation.model_folder import Model, find_model, local_model
from segacc.evaluation.segmenter import Segmenter
from segacc.model.hub import Source
from segacc.model.transfer import with_shared
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.testing import registry_of
from segacc.training.build import choose_source, load_weights, set_normalization
from segacc.training.plan import make_plan
from segacc.training.setup import build_run

pytest_plugins = ["cli_fixtures"]


@pytest.fixture(scope="module")
def averaged(warm: Warm, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an EMA that held out its validation split; the newest checkpoint is of step 4."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    more = ("--max-steps", "4", "--eval-every", "2", "--ema", "0.7", "--val-fraction", "0.25")
    split = ("--eval-split", "held", "--dataset", f"folder:root={data}", "--output-dir", folder)
    assert_succeeded(warm(*SHORT[:-6], *more, *split, cwd=folder.parent))
    return folder


def state_of(model: Path | str) -> dict[str, torch.Tensor]:
    return dict(Segmenter.from_pretrained(model, "cpu").network.state_dict())


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def refusal(given: Path | str, where: str = "MODEL") -> str:
    with pytest.raises(WeightsError) as caught:
        find_model(str(given), where)
    return str(caught.value)


def found(given: Path) -> Model:
    model = local_model(str(given), "MODEL")
    assert model
    return model


def test_a_run_folder_means_its_best(trained: Path) -> None:
    model = found(trained)
    assert (model.folder, model.about, model.run) == (trained / "best", trained / "best", trained)
    assert model.told.startswith(f"model {trained}/best, the best one of this run, step ")
    for name in ("best", "last"):
        given = found(trained / name)
        assert (given.folder, given.run, given.told) == (trained / name, trained, "")
    assert_equal(state_of(trained), state_of(trained / "best"))


def test_the_last_checkpoint_has_the_weights_of_last(trained: Path, averaged: Path) -> None:
    for run, step, kind in ((trained, 40, "weights"), (averaged, 4, "EMA weights")):
        checkpoint = run / "checkpoints" / f"step-{step:08d}"
        model = found(checkpoint)
        assert model.told == f"model {checkpoint}: {kind} of this checkpoint"
        assert (model.run, model.about) == (run, run / "network")
        assert_equal(state_of(checkpoint), state_of(run / "last"))
        first, second = (
            Segmenter.from_pretrained(one, "cpu") for one in (checkpoint, run / "last")
        )
        assert first.labels == second.labels and first.protocol == second.protocol
        assert first.network.mean == second.network.mean
    raw = load_file(averaged / "checkpoints/step-00000004/model.safetensors")
    used = state_of(averaged / "checkpoints/step-00000004")
    assert any(not torch.equal(tensor, used[name]) for name, tensor in raw.items())


def test_training_starts_from_a_checkpoint(trained: Path, averaged: Path) -> None:
    names = ("bar", "new", "disc", "background")
    plan = make_plan([Layer({**FIXED, "dataset": "nuclei"}, "test")], load_registry())
    for given in (trained / "checkpoints/step-00000040", averaged / "checkpoints/step-00000004"):
        facts = Facts(num_classes=4, class_names=names, crop_size=(48, 64))
        network = plan.arch.record.build(plan.arch.options, facts)
        source = choose_source(str(given), None)
        assert source == Source(str(given), source.name) and str(given) in source.name
        report = load_weights(network, source, class_names=names)
        assert report.carried == ("bar", "disc", "background") and not report.new
        other = plan.arch.record.build(plan.arch.options, facts)
        last = load_weights(
            other, choose_source(str(given.parents[1] / "last"), None), class_names=names
        )
        assert replace(report, source="") == replace(last, source="")
        mine, theirs = network.state_dict(), other.state_dict()
        heads = {name for name in mine if not torch.equal(mine[name], theirs[name])}
        assert all("classifier" in name for name in heads), "but for the row of the new class"


def test_weights_of_a_run_choose_the_architecture(trained: Path) -> None:
    for given in (trained, trained / "checkpoints/step-00000040"):
        layer = Layer({"weights": str(given), "dataset": "nuclei"}, "command line")
        plan = make_plan([layer], load_registry())
        assert plan.arch.name == "segformer"
        about = found(given).about
        assert Path(plan.arch.options.config) == about and (about / "config.json").is_file()


def test_a_plain_torch_network_is_loaded_from_a_checkpoint(
    example_plugin: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registry_of(example_plugin)
    monkeypatch.setattr("segacc.evaluation.segmenter.load_registry", lambda: registry)
    values: dict[str, Any] = {
        **FIXED,
        **{"arch": "unet_small:width=4,depth=1", "dataset": f"folder:root={data}"},
        **{"output_dir": tmp_path / "run", "max_steps": 2, "crop_size": 32, "eval_every": 2},
    }
    run = build_run(make_plan([Layer(values, "test")], registry))
    for _ in loop.train(run):
        pass
    assert_equal(state_of(run.folder / "checkpoints/step-00000002"), state_of(run.folder / "last"))


@pytest.mark.parametrize("arch", ["unet_small:width=4,depth=1", "segformer:variant=tiny"])
def test_the_users_mean_and_deviation_are_kept(
    example_plugin: ModuleType,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arch: str,
) -> None:
    registry, mean, std = registry_of(example_plugin), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    monkeypatch.setattr("segacc.evaluation.segmenter.load_registry", lambda: registry)
    values: dict[str, Any] = {
        **{**FIXED, "arch": arch, "dataset": f"folder:root={data}", "output_dir": tmp_path / "run"},
        **{"max_steps": 1, "crop_size": 32, "image_mean": "0.1/0.2/0.3", "image_std": std},
    }
    run = build_run(make_plan([Layer(values, "test")], registry))
    assert (run.network.mean, run.network.std) == (mean, std)
    for _ in loop.train(run):
        pass
    for model in (run.folder / "last", run.folder / "checkpoints/step-00000001"):
        network = Segmenter.from_pretrained(model, "cpu").network
        assert (network.mean, network.std) == (mean, std)
        fresh = run.plan.arch.build(run.facts)
        found(model).load_into(fresh)
        assert (fresh.mean, fresh.std) == (mean, std), "with --weights"
    if arch.startswith("segformer"):
        image = torch.randint(256, (3, 32, 40), dtype=torch.uint8)
        processor = AutoImageProcessor.from_pretrained(run.folder / "last")
        theirs = processor(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(theirs, run.network.normalize(image[None]))


def test_a_network_whose_images_are_not_normalized_takes_no_mean() -> None:
    values = {"arch": "mobilevit:variant=tiny", "dataset": "nuclei", "image_mean": "0.1/0.2/0.3"}
    plan = make_plan([Layer(values, "command line")], load_registry())
    network = plan.arch.build(Facts(num_classes=2, class_names=("a", "b")))
    with pytest.raises(OptionError, match=r"^--image-mean: the image processor of mobilevit does "):
        set_normalization(network, plan)


def test_tensors_that_share_memory_are_restored() -> None:
    tied = torch.ones(2, 3)
    own = {"a": tied, "b": tied, "c": torch.zeros(2)}
    stored = {"b": torch.full((2, 3), 5.0), "c": torch.ones(2)}
    restored = with_shared(stored, own)
    assert set(restored) == {"a", "b", "c"} and restored["a"] is stored["b"]


def test_what_is_no_model_is_refused(trained: Path, tmp_path: Path) -> None:
    assert refusal("./nope") == "MODEL: no such folder: ./nope."
    assert refusal("nope") == (
        "MODEL: no such folder: nope. A model of the Hub is given as USER/NAME."
    )
    assert refusal(tmp_path) == f"MODEL: {tmp_path} is not a model folder: it has no config.json."
    checkpoints, newest = trained / "checkpoints", trained / "checkpoints" / "step-00000040"
    assert refusal(checkpoints) == (
        f"MODEL: {checkpoints} is not a model folder: it has no config.json. Did you mean its "
        f"newest checkpoint, {newest}?"
    )
    early = tmp_path / "early"  # killed before its first evaluation
    shutil.copytree(newest, early / "checkpoints" / newest.name)
    assert refusal(early).endswith(f"newest checkpoint, {early}/checkpoints/{newest.name}?")
    shutil.copytree(trained / "last", early / "last")
    assert refusal(early).endswith(f"It has no best/; did you mean {early}/last?")
    moved = shutil.copytree(newest, tmp_path / "a" / "b" / newest.name)
    assert refusal(moved) == (
        f"MODEL: {moved} is a checkpoint, which holds weights only; segacc.json, which describes "
        f"its network, is missing in {tmp_path}/a/network, {tmp_path}/a/last, {tmp_path}/a/best. "
        "Give a checkpoint in its run folder, or a model folder."
    )
    sharded = early / "checkpoints" / newest.name
    assert found(sharded).about == early / "last", "runs of earlier versions have no network/"
    (sharded / "model.safetensors").rename(sharded / "pytorch_model_fsdp.bin")
    assert refusal(sharded) == (
        f"MODEL: {sharded} has no model.safetensors: its weights are in the format of FSDP or "
        f"DeepSpeed, which only --resume reads. Give best/ or last/ of {early}."
    )


@pytest.mark.slow
def test_a_model_of_the_hub_is_scored_and_predicts(
    warm: Warm, trained: Path, data: Path, tmp_path: Path
) -> None:
    cache = warm.folder / "home" / "hub" / "models--me--shapes"
    shutil.copytree(trained / "best", cache / "snapshots" / "0123", dirs_exist_ok=True)
    (cache / "refs").mkdir(exist_ok=True)
    (cache / "refs" / "main").write_text("0123")
    image = data / "images/train/train0.png"
    done = assert_succeeded(warm("predict", "me/shapes", image, cwd=tmp_path))
    assert done.stderr.splitlines()[0] == "model me/shapes of the Hub"
    local = ("predict", trained, image, "--output-dir", "local")
    assert_succeeded(warm(*local, cwd=tmp_path))
    first, second = (tmp_path / name / "train0.png" for name in ("predictions", "local"))
    assert first.read_bytes() == second.read_bytes()
    given = ("--dataset", f"folder:root={data}", "--num-workers", "0")
    done = assert_succeeded(warm("evaluate", "me/shapes", *given, cwd=tmp_path))
    assert done.stdout.splitlines()[:2] == [
        "model me/shapes of the Hub",
        "protocol whole, stored in me/shapes",
    ]
    assert done.stdout.splitlines()[-1] == "written to evaluation/shapes"
    assert (tmp_path / "evaluation/shapes/evaluation.json").is_file()
    assert_refused(
        warm("predict", "me/nothing", image, cwd=tmp_path),
        "MODEL me/nothing: there is no such folder; the Hub cannot be reached "
        "(OfflineModeIsEnabled) and me/nothing is not in the local cache. Give a folder on disk.",
    )
