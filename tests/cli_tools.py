"""Runs segacc as a user does, in a folder of its own, on a small data set that is written here."""

import atexit
import contextlib
import fcntl
import functools
import json
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
NAMES = ("background", "disc", "bar")
TINY = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--num-pictures", "0"),
    *("--crop-size", "64", "--max-steps", "2", "--batch-size", "2", "--num-workers", "0"),
)
"""Flags of a training that takes a second when everything is imported."""

SHORT = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--lr", "0.03"),
    *("--aug", "flip", "--crop-size", "48x64", "--batch-size", "4", "--num-workers", "0"),
    *("--max-steps", "40", "--eval-every", "20", "--log-every", "20"),
)
"""Flags of a training after which the network tells more than one class."""

Done = subprocess.CompletedProcess[str]


def segacc(*arguments: object, cwd: Path, **more: str) -> Done:
    """Run `python -m segacc` in the folder `cwd`."""
    return python("-m", "segacc", *arguments, cwd=cwd, **more)


def python(*arguments: object, cwd: Path, **more: str) -> Done:
    """Run this Python with segacc on its path."""
    return start([sys.executable, *map(str, arguments)], cwd, more)


class Warm:
    """Runs `python -m segacc` in forked processes that share one import of torch: ten times faster.

    What an import costs or leaves unloaded is not seen here; use `segacc` for that.
    """

    def __init__(self, folder: Path) -> None:
        """Start the process that imports; the outputs of the runs go into `folder`."""
        self.folder = folder
        self.server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "warm_segacc.py")],
            env=environment(HF_HOME=str(folder / "home")),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self,
        *arguments: object,
        cwd: Path,
        site: Path | None = None,
        processes: int = 0,
        **more: str,
    ) -> Done:
        """Run `python -m segacc` in the folder `cwd`, with plugins that pip put into `site`.

        With `processes` it runs in so many, in the environment that `accelerate launch` gives them.
        `more` are environment variables, but for those that are read by an import.
        """
        command = [str(argument) for argument in arguments]
        if sys.platform == "darwin":  # a fork without exec is not safe there
            path = {"PYTHONPATH": str(site or "")}
            return start([*launcher(processes), *command], cwd, {**path, **more})
        return self._done(command, cwd, site=site, processes=processes, more=more)

    def code(
        self, code: str, *arguments: object, cwd: Path, processes: int = 0, **more: str
    ) -> Done:
        """Run Python code in the folder `cwd`, as `python -c` does; in `processes` see above."""
        given = [str(argument) for argument in arguments]
        if sys.platform == "darwin":
            return start([*launcher(processes)[:-2], "-c", code, *given], cwd, more)
        return self._done(given, cwd, code=code, processes=processes, more=more)

    def start(
        self,
        *arguments: object,
        cwd: Path,
        processes: int = 0,
        output: Path | None = None,
        errors: Path | None = None,
        **more: str,
    ) -> "Started":
        """Start `python -m segacc` in the folder `cwd`, and leave it running in its own group.

        Its stdout goes into the file `output`, and its stderr into `errors`, or where stdout goes.
        """
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        output, ended = output or folder / "output", folder / "ended"
        output.touch()
        command = [str(argument) for argument in arguments]
        where = {"processes": processes, "more": more, "ended": ended}
        (errors or output).touch()
        told = self._run(command, cwd, output, errors or output, **where)
        return Started([int(pid) for pid in told.split()], output, ended)

    def on_terminal(self, *arguments: object, cwd: Path) -> Done:
        """Run `python -m segacc` with stderr on a terminal of 80 columns."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        seen = bytearray()
        reader = threading.Thread(target=_drain, args=(master, seen))
        reader.start()
        command = [str(argument) for argument in arguments]
        code = int(self._run(command, cwd, self.folder / "stdout", Path(os.ttyname(slave))))
        os.close(slave)
        reader.join(10)
        os.close(master)
        return Done(command, code, (self.folder / "stdout").read_text(), seen.decode())

    def _done(self, command: list[str], cwd: Path, **where: object) -> Done:
        files = {name: self.folder / name for name in ("stdout", "stderr")}
        for path in files.values():
            path.write_text("")
        code = int(self._run(command, cwd, files["stdout"], files["stderr"], **where))
        return Done(command, code, files["stdout"].read_text(), files["stderr"].read_text())

    def _run(
        self, command: list[str], cwd: Path, stdout: Path, stderr: Path, **where: object
    ) -> str:
        assert self.server.stdin and self.server.stdout
        job = {"arguments": command, "cwd": cwd, "stdout": stdout, "stderr": stderr}
        usual = {"site": None, "processes": 0, "more": {}, "code": None, "ended": None}
        job = {**usual, **job, **where}
        self.server.stdin.write(json.dumps(job, default=str) + "\n")
        self.server.stdin.flush()
        return self.server.stdout.readline()

    def close(self) -> None:
        """End the process."""
        assert self.server.stdin
        self.server.stdin.close()
        self.server.wait(30)


class Started:
    """A run that `Warm.start` left running; a subprocess.Popen as far as tests need one.

    Attributes:
        pids: the ids of its processes.
        pid: that of the first one, and of their group.
        output: the file of what they print on stdout and stderr.
    """

    def __init__(self, pids: list[int], output: Path, ended: Path) -> None:
        """Watch these processes."""
        self.pids, self.pid, self.output, self._ended = pids, pids[0], output, ended

    @property
    def returncode(self) -> int | None:
        """The exit code of the first process that failed, or 0; None while one is alive."""
        return int(self._ended.read_text()) if self._ended.exists() else None

    def poll(self) -> int | None:
        """Return the exit code, or None."""
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        """Wait for the end of all processes; return the exit code."""
        end = time.monotonic() + timeout
        while (code := self.returncode) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(["segacc"], timeout, self.output.read_bytes())
            time.sleep(0.005)
        return code

    def communicate(self, timeout: float = 60) -> tuple[str, None]:
        """Wait for the end; return what was printed on stdout and stderr."""
        self.wait(timeout)
        return self.output.read_text(), None

    def send_signal(self, number: int) -> None:
        """Send a signal to the first process."""
        os.kill(self.pid, number)


@functools.cache
def warm_segacc() -> Warm:
    """Return the one Warm of this test process."""
    folder = tempfile.TemporaryDirectory(prefix="segacc-warm-")
    runner = Warm(Path(folder.name))
    atexit.register(folder.cleanup)
    atexit.register(runner.close)
    return runner


def _drain(master: int, into: bytearray) -> None:
    """Read a terminal until its other side is closed."""
    with contextlib.suppress(OSError):
        while data := os.read(master, 4096):
            into += data


def launcher(processes: int) -> list[str]:
    """Return `accelerate launch -m segacc` for so many CPU processes; for 0 without launcher."""
    if not processes:
        return [sys.executable, "-m", "segacc"]
    name = "cpu" if processes == 1 else "cpu_2_processes"
    config = ROOT / "accelerate_configs" / f"{name}.yaml"
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(config), "--main_process_port", "0"]
    return [*command, "--num_processes", str(processes), "-m", "segacc"]


def launch(*arguments: object, cwd: Path, **more: str) -> Done:
    """Run `accelerate launch -m segacc` on two processes of the CPU."""
    command = [*launcher(2), *map(str, arguments)]
    return start(command, cwd, {"ACCELERATE_USE_CPU": "true", **more})


def environment(**more: str) -> dict[str, str]:
    """Return an environment without the suite's own plugin settings, terminal and network."""
    inherited = {key: value for key, value in os.environ.items() if key != "SEGACC_LOAD_PLUGINS"}
    path = os.pathsep.join(filter(None, [more.get("PYTHONPATH"), str(ROOT)]))
    defaults = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TERM": "xterm-256color"}
    return {**inherited, **defaults, **more, "PYTHONPATH": path}


