"""Each file of accelerate_configs/ is read by accelerate itself; one is launched."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from launches import ROOT

FOLDER = ROOT / "accelerate_configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))

# What each file must come to, as `accelerate launch` reads it with `--num_processes 4`.
EXPECTED: dict[str, dict[str, Any]] = {
    "cpu": {"use_cpu": True, "multi_gpu": False, "mixed_precision": "no"},
    "cpu_2_processes": {"use_cpu": True, "multi_gpu": True, "mixed_precision": "no"},
    "single_gpu": {"use_cpu": False, "multi_gpu": False, "mixed_precision": "bf16"},
    "multi_gpu": {"use_cpu": False, "multi_gpu": True, "mixed_precision": "bf16"},
    "multi_node": {
        "use_cpu": False,
        "multi_gpu": True,
        "mixed_precision": "bf16",
        "num_machines": 2,
        "main_process_port": 29500,
    },
    "fsdp2": {
        "use_cpu": False,
        "multi_gpu": False,
        "use_fsdp": True,
        "mixed_precision": "bf16",
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_transformer_layer_cls_to_wrap": None,
        "fsdp_reshard_after_forward": True,
        "fsdp_state_dict_type": "FULL_STATE_DICT",
        "fsdp_cpu_ram_efficient_loading": False,
    },
    "deepspeed_zero2": {
        "use_cpu": False,
        "multi_gpu": False,
        "use_deepspeed": True,
        "mixed_precision": "bf16",
        "zero_stage": 2,
        "gradient_accumulation_steps": None,
        "offload_optimizer_device": "none",
    },
}


def launch_arguments(name: str, *flags: str) -> argparse.Namespace:
    """Parse as `accelerate launch` does, up to the point where it would start processes."""
    command = ["--config_file", str(FOLDER / f"{name}.yaml"), *flags, "-m", "segacc", "--seed", "1"]
    arguments: argparse.Namespace
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    return arguments


def test_the_folder_holds_what_is_promised() -> None:
    assert sorted(EXPECTED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_knows_every_key(name: str) -> None:
    # Loading raises on an unknown key; nested ones are checked against the launcher's flags.
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert isinstance(config, ClusterConfig)
    flags = vars(launch_command_parser().parse_args(["script.py"]))
    assert set(config.fsdp_config) | set(config.deepspeed_config) <= set(flags)


@pytest.mark.parametrize("name", NAMES)
def test_the_launcher_reads_what_was_meant(name: str) -> None:
    arguments = launch_arguments(name, "--num_processes", "4")
    assert {key: getattr(arguments, key) for key in EXPECTED[name]} == EXPECTED[name]
    assert (arguments.module, arguments.training_script) == (True, "segacc")
    assert arguments.training_script_args == ["--seed", "1"]
    assert arguments.num_processes == 4, "the flag must win over the file"


@pytest.mark.parametrize("name", NAMES)
def test_no_line_is_ignored_in_silence(name: str) -> None:
    # The launcher takes a file's value only where the flag's own default is None.
    given = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    for nested in ("fsdp_config", "deepspeed_config"):
        given.update(given.pop(nested, {}))
    told = {key: given[key] for key in set(given) - {"compute_environment", "distributed_type"}}
    flags = () if "num_processes" in given else ("--num_processes", "4")
    arguments = launch_arguments(name, *flags)
    assert {key: getattr(arguments, key) for key in told} == told


@pytest.mark.parametrize("name", ["multi_gpu", "multi_node", "fsdp2", "deepspeed_zero2"])
def test_the_number_of_gpus_is_asked_for(name: str) -> None:
    with pytest.raises(ValueError, match="manually pass in `--num_processes`"):
        launch_arguments(name)


def test_a_precision_flag_wins() -> None:
    assert launch_arguments("single_gpu", "--mixed_precision", "fp16").mixed_precision == "fp16"


@pytest.mark.parametrize("name", NAMES)
def test_the_comment_on_top_holds_a_command_that_is_right(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    comment = [line.removeprefix("#") for line in text.splitlines() if line.startswith("#")]
    command = " ".join(comment[comment.index("") + 1 :]).replace("\\", " ").split()
    start = command.index("launch")
    assert command[start - 1] == "accelerate"
    arguments = launch_command_parser().parse_args(command[start + 1 :])
    assert arguments.config_file == f"accelerate_configs/{name}.yaml"
    assert (arguments.module, arguments.training_script) == (True, "segacc")
    assert arguments.training_script_args == ["--arch", "segformer"]
    if "num_processes" not in yaml.safe_load(text):
        assert arguments.num_processes > 1


SCRIPT = """
import json, os, sys, torch
from accelerate.utils import gather_object
from segacc.__main__ import end_with
from segacc.training.processes import start_accelerator

def main():
    accelerator = start_accelerator(None)
    index, threads = accelerator.process_index, torch.get_num_threads()
    everyone = gather_object([{"index": index, "threads": threads, "pid": os.getpid()}])
    if accelerator.is_main_process:
        state = accelerator.state
        told = [state.num_processes, state.distributed_type, state.device.type, everyone]
        with open(sys.argv[1], "w") as file:
            json.dump(told, file)
    accelerator.end_training()
    return 0

end_with(main)
"""


@pytest.mark.slow
@pytest.mark.launch
def test_the_file_of_two_cpu_processes_starts_two(tmp_path: Path) -> None:
    (tmp_path / "world.py").write_text(SCRIPT, encoding="utf-8")
    even_with_a_gpu = {"ACCELERATE_USE_CPU": "true"} if torch.accelerator.is_available() else {}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    done = subprocess.run(
        [
            *launch,
            *("--config_file", FOLDER / "cpu_2_processes.yaml"),
            *(tmp_path / "world.py", tmp_path / "world.json"),
        ],
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent), **even_with_a_gpu},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "world.json").read_text())
    assert found[:3] == [2, "MULTI_CPU", "cpu"]
    assert [process["index"] for process in found[3]] == [0, 1]
    assert len({process["pid"] for process in found[3]}) == 2
