"""Settings from YAML, flags and Python: their order, their checks, and where each came from."""

from pathlib import Path
from typing import Any

import pytest

from segacc.errors import OptionError
from segacc.settings.commands import EvaluateConfig
from segacc.settings.config import TrainConfig
from segacc.settings.sources import Layer, Settings, check_layer, merge, read_yaml, to_yaml

NOT_UTF_8 = "it is not UTF-8; if it is a text file, save it in UTF-8."


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(OptionError) as caught:
        call(*arguments)
    return str(caught.value)


def test_nothing_typed_is_the_defaults() -> None:
    assert merge([]) == Settings(TrainConfig(), {})
    assert merge([]).where("lr") == "the default of --lr"


def test_flags_go_over_yaml_and_both_over_defaults(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "batch-size: 3\nlr: 1e-2\nseed: 5\n")
    settings = merge([read_yaml(path), Layer({"seed": "7"}, "command line")])
    config = settings.config
    assert (config.batch_size, config.lr, config.seed, config.keep) == (3, 0.01, 7, 3)
    assert settings.origins == {
        "batch_size": f"{path}: batch_size",
        "lr": f"{path}: lr",
        "seed": "--seed",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aug: flip", ("flip",)),
        ("aug: [flip, color_jitter]", ("flip", "color_jitter")),
        ("aug: {name: flip, p: 0.1}", ({"name": "flip", "p": 0.1},)),
        ("aug:\n- flip:p=0.1\n- name: flip", ("flip:p=0.1", {"name": "flip"})),
        ("aug: none", ("none",)),
        ("aug: []", ()),
    ],
)
def test_a_list_is_given_in_any_of_its_forms(tmp_path: Path, text: str, expected: Any) -> None:
    assert merge([read_yaml(yaml_file(tmp_path, text))]).config.aug == expected


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("crop_size: 320x416", "crop_size", (320, 416)),
        ("crop_size: 64", "crop_size", (64, 64)),
        ("crop_size: [32, 48]", "crop_size", (32, 48)),
        ("mixed_precision: no", "mixed_precision", "no"),
        ("freeze_batchnorm: yes", "freeze_batchnorm", True),
        ("lr: 1e-3", "lr", 0.001),
        ("output_dir: runs/a", "output_dir", Path("runs/a")),
        ("mixed_precision: null", "mixed_precision", None),
        ("max_steps: 010", "max_steps", 10),
        ("max_steps: 1_000", "max_steps", 1000),
        ("seed: -0", "seed", 0),
        ("max_time: 90m", "max_time", "90m"),
        ("output_dir: ~/runs/a", "output_dir", Path.home() / "runs" / "a"),
    ],
)
def test_yaml_values_are_taken_as_they_are_meant(
    tmp_path: Path, text: str, key: str, expected: Any
) -> None:
    assert getattr(merge([read_yaml(yaml_file(tmp_path, text))]).config, key) == expected


def test_a_time_in_yaml_is_no_number(tmp_path: Path) -> None:
    layer = read_yaml(yaml_file(tmp_path, "max_time: 1:30"))
    assert refusal(merge, [layer]) == (
        f"{tmp_path}/run.yaml: max_time: expected text: a time above 0, for example 45m, 90s or "
        "1h30m; found '1:30'."
    )


