"""The command line as a user meets it: bad input is one paragraph, and a typo costs no import."""

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli_tools import (
    TINY,
    Warm,
    assert_refused,
    assert_succeeded,
    launch,
    metrics,
    python,
    segacc,
)
from segacc.config import EvaluateConfig, PredictConfig, TrainConfig
from segacc.options import field_docs

pytest_plugins = ["cli_fixtures"]

HELP = "`python -m segacc --help` lists all flags."
HEAVY = {"torch", "torchvision", "transformers", "datasets", "accelerate", "matplotlib", "numpy"}

REFUSED = [
    (["--batchsize", "4"], f'unknown flag --batchsize. Did you mean "--batch-size"? {HELP}'),
    (["--batch-siz", "4"], f'unknown flag --batch-siz. Did you mean "--batch-size"? {HELP}'),
    (["--batch_siz=4"], f'unknown flag --batch-siz. Did you mean "--batch-size"? {HELP}'),
    (["--arch", "segformer", "more"], f"unknown argument more. {HELP}"),
    (
        ["evalute"],
        'unknown command "evalute". Did you mean "evaluate"? Commands: evaluate, predict, '
        "plugins; without a command segacc trains.",
    ),
    (["--lr"], f"--lr: expected one argument. {HELP}"),
    (["--lr", "--seed", "1"], f"--lr: expected one argument. {HELP}"),
    (
        ["--arch", "segformer", "--arch", "segformer:variant=b2"],
        "--arch: given twice: 'segformer' and 'segformer:variant=b2'; give it once.",
    ),
    (["--lr=1", "--lr=2"], "--lr: given twice: '1' and '2'; give it once."),
    (
        ["--batch-size", "four"],
        "--batch-size: got 'four', expected integer > 0: input should be a valid integer, unable "
        "to parse string as an integer.",
    ),
    (
        ["--batch-size", "0"],
        "--batch-size: got '0', expected integer > 0: input should be greater than 0.",
    ),
    (["--lr", "-1"], "--lr: got '-1', expected number > 0: input should be greater than 0."),
    (
        ["--mixed-precision", "fp4"],
        "--mixed-precision: got 'fp4', expected one of no, bf16, fp16, fp8: input should be 'no', "
        "'bf16', 'fp16' or 'fp8'.",
    ),
    (
        ["--freeze-batchnorm=true"],
        "--freeze-batchnorm: takes no value; write --freeze-batchnorm or --no-freeze-batchnorm. "
        + HELP,
    ),
    (
        ["--arch", "segformer:variant=b9"],
        "--arch segformer: \"variant\" is 'b9', expected one of b0, b1, b2, b3, b4, b5, tiny: "
        "input should be 'b0', 'b1', 'b2', 'b3', 'b4', 'b5' or 'tiny'.",
    ),
    (
        ["--arch", "segformer:variant"],
        "--arch: cannot read 'variant' in 'segformer:variant'. Options are written "
        "`name:key=value,key=value`; a value with commas goes in quotes or brackets.",
    ),
    (
        ["--dataset", "nuclei:boarder=true"],
        '--dataset nuclei: unknown option "boarder". Did you mean "border"? Known: border.',
    ),
    (["--epochs=1", "--max-steps=2"], "--epochs and --max-steps exclude each other; give one."),
    (["--config", "nope.yaml"], "--config nope.yaml: No such file or directory."),
    (["--weights", "./nope"], "--weights: no such folder: ./nope."),
    (["--resume", "nope"], "--resume nope: no whole checkpoint in {cwd}/nope/checkpoints."),
    (["--resume"], "--resume auto needs --output-dir DIR; or write --resume DIR."),
    (
        ["evaluate"],
        "the following arguments are required: MODEL_FOLDER. `python -m segacc "
        "evaluate --help` lists all flags.",
    ),
    (["evaluate", "x"], "--dataset must be given, as in `--dataset folder:root=data/camvid`."),
    (
        ["evaluate", "x", "--dataset", "nuclei"],
        "MODEL_FOLDER: x is no folder of a saved network: there is no such folder.",
    ),
    (
        ["evaluate", "x", "--dataset", "nuclei", "--metric", "mean_iou", "--metric", "mean_iou"],
        "--metric: mean_iou is given twice.",
    ),
    (
        ["predict", "x", "y", "--output", "z"],
        'unknown flag --output. Did you mean "--output-dir"? `python -m segacc predict --help` '
        "lists all flags.",
    ),
    (
        ["plugins", "segformr"],
        'nothing is called "segformr". Did you mean "segformer"? `python -m segacc plugins` '
        "lists all names.",
    ),
]


