"""The SLURM script of docs/distributed.md, with stand-ins for what a cluster has."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from cli_tools import ROOT

PAGE = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
STAND_INS = {
    "scontrol": 'if [ "$1" = show ]; then echo node1; echo node2; else echo "$@" >> told; fi',
    "srun": 'for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" || code=$?; done\n'
    "exit $code",
    "python": 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $@" >> told; exit $CODE',
}
"""What the script calls: SLURM, and Python, which ends with the exit code of a run."""
COMMAND = "-m segacc train --config big.yaml --output-dir runs/big --resume auto"


@pytest.mark.parametrize(
    ("code", "requeued"),
    [
        (138, True),  # SIGUSR1: the time is nearly up
        (143, True),
        (0, False),
        (2, False),
    ],
)
def test_the_slurm_script(tmp_path: Path, code: int, requeued: bool) -> None:
    script = re.search(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert script is not None
    (tmp_path / "job.sh").write_text(script[1])
    for name, text in STAND_INS.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    slurm = {"NTASKS": "2", "NTASKS_PER_NODE": "2", "JOB_NODELIST": "node[1-2]", "JOB_ID": "7"}
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    more = {f"SLURM_{name}": value for name, value in slurm.items()}
    environment = {**os.environ, **more, "PATH": path, "CODE": str(code)}
    done = subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=environment, timeout=30)
    assert done.returncode == code
    told = (tmp_path / "told").read_text().splitlines()
    expected = [f"{rank} {rank} 2 node1 {COMMAND}" for rank in (0, 1)]
    assert told == expected + ["requeue 7"] * requeued


def test_each_configuration_is_described() -> None:
    files = {path.name for path in (ROOT / "accelerate_configs").glob("*.yaml")}
    assert set(re.findall(r"\(\.\./accelerate_configs/(\w+\.yaml)\)", PAGE)) == files
