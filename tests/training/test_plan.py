"""What is checked before torch is imported: components, folders, weights, and resumed runs."""

import json
import sys
import typing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from segacc.errors import OptionError, SegaccError
from segacc.registry import Registry, load_registry, options_text
from segacc.settings.config import TrainConfig
from segacc.settings.options import literal_choices
from segacc.settings.sources import AUGMENT, Layer, read_yaml, to_yaml
from segacc.training.checkpoint import Progress, seal
from segacc.training.folders import writable
from segacc.training.plan import Plan, as_stored, make_plan, nothing_left


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("SEGACC_LOAD_PLUGINS", "")
    return load_registry()


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(registry: Registry, **values: Any) -> Plan:
    return make_plan([Layer(values, "command line")], registry)


def resumed(registry: Registry, given: str) -> Path:
    """Return the checkpoint from which `--resume` continues."""
    made = plan(registry, resume=given)
    assert made.resume is not None
    return made.resume.checkpoint


def refusal(registry: Registry, **values: Any) -> str:
    with pytest.raises(SegaccError) as caught:
        plan(registry, **values)
    return str(caught.value)


def write_checkpoint(place: Path, step: int, **more: Any) -> None:
    """Write what a plan reads of a checkpoint."""
    (place / "progress.json").write_text(json.dumps(asdict(Progress(step=step, **more))))
    seal(place)


def write_run(folder: Path, registry: Registry, *, step: int = 2, **values: Any) -> Path:
    """Write what a run leaves behind that can be resumed, as far as a plan reads it."""
    place = folder / "checkpoints" / f"step-{step:08d}"
    place.mkdir(parents=True)
    settings = plan(registry, **values).settings.chosen({"max_steps": (4, "")})
    (folder / "config.yaml").write_text(to_yaml(settings))
    write_checkpoint(place, step)
    return folder


def test_components_come_with_their_options(registry: Registry) -> None:
    made = plan(registry, arch="segformer:variant=tiny,dropout=0", aug=["flip", "color_jitter"])
    assert options_text(made.arch) == {
        "name": "segformer",
        "config": None,
        "variant": "tiny",
        "decoder": "authors",
        "drop_path": 0.1,
        "dropout": 0.0,
    }
    assert [chosen.name for chosen in made.aug] == ["flip", "color_jitter"]
    assert [chosen.text for chosen in (made.arch, made.dataset)] == [
        "segformer:variant=tiny,dropout=0",
        "nuclei",
    ]
    assert plan(registry, aug=["none"]).aug == ()


# --------------------------------------------------------------- presets and class weights


def test_each_preset_is_a_row_of_augmentations_that_there_are(registry: Registry) -> None:
    assert tuple(AUGMENT) == literal_choices(typing.get_type_hints(TrainConfig)["augment"])
    for name, row in AUGMENT.items():
        made = plan(registry, augment=name)
        assert made.settings.config.aug == row
        assert [one.text for one in made.aug] == list(row)
        assert len({one.name for one in made.aug}) == len(row)
    light, standard, strong = (len(row) for row in AUGMENT.values())
    assert light < standard < strong
    assert AUGMENT["standard"] == TrainConfig().aug, "the default is the standard row"


def test_a_preset_is_written_as_its_row_and_read_again(registry: Registry) -> None:
    settings = plan(registry, augment="light").settings
    text = to_yaml(settings)
    (line,) = [line for line in text.splitlines() if line.startswith("aug")]
    row, comment = line.split(" # ")
    assert row.strip() == "aug: [random_scale_crop, flip]"
    assert comment == "chosen: --augment light"
    Path("config.yaml").write_text(text)
    again = make_plan([read_yaml(Path("config.yaml"))], registry)
    assert again.settings.config == settings.config
    assert [one.name for one in again.aug] == ["random_scale_crop", "flip"]