def start(command: Sequence[str], cwd: Path, more: dict[str, str]) -> Done:
    """Run a command to its end."""
    return subprocess.run(
        command, cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=300
    )


def assert_refused(done: Done, text: str) -> None:
    """Assert that all a process said is the one paragraph `text`, with exit code 2."""
    assert done.stderr == f"segacc: {text}\n", done.stderr
    assert (done.returncode, done.stdout) == (2, "")


def assert_succeeded(done: Done) -> Done:
    """Assert that a command ended well and had nothing to complain about."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def add_plugin(folder: Path) -> Path:
    """Put metadata into a folder as pip does, of a plugin whose module is not there."""
    for kind, names in (("dist", ("METADATA", "entry_points.txt")), ("egg", ("PKG-INFO",) * 2)):
        info = folder / f"stray_{kind}-1.0.{kind}-info"
        info.mkdir()
        (info / names[0]).write_text(f"Metadata-Version: 2.1\nName: stray-{kind}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[segacc]\nstray = stray_plugin\n")
    return folder


def assert_untouched(done: Done, hostile: Path) -> None:
    """Assert that a command in the folder `hostile` succeeded and imported nothing from there."""
    assert_succeeded(done)
    assert not (hostile.parent / "ran").exists(), (hostile.parent / "ran").read_text()
    assert "stray" not in done.stdout + done.stderr


def metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Read the lines of one kind from a run folder's metrics.jsonl."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def write_data(
    root: Path,
    *,
    counts: dict[str, int] | None = None,
    names: Sequence[str] = NAMES,
    first: int = 0,
    size: tuple[int, int] = (48, 64),
) -> Path:
    """Write a data set for `folder`: a disc and a bar on noise.

    Args:
        root: the folder to make.
        counts: images by split; 4 for training and 3 for validation when left out.
        names: classes; the labels use the first three.
        first: the raw id of the first class; 1 for `reduce_labels`.
        size: (height, width) of the images in pixels.
    """
    for split, count in (counts or {"train": 4, "validation": 3}).items():
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, label = draw((len(split), index), size)
            Image.fromarray(image).save(root / "images" / split / f"{split}{index}.png")
            Image.fromarray(label + np.uint8(first)).save(
                root / "annotations" / split / f"{split}{index}.png"
            )
    (root / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return root


def draw(seed: tuple[int, int], size: tuple[int, int]) -> tuple[Any, Any]:
    """Draw an image (H, W, 3) uint8 and its label (H, W) uint8 of the classes 0, 1 and 2."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    label = np.zeros(size, np.uint8)
    label[random.integers(size[0] // 2) :][:6] = 2
    center_y, center_x = random.integers(8, size[0] - 8), random.integers(8, size[1] - 8)
    label[(y - center_y) ** 2 + (x - center_x) ** 2 < 60] = 1
    colors = np.array([(40, 40, 40), (220, 60, 60), (60, 60, 220)])
    image = colors[label] + random.integers(-30, 30, (*size, 3))
    return np.clip(image, 0, 255).astype(np.uint8), label