def test_a_later_length_replaces_an_earlier_one() -> None:
    stored = Layer({"max_steps": 100}, "run/config.yaml")
    settings = merge([stored, Layer({"epochs": "2"}, "command line")])
    assert (settings.config.epochs, settings.config.max_steps) == (2.0, None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected lines like `arch: segformer`, found nothing."),
        ("- arch", "expected lines like `arch: segformer`, found a list."),
        ("arch", "expected lines like `arch: segformer`, found 'arch'."),
        ("arch: [a\nseed: 1", "not YAML: line 2: expected ',' or ']', but got ':'."),
        ("seed: 1\nseed: 2", 'not YAML: line 2: the key "seed" is given twice.'),
        ("batch-size: 1\nbatch_size: 2", 'not YAML: line 2: the key "batch_size" is given twice.'),
        (
            "seed: 1\n\tlr: 2",
            "not YAML: line 2: found character '\\t' that cannot start any token.",
        ),
    ],
)
def test_a_file_that_is_no_settings_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = yaml_file(tmp_path, text)
    assert refusal(read_yaml, path) == f"--config {path}: {complaint}"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert (
        refusal(read_yaml, tmp_path / "no") == f"--config {tmp_path}/no: No such file or directory."
    )
    assert refusal(read_yaml, tmp_path) == f"--config {tmp_path}: Is a directory."
    (tmp_path / "model.safetensors").write_bytes(b"\xf7\x00\xff")
    path = tmp_path / "model.safetensors"
    assert refusal(read_yaml, path) == f"--config {path}: {NOT_UTF_8}"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"bach_size": 1},
            'run.yaml: unknown key "bach_size". Did you mean "batch_size"? '
            "`python -m segacc --help` lists all settings.",
        ),
        (
            {"batch_size": "four"},
            "run.yaml: batch_size: expected an integer > 0 or auto; found 'four'.",
        ),
        (
            {"max_time": 90},
            "run.yaml: max_time: expected text: a time above 0, for example 45m, 90s or 1h30m; "
            "found 90.",
        ),
        (
            {"crop_size": "9" * 200},
            "run.yaml: crop_size: expected SIZE or HEIGHTxWIDTH in pixels > 0; found "
            f"{'9' * 77}..., which is larger than 9007199254740992.",
        ),
        (
            {"epochs": 1e300},
            "run.yaml: epochs: expected a number > 0; found 1e+300, which is larger than "
            "9007199254740992.",
        ),
        (
            {"output_dir": "~no-such-user/x"},
            "run.yaml: output_dir: ~no-such-user/x: there is no user no-such-user, whose home "
            "folder would be ~no-such-user. Write ./~no-such-user/x for a path in the working "
            "directory.",
        ),
        (
            {"batch_size": True},
            "run.yaml: batch_size: expected an integer > 0 or auto; found true.",
        ),
        (
            {"mixed_precision": True},
            "run.yaml: mixed_precision: expected one of auto, no, bf16, fp16, fp8; found true.",
        ),
        (
            {"lr": float("inf")},
            "run.yaml: lr: expected a finite number > 0; found inf.",
        ),
        (
            {"epochs": 1, "max_steps": 2},
            "run.yaml: epochs and run.yaml: max_steps exclude each other; give one.",
        ),
        (
            {"aug": 3},
            "run.yaml: aug: expected a list of text or mapping; found 3.",
        ),
    ],
)
def test_a_wrong_value_is_refused(values: dict[str, Any], complaint: str) -> None:
    assert refusal(merge, [Layer(values, "run.yaml")]) == complaint


def test_flags_are_named_as_they_are_typed() -> None:
    layer = Layer({"batch_size": "0"}, "command line")
    complaint = "--batch-size: expected an integer > 0 or auto; found '0'."
    assert refusal(merge, [layer]) == complaint


def test_the_settings_of_other_commands_are_checked_alike() -> None:
    assert check_layer(EvaluateConfig, Layer({"metric": ["a"]}, "command line")) == {
        "metric": ("a",)
    }
    complaint = refusal(check_layer, EvaluateConfig, Layer({"lr": 1}, "command line"))
    assert complaint.startswith('command line: unknown key "lr".')


def test_config_yaml_says_where_each_value_came_from_and_is_read_again(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "arch: {name: segformer, variant: tiny}\nkeep: 2\n")
    settings = merge(
        [read_yaml(path), Layer({"crop_size": "32x48", "output_dir": "x"}, "command line")]
    ).chosen({"lr": (0.001, "weights are random"), "max_steps": (8, "2 epochs of 4 images")})
    text = to_yaml(settings)
    lines = dict(line.split(": ", 1) for line in text.splitlines()[1:])
    comments = {key: line.split(" # ")[1] for key, line in lines.items()}
    assert comments["keep"] == f"{path}: keep"
    assert comments["crop_size"] == "--crop-size"
    assert comments["seed"] == "default"
    assert comments["lr"] == "chosen: weights are random"
    assert comments["max_steps"] == "chosen: 2 epochs of 4 images"
    assert not {"output_dir", "resume", "overwrite", "epochs"} & set(lines)
    again = merge([read_yaml(yaml_file(tmp_path, text))]).config
    assert again.__dict__ == {**settings.config.__dict__, "output_dir": None}


@pytest.mark.parametrize("value", ["a: b", "x # y", "'q'", "null", "1e-3", "ü", "a,b", "{x}"])
def test_any_text_survives_config_yaml(tmp_path: Path, value: str) -> None:
    settings = merge([Layer({"train_split": value, "trackers": [value]}, "command line")])
    again = merge([read_yaml(yaml_file(tmp_path, to_yaml(settings)))]).config
    assert (again.train_split, again.trackers) == (value, (value,))
