"""What is said to other tools' flags: each names something that segacc has."""

import re
import shlex
from pathlib import Path

import pytest

from cli_tools import Warm, assert_refused
from segacc.commands.cli import train_parser
from segacc.commands.parser import parse
from segacc.registry import load_registry
from segacc.settings.sources import Layer
from segacc.settings.synonyms import ADVICE, FLAGS, by_word, suggest, suggest_key
from segacc.training.plan import make_plan

pytest_plugins = ["cli_fixtures"]

KNOWN = [flag for action in train_parser()._actions for flag in action.option_strings]
HELP = "`python -m segacc --help` lists all flags."


@pytest.mark.parametrize("told", FLAGS)
def test_what_is_named_is_accepted(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flag exists, and the value that is told with it passes the checks before a run."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(told.partition(", ")[0])
    assert words[0] in KNOWN
    for placeholder, value in {"NAME": "swin", "DIR": ".", "FILE": "classes.txt"}.items():
        words[1:] = [word.replace(placeholder, value) for word in words[1:]]
    if len(words) > 1 and words[0] not in ("--processes", "--trackers"):  # which needs its package
        make_plan([Layer(parse(train_parser(), words), "command line")], load_registry())


def test_each_word_is_another_tools_and_has_one_answer() -> None:
    words = " ".join([*FLAGS.values(), *ADVICE.values()]).split()
    assert len(words) == len(set(words)) == len(by_word())
    assert not {f"--{word}" for word in words if word != "processes"} & set(KNOWN)
    assert all(re.fullmatch("[a-z0-9-]+", word) for word in words)


def promised(page: str, *sections: str) -> list[tuple[str, str]]:
    """Return (argument of another tool, what the page has in its place) of a page's tables."""
    text = (Path(__file__).parents[2] / f"docs/{page}.md").read_text(encoding="utf-8")
    parts = [part for part in text.split("\n## ") if part.startswith(sections)]
    rows = [line.split("|") for part in parts for line in part.splitlines() if line[:3] == "| `"]
    return [
        (re.split("[ =(]", given)[0], row[2])
        for row in rows
        for given in re.findall("`(.*?)`", row[1])
        if re.match(r"--\w|[a-z_0-9]+([ =(]|$)", given)
    ]


PROMISED = [
    *promised("from_huggingface", "Arguments"),
    *promised("from_ultralytics", "Data", "Training arguments"),
    *promised("from_mmsegmentation", "Configuration keys"),
]
WITHOUT = {"torchrun", "custom_keys", "decay_mult"}
"""What is no flag there."""


def test_each_argument_of_the_pages_gets_its_answer() -> None:
    """A table's right column names the flag that the error names, or the error explains more."""
    assert len(PROMISED) > 100
    for given, right in PROMISED:
        flag = "--" + given.lstrip("-").replace("_", "-")
        if flag in KNOWN or given in WITHOUT:
            continue
        told = by_word().get(flag[2:], "")
        named = re.findall(r"In segacc this is (--[a-z-]+)", told)
        assert told and suggest(flag, KNOWN) == f"{told} ", given
        assert not named or "`--" not in right or f"`{named[0]}" in right, (given, told, right)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("--learning-rate=1", "--lr"),
        ("--model", "--arch"),
        ("--report_to", "--trackers"),
        ("--batch", "--batch-size"),
        ("--FP16", "--mixed-precision fp16"),
        ("--save-total-limit", "--keep"),
        ("--imgsz", "--crop-size"),
        ("--backbone", "--arch upernet:backbone=NAME"),
        ("--num_train_epochs", "--epochs"),
        ("--per_device_train_batch_size", "--batch-size"),
        ("--eval-strategy", "--eval-every"),
        ("--gpus", "--processes N"),
    ],
)
def test_another_tools_flag_is_translated(
    warm: Warm, tmp_path: Path, typed: str, told: str
) -> None:
    flag = typed.partition("=")[0].replace("_", "-")
    text = f"unknown flag {flag}. In segacc this is {told}. {HELP}"
    assert_refused(warm("train", typed, cwd=tmp_path), text)


def test_what_is_no_flag_is_explained(warm: Warm, tmp_path: Path) -> None:
    assert_refused(
        warm("--device", "cpu", cwd=tmp_path),
        "unknown flag --device. Select GPUs with CUDA_VISIBLE_DEVICES=0,1 before the command, or "
        f"the CPU with ACCELERATE_USE_CPU=true. {HELP}",
    )
    assert_refused(
        warm("--hub-model-id", "a/b", cwd=tmp_path),
        f"unknown flag --hub-model-id. `--push-to-hub USER/NAME` names the repository. {HELP}",
    )


def test_a_command_without_the_flag_does_not_suggest_it(warm: Warm, tmp_path: Path) -> None:
    help_text = "`python -m segacc predict --help` lists all flags."
    assert_refused(
        warm("predict", "a", "b", "--fp16", cwd=tmp_path), f"unknown flag --fp16. {help_text}"
    )
    assert_refused(
        warm("predict", "a", "b", "--output", "c", cwd=tmp_path),
        f"unknown flag --output. In segacc this is --output-dir. {help_text}",
    )
    assert suggest("--batchsiz", ["--batch-size"]) == 'Did you mean "--batch-size"? '


def test_keys_of_a_file_are_translated(warm: Warm, tmp_path: Path) -> None:
    for key, told in {
        "learning_rate": "In segacc this is lr.",
        "fp16": "In segacc this is mixed_precision: fp16.",
        "num_processes": "",
        "hub-token": "Log in once with `hf auth login`, or set HF_TOKEN; leave this out.",
        "ach": 'Did you mean "arch"?',
    }.items():
        (tmp_path / "run.yaml").write_text(f"{key}: 1")
        name = key.replace("-", "_")
        said = " ".join(filter(None, [f'run.yaml: unknown key "{name}".', told]))
        assert_refused(
            warm("train", "--config", "run.yaml", cwd=tmp_path),
            f"{said} `python -m segacc --help` lists all settings.",
        )
    assert suggest_key("processes", ["lr"]).startswith("`segacc train --processes N` alone")


LONG = "x" * 200


@pytest.mark.parametrize(
    "arguments",
    [
        ["--lr", LONG],
        ["--arch", LONG],
        ["--arch", f"segformer:variant={LONG}"],
        ["--arch", f"segformer:{LONG}=1"],
        ["--arch", f"segformer:variant=b0,{LONG}"],
        ["--arch", f"segformer:variant=[{LONG}"],
        ["--crop-size", LONG],
        ["--optimizer", f"adamw:betas={LONG}"],
        ["--schedule", LONG],
        ["--protocol", LONG],
        ["--recipe", LONG],
        ["--lr", LONG, "--lr", LONG],
        [f"--{LONG}", "1"],
        [LONG],
        ["plugins", LONG],
    ],
    ids=lambda given: " ".join(given).replace(LONG, "LONG"),
)
def test_a_long_value_is_cut(warm: Warm, tmp_path: Path, arguments: list[str]) -> None:
    done = warm(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    longest = max(map(len, re.findall("x+", done.stderr)))
    assert 20 < longest <= 80 and "..." in done.stderr