def test_a_later_row_or_preset_replaces_the_earlier_one(registry: Registry) -> None:
    Path("aug.yaml").write_text("aug: [flip, color_jitter]")
    Path("augment.yaml").write_text("augment: light")
    typed = {"aug": ["flip:p=1"]}, {"augment": "standard"}
    for file in ("aug.yaml", "augment.yaml"):
        for values, expected in zip(typed, (("flip:p=1",), AUGMENT["standard"]), strict=True):
            layers = [read_yaml(Path(file)), Layer(values, "command line")]
            settings = make_plan(layers, registry).settings
            assert settings.config.aug == expected
    settings = make_plan([read_yaml(Path("augment.yaml"))], registry).settings
    assert settings.where("aug") == "chosen: augment.yaml: augment light"


def test_a_row_and_a_preset_exclude_each_other(registry: Registry) -> None:
    assert refusal(registry, aug=["flip"], augment="light") == (
        "--aug and --augment exclude each other; give one."
    )
    assert refusal(registry, augment="heavy").startswith(
        "--augment: expected one of light, standard, strong; found 'heavy'."
    )


def test_a_resumed_run_has_the_row_of_its_preset(registry: Registry, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", registry, augment="light")
    made = plan(registry, resume="run")
    assert [one.name for one in made.aug] == ["random_scale_crop", "flip"]
    assert made.settings.where("aug") == f"{run / 'config.yaml'}: aug"
    changed = plan(registry, resume="run", augment="standard")
    assert changed.settings.config.aug == AUGMENT["standard"]


def test_class_weights_are_a_rule_or_a_file_that_is_there(
    registry: Registry, tmp_path: Path
) -> None:
    Path("weights.txt").write_text("1\n2")
    for given in ("inverse", "enet", "effective", "weights.txt"):
        assert plan(registry, class_weights=given).settings.config.class_weights == given
    assert refusal(registry, class_weights="inverze").startswith(
        '--class-weights: inverze is neither a rule nor a file. Did you mean "inverse"? '
    )
    run = write_run(tmp_path / "run", registry, class_weights="weights.txt")
    Path("weights.txt").unlink()
    missing = f"{run}/config.yaml: class_weights: weights.txt is neither a rule nor a file. "
    assert refusal(registry, resume="run").startswith(missing)
    (run / "class_balance.json").write_text("{}")  # what it said is stored
    assert plan(registry, resume="run").settings.config.class_weights == "weights.txt"
    typed = refusal(registry, resume="run", class_weights="weights.txt")
    assert typed.startswith("--class-weights: weights.txt is neither a rule nor a file. ")


def test_class_weights_that_no_loss_heeds_are_refused(registry: Registry) -> None:
    assert refusal(registry, class_weights="enet", loss=["dice"]) == (
        "--class-weights: enet: none of the losses of this run (dice) uses class weights. Add "
        "--loss cross_entropy, or leave this out."
    )
    made = plan(registry, class_weights="enet", loss=["dice", "cross_entropy"])
    assert [one.record.class_weighted for one in made.loss] == [False, True]


# --------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"arch": "segfromer"},
            '--arch: unknown architecture "segfromer". Did you mean "segformer"? Known: ',
        ),
        (
            {"arch": "segformer:varant=b0"},
            '--arch segformer: unknown option "varant". Did you mean "variant"? '
            "Known: config, variant, decoder, drop_path, dropout.",
        ),
        (
            {"arch": {"name": "segformer", "variant": "b9"}},
            "--arch segformer: variant: expected one of b0, b1, b2, b3, b4, b5, tiny; found 'b9'.",
        ),
        ({"dataset": "folder"}, '--dataset folder: the option "root" is required (path).'),
        ({"metric": []}, "--metric: at least one is needed."),
        ({"loss": ["cross_entropy"] * 2}, "--loss: cross_entropy is given twice."),
        ({"aug": ["none", "flip"]}, '--aug: unknown augmentation "none". Known: '),
    ],
)
def test_a_component_that_cannot_be_is_refused(
    registry: Registry, values: dict[str, Any], complaint: str
) -> None:
    assert refusal(registry, **values).startswith(complaint)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"image_mean": "123.675/116.28/103.53"},
            "--image-mean: expected a list of numbers: for images in 0..1, so divide numbers for "
            "0..255 by 255; found '123.675/116.28/103.53'.",
        ),
        ({"image_mean": "0.5/-1/0.5"}, "--image-mean: expected a list of numbers: from 0 to 1, "),
        ({"image_mean": "0.5 0.5 0.5"}, "--image-mean: expected a list of numbers; found "),
        (
            {"image_std": "0.5/0/0.5"},
            "--image-std: expected a list of numbers: above 0, as images are divided by them; "
            "found '0.5/0/0.5'.",
        ),
        ({"image_std": "58.4/57.1/57.4"}, "--image-std: expected a list of numbers: for images in"),
        ({"image_std": "nan/1/1"}, "--image-std: expected a list of numbers: from 0 to 1, one per"),
        (
            {"image_mean": "0.5/0.5"},
            "--image-mean: has 2 values, but images have 3 channels; give one value per channel, "
            "or set num_channels.",
        ),
        (
            {"image_std": "0.5/0.5/0.5", "num_channels": 1},
            "--image-std: has 3 values, but images have 1 channel; ",
        ),
    ],
)
def test_a_mean_or_deviation_that_cannot_be_is_refused(
    registry: Registry, values: dict[str, Any], complaint: str
) -> None:
    assert refusal(registry, **values).startswith(complaint)
    grey = plan(registry, image_mean=0.5, image_std=[0.25], num_channels=1).settings.config
    assert (grey.image_mean, grey.image_std) == ((0.5,), (0.25,))


