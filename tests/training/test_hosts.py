"""Two hosts, each a network namespace of its own: they train, score and save as one host does.

make test-hosts      as root on Linux, with `ip` of iproute2; no other tests run it
"""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cli_tools import environment
from launches import ROOT, assert_same, column, launch

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"),
        reason="network namespaces need root, Linux and the command ip",
    ),
]
SETTINGS = (
    *("--arch", "segformer:variant=tiny,drop_path=0,dropout=0", "--weights", "none"),
    *("--freeze-batchnorm", "--crop-size", "64", "--max-steps", "8", "--save-every", "4"),
    *("--eval-every", "4", "--log-every", "1", "--num-workers", "0", "--num-pictures", "0"),
)
ADDRESSES = ("10.213.7.1", "10.213.7.2")


def ip(*words: str) -> None:
    """Run `ip`, the command of Linux's network."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[str]]:
    """Make two namespaces with a cable between them; there is no other network in them."""
    names = [f"segacc-{os.getpid()}-{number}" for number in (0, 1)]
    try:
        for name in names:
            ip("netns", "add", name)
        ends = [("name", "cable", "netns", name) for name in names]
        ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            inside = ("-n", name)
            ip(*inside, "address", "add", f"{address}/24", "dev", "cable")
            ip(*inside, "link", "set", "cable", "up")
            ip(*inside, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def on_hosts(hosts: list[str], *args: object, counts: tuple[int, int] = (1, 1)) -> str:
    """Run segacc on both hosts, so many processes on each; return what the first one printed.

    accelerate launches equally many on each host, torchrun any number.
    """
    running = []
    for rank, (name, count) in enumerate(zip(hosts, counts, strict=True)):
        words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
        words += ["--nproc_per_node", str(count), "--node_rank", str(rank), "--master_port"]
        words += ["29500", "--master_addr", ADDRESSES[0], "-m", "segacc"]
        if counts == (1, 1):
            words = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
            words += ["--config_file", str(ROOT / "accelerate_configs" / "multi_node.yaml")]
            words += ["--mixed_precision", "no", "--num_machines", "2"]
            words += ["--num_processes", "2", "--machine_rank", str(rank)]
            words += ["--main_process_ip", ADDRESSES[0], "-m", "segacc"]
        more = {"GLOO_SOCKET_IFNAME": "cable", "ACCELERATE_USE_CPU": "true"}
        running.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, *words, *map(str, args)],
                env=environment(**more),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    told = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(told)[-6000:]
    return told[0]


@pytest.fixture(scope="module")
def run(hosts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on two hosts."""
    folder = tmp_path_factory.mktemp("hosts") / "run"
    on_hosts(hosts, *SETTINGS, "--batch-size", 3, "--output-dir", folder)
    return folder


def test_two_hosts_train_score_and_save_as_one(run: Path, tmp_path: Path) -> None:
    launch(*SETTINGS, "--batch-size", 3, "--output-dir", tmp_path / "one", processes=2)
    assert_same(run, tmp_path / "one")


@pytest.mark.parametrize("count", [1, 3])
def test_a_run_goes_on_with_another_number_of_processes(
    hosts: list[str], run: Path, tmp_path: Path, count: int
) -> None:
    """Six images a step, in the same order: the losses are those of the two processes."""
    shutil.copytree(run, tmp_path / "run")
    begin = tmp_path / "run" / "checkpoints" / "step-00000004"
    again = ("--resume", begin, "--batch-size", 6 // count)
    if count == 1:
        launch(*again, processes=1)
    else:
        on_hosts(hosts, *again, counts=(1, 2))
    for key in ("loss", "grad_norm"):
        mine, theirs = column(tmp_path / "run", key), column(run, key)
        assert len(mine) == 8
        np.testing.assert_allclose(mine, theirs, rtol=1e-4 if key == "grad_norm" else 1e-6)


def test_hosts_that_cannot_reach_each_other_end(hosts: list[str], tmp_path: Path) -> None:
    """The second host is not there: the first ends within the time limit, with one line."""
    words = [sys.executable, "-m", "segacc", *SETTINGS, "--output-dir", tmp_path / "run"]
    where = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    where |= {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29501", "ACCELERATE_USE_CPU": "true"}
    given = itertools.chain(words, ("--process-timeout", "10s"))
    done = subprocess.run(
        ["ip", "netns", "exec", hosts[0], *map(str, given)],
        env=environment(**where, GLOO_SOCKET_IFNAME="cable"),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2, done.stderr[-3000:]
    assert done.stderr.splitlines()[-1].startswith("segacc: another process of this run has ended")
