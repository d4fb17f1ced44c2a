"""Kills a process before each of its file operations in turn, and looks at what is left.

Run as a script, `kill_tools.py FOLDER JOB`; it prints one line of JSON per moment.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")
REMOVALS = ("os.remove", "os.rmdir")
"""Whose events tell the name within a folder only."""
FILES = {"model.safetensors": "weights", "config.json": "config", "deep/one.txt": "one"}


def content(version: int) -> dict[str, str]:
    """What the whole folder of a version holds."""
    return {name: f"{text} of version {version}\n" * 50 for name, text in FILES.items()}


def fill(part: Path, version: int) -> None:
    """Write a version in several strokes."""
    for name, text in content(version).items():
        (part / name).parent.mkdir(exist_ok=True)
        for piece in (text[:100], text[100:]):
            with (part / name).open("a") as file:
                file.write(piece)


def held(folder: Path) -> Any:
    """Tell which version a folder holds: its number, None for no folder, or `broken`."""
    if not folder.exists():
        return None
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {str(path.relative_to(folder)): path.read_text() for path in files}
    return next((version for version in range(1, 9) if found == content(version)), "broken")


def killed_at(moment: int, run: Path, job: Any) -> bool:
    """Do the job in a fork that dies before its file operation number `moment`; True if it died."""
    child = os.fork()
    if not child:
        seen = 0

        def hook(event: str, arguments: Any) -> None:
            nonlocal seen
            if event in EVENTS and (event in REMOVALS or str(run) in str(arguments[0])):
                seen += 1
                if seen == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        job()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL


def replace_twice(run: Path, accelerator: Any) -> None:
    """Replace best/ version 1 by 2, killed at each moment; where nothing is left, by 3 again."""
    from segacc.training.checkpoint import recover, write_folder

    def write(version: int) -> None:
        write_folder(run / "best", lambda part: fill(part, version), accelerator)

    def start(moment: int) -> bool:
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        write(1)
        return killed_at(moment, run, lambda: write(2))

    moment = 1
    while start(moment):
        seen = held(run / "best")
        if seen is None:
            again = 1
            while start(moment) and killed_at(again, run, lambda: write(3)):
                recover(run)
                print(json.dumps({"moment": [moment, again], "recovered": held(run / "best")}))
                again += 1
            start(moment)
        recover(run)
        print(json.dumps({"moment": moment, "seen": seen, "recovered": held(run / "best")}))
        moment += 1
    print(json.dumps({"moment": "end", "recovered": held(run / "best")}))


def save_and_rotate(run: Path, accelerator: Any) -> None:
    """Save steps 1 and 2, then step 3 and drop step 1, killed at each moment."""
    import torch
    from safetensors.torch import load_file

    from segacc.training.checkpoint import Progress, complete, save

    folder = run / "checkpoints"
    first = folder / "step-00000001"
    later = {f"{number}.txt" for number in range(9)}  # so that other files are removed first
    model = torch.nn.Linear(1, 1)
    model, _ = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))

    def write(step: int) -> None:
        torch.nn.init.constant_(model.weight, step)
        save(folder, Progress(step=step), accelerator, keep=2)

    names = {"model.safetensors", "optimizer.bin", "random_states_0.pkl", "progress.json"}
    names |= {"SHA256SUMS"}

    def step_of(checkpoint: Path) -> Any:
        more = later if checkpoint == first else set()
        if {path.name for path in checkpoint.iterdir()} != names | more:
            return "broken"
        for name in ("optimizer.bin", "random_states_0.pkl"):  # raises if cut off
            torch.load(checkpoint / name, weights_only=False)
        return int(load_file(checkpoint / "model.safetensors")["weight"])

    moment = 1
    while True:
        shutil.rmtree(run, ignore_errors=True)
        for step in (1, 2):
            write(step)
        for name in later:
            (first / name).touch()
        died = killed_at(moment, run, lambda: write(3))
        listed = {path.name: step_of(path) for path in complete(folder)}
        print(json.dumps({"moment": moment if died else "end", "listed": listed}))
        if not died:
            return
        moment += 1


if __name__ == "__main__":
    from accelerate import Accelerator

    job = {"replace": replace_twice, "save": save_and_rotate}[sys.argv[2]]
    job(Path(sys.argv[1]) / "run", Accelerator(cpu=True))