def test_the_run_folder_is_numbered_unless_it_is_named(registry: Registry) -> None:
    assert plan(registry).folder == Path("runs/segformer-nuclei")
    Path("runs/segformer-nuclei").mkdir(parents=True)
    Path("runs/segformer-nuclei-2").mkdir()
    assert plan(registry).folder == Path("runs/segformer-nuclei-3")
    assert plan(registry, output_dir="runs/segformer-nuclei").folder.name == "segformer-nuclei"


def test_a_folder_in_use_is_left_alone(registry: Registry) -> None:
    Path("photos").mkdir()
    Path("photos/a.jpg").write_bytes(b"a")
    assert refusal(registry, output_dir="photos") == (
        "--output-dir: photos is not empty. Choose another folder, continue the run with --resume "
        "photos, or replace it with --overwrite."
    )
    assert refusal(registry, output_dir="photos", overwrite=True) == (
        "--overwrite: photos does not look like a run folder (it has no .segacc_run), so nothing "
        "in it is deleted. Remove it yourself, or choose another folder."
    )
    Path("photos/.segacc_run").write_text("")
    assert plan(registry, output_dir="photos", overwrite=True).folder == Path("photos")
    assert Path("photos/a.jpg").exists(), "a plan deletes nothing"


def test_a_folder_whose_mark_cannot_be_opened_is_refused(registry: Registry) -> None:
    """Not by root either: nobody may write a program that runs."""
    mark = Path("photos/.segacc_run")
    mark.parent.mkdir()
    mark.symlink_to(Path(sys.executable).resolve())
    with pytest.raises(OSError, match=r"\.segacc_run") as error:
        mark.open("a")
    told = (
        f"{mark}: cannot be opened to lock the run folder: {error.value.strerror}. Make it a file "
        "that you may write, or choose another folder with --output-dir."
    )
    assert refusal(registry, output_dir="photos") == f"--output-dir: {told}"


def test_overwrite_needs_a_folder(registry: Registry) -> None:
    complaint = "--overwrite: needs --output-dir DIR, the run folder to overwrite."
    assert refusal(registry, overwrite=True) == complaint


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    Path("file").write_text("")
    for given in ("file", "file/run/a"):
        with pytest.raises(OptionError) as caught:
            writable(Path(given), "--output-dir")
        assert (
            str(caught.value)
            == f"--output-dir: cannot create {given}: {Path(given).parts[0]} is a file."
        )
    with pytest.raises(OptionError, match=r"^--output-dir: /proc/run: cannot write in "):
        writable(Path("/proc/run"), "--output-dir")
    assert writable(tmp_path / "new" / "run", "--output-dir") == tmp_path / "new" / "run"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file"], "nothing is left there"