@pytest.mark.parametrize(("arguments", "text"), REFUSED, ids=[" ".join(a) for a, _ in REFUSED])
def test_bad_input_is_one_paragraph(
    warm: Warm, tmp_path: Path, arguments: list[str], text: str
) -> None:
    assert_refused(warm(*arguments, cwd=tmp_path), text.replace("{cwd}", str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


LATER = [
    (["--best-by", "miou"], "--best-by miou: no such score. Known: mean_iou, mean_accuracy, "),
    (["--best-by", "per_category_iou/disk"], "--best-by per_category_iou/disk: no such score."),
    (["--best-by", "per_category_iou"], "--best-by per_category_iou: no such score."),
    (["--eval-split", "test"], '--eval-split: the data set has no split "test"; it has train, '),
    (["--warmup-steps", "2"], "--warmup-steps: 2 of 2 steps leave none to train."),
    (["--dataset", "folder:root=nope"], "--dataset folder: root=nope is not a folder (looked in "),
]


@pytest.mark.parametrize(("arguments", "text"), LATER, ids=[" ".join(a) for a, _ in LATER])
def test_what_only_the_data_can_tell_is_refused_before_training(
    warm: Warm, data: Path, tmp_path: Path, arguments: list[str], text: str
) -> None:
    dataset = [] if "--dataset" in arguments else ["--dataset", f"folder:root={data}"]
    done = warm(*TINY, *dataset, *arguments, "--output-dir", "run", cwd=tmp_path)
    assert done.stderr.startswith(f"segacc: {text}") and done.stderr.count("\n") == 1
    assert (done.returncode, done.stdout) == (2, "")
    assert not (tmp_path / "run").exists()


def test_a_crop_that_the_network_cannot_take_is_refused(warm: Warm, tmp_path: Path) -> None:
    for crop, complaint in {
        "foo": "input should be a valid integer, unable to parse string as an integer.",
        "64x64x64": "tuple should have at most 2 items after validation, not 3.",
        "0": "input should be greater than 0.",
    }.items():
        text = f"--crop-size: got '{crop}', expected SIZE or HEIGHTxWIDTH in pixels: {complaint}"
        assert_refused(warm("--crop-size", crop, cwd=tmp_path), text)


def test_a_yaml_file_is_named_with_its_key(warm: Warm, tmp_path: Path) -> None:
    for text, complaint in {
        "ach: segformer": 'run.yaml: unknown key "ach". Did you mean "arch"? '
        "`python -m segacc --help` lists all settings.",
        "arch: {name: segformer, varian: b0}": "run.yaml: arch (segformer): unknown option "
        '"varian". Did you mean "variant"? Known: variant, drop_path, dropout.',
        "arch: [segformer": "--config run.yaml: not YAML: line 1: expected ',' or ']', but got "
        "'<stream end>'.",
        "keep: many": "run.yaml: keep: got 'many', expected integer > 0: input should be a valid "
        "integer, unable to parse string as an integer.",
    }.items():
        (tmp_path / "run.yaml").write_text(text)
        assert_refused(warm("--config", "run.yaml", cwd=tmp_path), complaint)


def test_overwrite_deletes_run_folders_only(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"a")
    assert_refused(
        warm("--output-dir", "photos", cwd=tmp_path),
        "--output-dir: photos is in use. Choose another folder, go on with `--resume photos`, or "
        "delete what it holds with --overwrite.",
    )
    done = warm("--output-dir", "photos", "--overwrite", cwd=tmp_path)
    assert done.returncode == 2 and "does not look like a run folder" in done.stderr
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"a"


def test_on_a_terminal_the_paragraph_is_wrapped_at_words(warm: Warm, tmp_path: Path) -> None:
    done = warm.on_terminal("--batchsize", cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (2, 2)
    assert max(map(len, lines)) <= 80
    assert " ".join(lines) == f"segacc: {REFUSED[0][1]}"


@pytest.mark.launch
def test_two_processes_say_it_once(tmp_path: Path) -> None:
    done = launch(*REFUSED[0][0], cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count(f"segacc: {REFUSED[0][1]}\n") == 1
    assert done.stderr.count("Did you mean") == 1
    own = done.stderr.partition("\n")[0]
    assert own == f"segacc: {REFUSED[0][1]}", "it comes before the launcher's own report"


LIGHT = """
import sys
from segacc.__main__ import main
sys.argv = ["segacc", *sys.argv[1:]]
try:
    code = main()
except SystemExit as end:
    code = end.code
sys.stderr.write(f"LOADED {code} {sorted({name.split('.')[0] for name in sys.modules})}")
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["evaluate", "--help"], 0),
        (["plugins"], 0),
        (["plugins", "folder", "--json"], 0),
        (["--arch", "segfromer"], 2),
        (["--arch", "segformer:varant=b0"], 2),
        (["--resume", "nope"], 2),
        (["predict", "nope", "nope.jpg"], 2),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_no_heavy_library_is_imported(tmp_path: Path, arguments: list[str], code: int) -> None:
    done = python("-c", LIGHT, *arguments, cwd=tmp_path)
    report = re.search(r"LOADED (\d+) \[(.*)\]", done.stderr)
    assert report, done.stderr
    loaded = {name.strip("'") for name in report[2].split(", ")}
    assert "segacc" in loaded
    assert (int(report[1] or 0), loaded & HEAVY) == (code, set())


@pytest.mark.parametrize(
    ("command", "cls"),
    [([], TrainConfig), (["evaluate"], EvaluateConfig), (["predict"], PredictConfig)],
)
def test_help_lists_every_setting_with_its_text(
    tmp_path: Path, command: list[str], cls: type[Any]
) -> None:
    shown = " ".join(assert_succeeded(segacc(*command, "--help", cwd=tmp_path)).stdout.split())
    docs = field_docs(cls)
    for field in dataclasses.fields(cls):
        flag = f"--{field.name.replace('_', '-')}"
        assert re.search(rf"{flag}(, --no[\w-]+)?( \S+)? {re.escape(docs[field.name])}", shown), (
            flag
        )


def test_help_is_grouped_and_shows_defaults_and_choices(tmp_path: Path) -> None:
    lines = assert_succeeded(segacc("--help", cwd=tmp_path, COLUMNS="100")).stdout.splitlines()
    headings = [line for line in lines if re.match(r"\w.*:$", line)]
    assert headings == [
        "options:",
        "What is trained:",
        "How long:",
        "The batch:",
        "Optimization:",
        "Scoring, saving, seeing:",
        "The run folder:",
    ]
    text = "\n".join(lines)
    assert "--mixed-precision no|bf16|fp16|fp8" in text
    assert "--batch-size N " in text and "[8]" in text
    assert max(map(len, lines)) <= 100


def test_version(tmp_path: Path) -> None:
    assert segacc("--version", cwd=tmp_path).stdout == "segacc 0.1.0\n"


def comments(path: Path) -> dict[str, str]:
    """Read where each value of config.yaml came from."""
    lines = [line.split(": ", 1) for line in path.read_text().splitlines()[1:]]
    return {key: rest.split(" # ")[1] for key, rest in lines}


def losses(folder: Path) -> list[Any]:
    return [(row["loss"], row["grad_norm"], row["lr"]) for row in metrics(folder, "train")]


def test_flags_over_yaml_and_the_same_run_again_from_config_yaml(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    given = {
        "arch": {"name": "segformer", "variant": "tiny"},
        "dataset": {"name": "folder", "root": str(data)},
        "aug": "flip",
        "num-workers": 0,
        "max_steps": 9,
        "batch-size": 2,
        "weights": "none",
        "seed": 3,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    flags = ["--crop_size=48x64", "--max-steps=3", "--log_every", "1", "--keep=1"]
    first = assert_succeeded(
        warm("--config", "run.yaml", *flags, "--output-dir", "first", cwd=tmp_path)
    )
    assert "step 3/3" in first.stdout
    assert list((tmp_path / "first" / "checkpoints").iterdir()) == [
        tmp_path / "first" / "checkpoints" / "step-00000003"
    ]
    written = tmp_path / "first" / "config.yaml"
    where = comments(written)
    assert where["crop_size"] == "--crop-size"
    assert where["max_steps"] == "--max-steps"
    assert where["batch_size"] == "run.yaml: batch_size"
    assert where["aug"] == "run.yaml: aug"
    assert where["poly_power"] == "default"
    assert where["lr"] == "chosen: weights are random"
    assert where["eval_every"] == "chosen: a fifth of the run"
    values = yaml.safe_load(written.read_text())
    assert values["arch"] == {"name": "segformer", "variant": "tiny"}
    assert (values["aug"], values["crop_size"], values["seed"]) == (["flip"], [48, 64], 3)

    again = warm("--config", "first/config.yaml", "--output-dir", "again", cwd=tmp_path)
    assert_succeeded(again)
    assert losses(tmp_path / "again") == losses(tmp_path / "first") != []
    assert yaml.safe_load((tmp_path / "again" / "config.yaml").read_text()) == values


def test_a_run_goes_on_with_its_own_settings(warm: Warm, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    before = yaml.safe_load((run / "config.yaml").read_text())
    done = assert_succeeded(warm("--resume=run", "--max_steps=41", "--log-every=1", cwd=tmp_path))
    assert "step 41/41" in done.stdout
    after = yaml.safe_load((run / "config.yaml").read_text())
    assert after == {**before, "max_steps": 41, "log_every": 1}
    assert comments(run / "config.yaml")["max_steps"] == "--max-steps"
    assert [row["step"] for row in metrics(run, "train")] == [20, 40, 41]


def test_a_resume_that_is_refused_changes_nothing(
    warm: Warm, trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert_refused(
        warm("--resume", "run", "--batch-size", "2", "--max-steps", "50", cwd=tmp_path),
        "--resume run: this would not be the same run: total_batch_size was 4, now 2. Start as "
        "many processes, batch size and accumulation that make the same product, on the same "
        "data.",
    )
    assert_refused(
        warm("--resume", "run", "--max-steps", "2", cwd=tmp_path),
        f"--max-steps: 2: {run}/checkpoints/step-00000040 is at step 40 already.",
    )
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


PYTHON = """
import sys
import segacc
assert segacc.__version__ and "torch" not in sys.modules
from segacc import TrainConfig, train
assert isinstance(TrainConfig(), TrainConfig)
from segacc.errors import OptionError
wrong = [
    dict(batch_size="four"), dict(lr=-1.0), dict(arch="segfromer"), dict(aug=("flp",)),
    dict(epochs=1, max_steps=2), dict(keep=True),
]
for values in wrong:
    try:
        next(train(TrainConfig(**values)))
    except OptionError as error:
        print(error)
    except segacc.errors.PluginError as error:
        print(error)
config = TrainConfig(
    arch="segformer:variant=tiny", weights="none", dataset={"name": "folder", "root": sys.argv[1]},
    crop_size=(48, 64), max_steps=2, batch_size=2, num_workers=0, log_every=1, output_dir="run",
)
for event in train(config):
    print(type(event).__name__)
"""


def test_in_python_events_come_and_wrong_values_are_refused(data: Path, tmp_path: Path) -> None:
    done = assert_succeeded(python("-c", PYTHON, data, cwd=tmp_path))
    lines = done.stdout.splitlines()
    complaints = [
        "TrainConfig: batch_size: got 'four', expected integer > 0: ",
        "TrainConfig: lr: got -1.0, expected number > 0: ",
        'TrainConfig: arch: unknown architecture "segfromer". Did you mean "segformer"? ',
        'TrainConfig: aug: unknown augmentation "flp". Did you mean "flip"? ',
        "TrainConfig: epochs and TrainConfig: max_steps exclude each other; give one.",
        "TrainConfig: keep: got true, expected integer > 0.",
    ]
    for line, complaint in zip(lines, complaints, strict=False):
        assert line.startswith(complaint)
    assert lines[6:] == [
        *("Started", "StepDone", "Evaluated", "Saved", "Saved"),
        *("StepDone", "Evaluated", *(["Saved"] * (len(lines) - 14)), "Stopped"),
    ]
    assert comments(tmp_path / "run" / "config.yaml")["batch_size"] == "TrainConfig: batch_size"
    assert [row["step"] for row in metrics(tmp_path / "run", "train")] == [1, 2]
