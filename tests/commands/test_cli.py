"""The command line as a user meets it: bad input is one paragraph, and a typo costs no import."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

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
from segacc.settings.commands import CompareConfig, EvaluateConfig, PredictConfig
from segacc.settings.config import TrainConfig
from segacc.settings.options import field_docs

pytest_plugins = ["cli_fixtures"]

HELP = "`python -m segacc --help` lists all flags."
HEAVY = {"torch", "torchvision", "transformers", "datasets", "accelerate", "matplotlib", "numpy"}

REFUSED = [
    (["--batchsize", "4"], f'unknown flag --batchsize. Did you mean "--batch-size"? {HELP}'),
    (["--batch-siz", "4"], f'unknown flag --batch-siz. Did you mean "--batch-size"? {HELP}'),
    (["--batch_siz=4"], f'unknown flag --batch-siz. Did you mean "--batch-size"? {HELP}'),
    (["--arch", "segformer", "more"], f"unknown argument more. {HELP}"),
    (["train", "--arch", "segformer", "more"], f"unknown argument more. {HELP}"),
    (["train", "--processes", "0"], "--processes: expected an integer > 0; found '0'."),
    (
        ["train", "--processes", "2", "--protocol", "tiles"],
        '--protocol: unknown protocol "tiles". Known: whole, slide, tta, mmseg-ade20k, '
        "mmseg-cityscapes, voc.",
    ),
    (
        ["evalute"],
        'unknown command "evalute". Did you mean "evaluate"? Commands: train, evaluate, '
        "compare, predict, report, demo, push, export, benchmark, check-data, convert, plugins, "
        "info; without a command segacc trains.",
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
        "--batch-size: expected an integer > 0 or auto; found 'four'.",
    ),
    (
        ["--batch-size", "0"],
        "--batch-size: expected an integer > 0 or auto; found '0'.",
    ),
    (["--lr", "-1"], "--lr: expected a number > 0; found '-1'."),
    (
        ["--mixed-precision", "fp4"],
        "--mixed-precision: expected one of auto, no, bf16, fp16, fp8; found 'fp4'.",
    ),
    (
        ["--freeze-batchnorm=true"],
        "--freeze-batchnorm: takes no value; write --freeze-batchnorm or --no-freeze-batchnorm. "
        + HELP,
    ),
    (
        ["--arch", "segformer:variant=b9"],
        "--arch segformer: variant: expected one of b0, b1, b2, b3, b4, b5, tiny; found 'b9'.",
    ),
    (
        ["--arch", "segformer:variant"],
        "--arch segformer: cannot read 'variant'. Options are written "
        "`name:key=value,key=value`; a value with commas goes in quotes or brackets.",
    ),
    (
        ["--dataset", "nuclei:boarder=true"],
        '--dataset nuclei: unknown option "boarder". Did you mean "border"? Known: border, bits, '
        "exif, map, max_bytes, max_pixels.",
    ),
    (["--epochs=1", "--max-steps=2"], "--epochs and --max-steps exclude each other; give one."),
    (["--config", "nope.yaml"], "--config nope.yaml: No such file or directory."),
    (["--weights", "./nope"], "--weights: no such folder: ./nope."),
    (["--resume", "nope"], "--resume nope: no complete checkpoint in {cwd}/nope/checkpoints."),
    (["--resume"], "--resume auto needs --output-dir DIR; or use --resume DIR."),
    (
        ["evaluate"],
        "the following arguments are required: MODEL. `python -m segacc "
        "evaluate --help` lists all flags.",
    ),
    (["evaluate", "x"], "MODEL: no such folder: x. A model of the Hub is given as USER/NAME."),
    (["evaluate", "us/x"], "--dataset must be given, as in `--dataset folder:root=data/camvid`."),
    (
        ["evaluate", "us/x", "--dataset", "nuclei"],
        "MODEL us/x: there is no such folder; the Hub cannot be reached (OfflineModeIsEnabled) and "
        "us/x is not in the local cache. Give a folder on disk.",
    ),
    (
        ["evaluate", "x", "--dataset", "nuclei", "--metric", "mean_iou", "--metric", "mean_iou"],
        "--metric: mean_iou is given twice.",
    ),
    (
        ["evaluate", "x", "--dataset", "nuclei", "--verify", "0"],
        "--verify: expected an integer > 0; found '0'.",
    ),
    (
        ["compare", "a"],
        "compare: expected A and B, found 1 path. Several runs on a side are separated by --with, "
        "as in `segacc compare A1 A2 --with B1 B2`.",
    ),
    (
        ["compare", "a", "b", "--resamples", "10"],
        "--resamples: expected an integer >= 100; found '10'.",
    ),
    (
        ["predict", "x", "y", "--output", "z"],
        "unknown flag --output. In segacc this is --output-dir. `python -m segacc predict --help` "
        "lists all flags.",
    ),
    (
        ["plugins", "segformr"],
        'unknown component "segformr". Did you mean "segformer"? `python -m segacc plugins` '
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
    (["--warmup-steps", "2"], "--warmup-steps: a warm-up of 2 steps leaves none of 2 steps "),
    (["--dataset", "folder:root=nope"], "--dataset folder: root=nope is not a folder (looked in "),
]


@pytest.mark.slow
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
    for crop in ("foo", "64x64x64", "0"):
        text = f"--crop-size: expected SIZE or HEIGHTxWIDTH in pixels > 0; found '{crop}'."
        assert_refused(warm("--crop-size", crop, cwd=tmp_path), text)


def test_a_crop_that_is_too_small_for_the_network_is_refused(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    flags = ["16" if flag == "64" else flag for flag in TINY]
    assert_refused(
        warm(*flags, "--dataset", f"folder:root={data}", cwd=tmp_path),
        "--crop-size: 16x16: the architecture supports only images of at least 29 pixels per side; "
        "29x29 fits.",
    )


def test_a_yaml_file_is_named_with_its_key(warm: Warm, tmp_path: Path) -> None:
    for text, complaint in {
        "ach: segformer": 'run.yaml: unknown key "ach". Did you mean "arch"? '
        "`python -m segacc --help` lists all settings.",
        "arch: {name: segformer, varian: b0}": "run.yaml: arch (segformer): unknown option "
        '"varian". Did you mean "variant"? Known: config, variant, decoder, drop_path, dropout.',
        "arch: [segformer": "--config run.yaml: not YAML: line 1: expected ',' or ']', but got "
        "'<stream end>'.",
        "keep: many": "run.yaml: keep: expected an integer > 0; found 'many'.",
    }.items():
        (tmp_path / "run.yaml").write_text(text)
        assert_refused(warm("--config", "run.yaml", cwd=tmp_path), complaint)


def test_overwrite_deletes_run_folders_only(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"a")
    assert_refused(
        warm("--output-dir", "photos", cwd=tmp_path),
        "--output-dir: photos is not empty. Choose another folder, continue the run with --resume "
        "photos, or replace it with --overwrite.",
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


@pytest.mark.slow
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
        (["plugins", "protocol"], 0),
        (["--arch", "segfromer"], 2),
        (["train", "--processes", "2", "--arch", "segfromer"], 2),
        (["train", "--protocol", "slid"], 2),
        (["--arch", "segformer:varant=b0"], 2),
        (["--resume", "nope"], 2),
        (["predict", "nope", "nope.jpg"], 2),
        (["compare", "a", "b", "--resamples", "10"], 2),
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
    [
        ([], TrainConfig),
        (["train"], TrainConfig),
        (["evaluate"], EvaluateConfig),
        (["compare"], CompareConfig),
        (["predict"], PredictConfig),
    ],
)
def test_help_lists_every_setting_with_its_text(
    tmp_path: Path, command: list[str], cls: type[Any]
) -> None:
    said = assert_succeeded(segacc(*command, "--help", cwd=tmp_path)).stdout.split()
    shown, docs = "".join(said), field_docs(cls)  # lines are cut at hyphens, too
    for field in dataclasses.fields(cls):
        flag, text = f"--{field.name.replace('_', '-')}", "".join(docs[field.name].split())
        assert re.search(rf"{flag}(,--no[\w-]+)?\S{{0,40}}?{re.escape(text)}", shown), flag


def test_help_is_grouped_and_shows_defaults_and_choices(tmp_path: Path) -> None:
    lines = assert_succeeded(segacc("--help", cwd=tmp_path, COLUMNS="100")).stdout.splitlines()
    headings = [line for line in lines if re.match(r"\w.*:$", line)]
    assert headings == [
        "options:",
        "Model and data:",
        "Training length:",
        "Batch and data loading:",
        "Optimization:",
        "Evaluation, checkpoints and logging:",
        "Run folder and processes:",
    ]
    text = "\n".join(lines)
    assert "--mixed-precision auto|no|bf16|fp16|fp8" in text
    assert "--batch-size N " in text and "[8]" in text
    assert max(map(len, lines)) <= 100


def test_train_is_a_command_with_the_same_flags(warm: Warm, data: Path, tmp_path: Path) -> None:
    assert warm("train", "--help", cwd=tmp_path).stdout == warm("--help", cwd=tmp_path).stdout
    for command, folder in ((["train"], "named"), ([], "bare")):
        flags = (*TINY, "--dataset", f"folder:root={data}", "--output-dir", folder)
        assert_succeeded(warm(*command, *flags, cwd=tmp_path))
    named, bare = (metrics(tmp_path / folder, "train") for folder in ("named", "bare"))
    assert [row["loss"] for row in named] == [row["loss"] for row in bare] != []


def test_version(tmp_path: Path) -> None:
    assert segacc("--version", cwd=tmp_path).stdout == "segacc 0.1.0\n"