def test_weights_that_are_a_path_must_be_there(registry: Registry) -> None:
    Path("run/best").mkdir(parents=True)
    Path("file").write_text("")
    complaints = {
        "./nope": "--weights: no such folder: ./nope.",
        "a/b/c": "--weights: no such folder: a/b/c.",
        "nope": "--weights: no such folder: nope. A model of the Hub is given as USER/NAME.",
        "file": "--weights: file is a file; give the folder that holds it.",
        "run": "--weights: run is not a model folder: it has no config.json.",
        "run/best": "--weights: run/best is not a model folder: it has no config.json.",
    }
    assert {given: refusal(registry, weights=given) for given in complaints} == complaints
    for given in ("auto", "none", "nvidia/mit-b0"):
        assert plan(registry, arch="segformer", weights=given).settings.config.weights == given


def test_overwrite_leaves_the_cache_that_the_run_builds_first(registry: Registry) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text("arch: segformer")
    Path("run/.segacc_run").touch()
    assert refusal(registry, output_dir="run", overwrite=True, cache="run/cache") == (
        "--overwrite: run/cache is inside run, which would be deleted. Choose another --output-dir."
    )
    for given in ("ram", "cache"):
        made = plan(registry, output_dir="run", overwrite=True, cache=given)
        assert made.settings.config.cache == given


def test_weights_choose_the_architecture(registry: Registry, tmp_path: Path, shared: Path) -> None:
    folder = shared / "deeplabv3_mobilenet_v2_voc"
    made = plan(registry, weights=str(folder))
    assert made.arch.name == "mobilenet_v2" and made.arch.options.config == folder
    assert made.settings.where("arch") == f"chosen: that of {folder}"
    typed = plan(registry, weights=str(folder), arch="mobilenet_v2:output_stride=8")
    assert typed.arch.options.config is None and typed.arch.options.output_stride == 8
    assert refusal(registry, arch=f"mobilenet_v2:config={folder},dropout=0.5").endswith(
        "config defines the whole network; leave out dropout."
    )
    (tmp_path / "config.json").write_text('{"model_type": "swin"}')
    text = refusal(registry, weights=str(tmp_path))
    assert text.startswith(f"--weights: {tmp_path}: the model type swin is not a segmentation ")
    assert "as --arch upernet:backbone=NAME" in text and "mobilenet_v2, " in text
    (tmp_path / "config.json").write_text("{}")
    side = {"architecture": {"name": "segformer", "variant": "tiny"}}
    (tmp_path / "segacc.json").write_text(json.dumps(side))
    assert plan(registry, weights=str(tmp_path)).arch.options.variant == "tiny"


def test_a_resumed_run_keeps_its_settings(registry: Registry, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", registry, arch="segformer:variant=tiny", seed=3, keep=7)
    for given in (
        {"resume": "run"},
        {"resume": "auto", "output_dir": "run"},
        {"resume": "run/checkpoints/step-00000002", "seed": 3},
        {"resume": "run", "output_dir": str(run)},
    ):
        made = plan(registry, **given)
        config = made.settings.config
        assert made.resume is not None and made.resume.folder == made.folder == run
        assert made.resume.checkpoint == run / "checkpoints" / "step-00000002"
        assert (config.seed, config.keep, config.max_steps) == (3, 7, 4)
        assert made.arch.options.variant == "tiny"
    assert plan(registry, resume="run", keep=1).settings.config.keep == 1
    assert plan(registry, resume="run", epochs=3).settings.config.max_steps is None


def test_a_finished_run_is_finished_for_the_command_that_started_it(
    registry: Registry, tmp_path: Path
) -> None:
    """A scheduler types every setting again; only another value makes it another run."""
    run = write_run(tmp_path / "run", registry, batch_size=4, lr=0.1)
    (run / "last").mkdir()
    (run / "last" / "segacc.json").write_text('{"step": 4}')
    text, place = (run / "config.yaml").read_text(), run / "checkpoints" / "step-00000002"
    was = {"training_images": 20, "total_batch_size": 5}  # 1 epoch: 4 steps
    write_checkpoint(place, 4, evaluated=4, saved=4, max_steps=4, settings=was)

    def made(**typed: Any) -> Plan:
        return plan(registry, resume="auto", output_dir="run", batch_size=4, lr=0.1, **typed)

    again, end = made(epochs=1), f"{run}: this run is finished at step 4; nothing is done. "
    assert nothing_left(again).startswith(end) and nothing_left(made(max_steps=4)).startswith(end)
    typed = {key: where for key, where in again.settings.origins.items() if key != "output_dir"}
    typed = {key: where for key, where in typed.items() if not key.startswith("resume")}
    assert all(where == f"{run / 'config.yaml'}: {key}" for key, where in typed.items())
    assert not nothing_left(made(epochs=2)) and not nothing_left(made(epochs=1, resume_anyway=True))
    assert nothing_left(made(max_steps=4, resume_anyway=True))
    for given in ("auto", "run"):  # only who resumes by hand asks for larger micro-batches
        settings = plan(registry, resume=given, output_dir="run", batch_size=4).settings
        assert as_stored(settings, "batch_size", run) == (given == "auto")

    (run / "config.yaml").write_text(text.replace("max_steps: 4 ", "max_time: 40s "))
    assert nothing_left(made(max_time="40s")).startswith(end)
    assert not nothing_left(made(max_time="41s")) and not nothing_left(made(epochs=1))


def test_the_newest_checkpoint_is_resumed_and_half_written_ones_do_not_count(
    registry: Registry, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", registry)
    newer = run / "checkpoints" / "step-00000003"
    newer.mkdir()
    assert resumed(registry, "run") == run / "checkpoints" / "step-00000002"
    write_checkpoint(newer, 3)
    assert resumed(registry, "run") == newer


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"arch": "segformer:variant=b0"},
            "--arch: segformer:variant=b0: the run in {run} was started with "
            "segformer:variant=tiny, which --resume cannot change. Leave it out, or start a new "
            "run (--weights {run}/last starts from its weights).",
        ),
        ({"weights": "none"}, "--weights: none: the run in {run} was started with auto, which "),
        ({"seed": 1}, "--seed: 1: the run in {run} was started with 0, which "),
        (
            {"rare_class_sampling": "0.1"},
            "--rare-class-sampling: 0.1: the run in {run} was started with None, which ",
        ),
        ({"best_by": "x"}, "--best-by: x: the run in {run} was started with mean_iou, which "),
        ({"overwrite": True}, "--overwrite: --resume continues the run in {run}; leave this out."),
        ({"max_steps": 1}, "--max-steps: 1: {run}/checkpoints/step-00000002 is already at step 2"),
        ({"output_dir": "other"}, "--resume continues the run in {run}; leave --output-dir out."),
    ],
)
def test_what_a_resumed_run_cannot_change_is_refused(
    registry: Registry, tmp_path: Path, values: dict[str, Any], complaint: str
) -> None:
    run = write_run(tmp_path / "run", registry, arch="segformer:variant=tiny")
    before = (run / "config.yaml").read_text()
    assert refusal(registry, resume="run", **values).startswith(complaint.format(run=run))
    assert (run / "config.yaml").read_text() == before


def test_a_resumed_run_whose_plugin_is_missing_names_it(registry: Registry, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", registry, arch="segformer:variant=tiny")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("segformer:variant=tiny", "unet_small"))
    (run / "network").mkdir()
    side = {
        "architecture": {"name": "unet_small"},
        "plugin": {"distribution": "segacc-example", "version": "1.2.3"},
    }
    (run / "network" / "segacc.json").write_text(json.dumps(side))
    assert refusal(registry, resume="run") == (
        '--resume run: the network is the architecture "unet_small" of the plugin segacc-example '
        "1.2.3, which is not installed. Install it: pip install segacc-example==1.2.3."
    )


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"resume": "nope"}, "--resume nope: no complete checkpoint in {here}/nope/checkpoints."),
        ({"resume": "auto"}, "--resume auto needs --output-dir DIR; or use --resume DIR."),
    ],
)
def test_a_run_that_is_not_there_cannot_be_resumed(
    registry: Registry, tmp_path: Path, values: dict[str, Any], complaint: str
) -> None:
    assert refusal(registry, **values) == complaint.format(here=tmp_path)
