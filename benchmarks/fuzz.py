"""Decode mutated images and labels, and plan runs from random settings; nothing may go wrong.

    python benchmarks/fuzz.py                       2,000 files and 600 settings, some minutes
    python benchmarks/fuzz.py --files 60 --settings 40    what the suite runs

Small images and labels of several formats are cut, flipped, overwritten, rearranged, given other
sizes in their headers, or are PNGs of some kilobytes that unpack to gigabytes; a twentieth stays
whole. Each is decoded in a process that may take 1.5 GB more than at its start and 20 seconds a
file. A file is `read`, or `named` by an error of segacc; anything else is a failure: another
exception, a crash, a time-out, or a PNG label that is read as other ids than were written, although
its checksums say so. Settings, as YAML and as options of components, must make a plan or an error
of segacc. benchmarks/results/fuzz.json holds the counts; exit code 1 after a failure.
"""

import argparse
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from segacc.data.decode import read_image, read_label
from segacc.errors import SegaccError
from segacc.labels import LabelMap
from segacc.registry import load_registry
from segacc.settings.config import TrainConfig
from segacc.settings.options import describe
from segacc.settings.sources import Layer, read_yaml
from segacc.training.plan import make_plan

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
MORE = 1_500_000_000
"""Bytes that a process may take beside those at its start."""
SECONDS = 20
"""Time for one file."""
LABELS = LabelMap.plain(tuple(f"class {k}" for k in range(200)))


def main() -> int:
    """Decode, plan, print and write; return the exit code."""
    typed = parse()
    counts, failures = Counter[str](), []
    for told in outcomes(typed.seed, typed.files):
        counts[told["outcome"]] += 1
        if told["outcome"] not in ("read", "named"):
            failures.append(told)
            print(json.dumps(told), flush=True)
    planned = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for told in plans(random.Random(typed.seed), typed.settings, Path(folder)):
            planned[told["outcome"]] += 1
            if told["outcome"] not in ("plan", "named"):
                failures.append(told)
                print(json.dumps(told), flush=True)
    print(f"files: {dict(counts)}; settings: {dict(planned)}; failures: {len(failures)}")
    if typed.output:
        content = {"seed": typed.seed, "files": dict(counts), "settings": dict(planned)}
        typed.output.write_text(json.dumps({**content, "failures": failures}, indent=1) + "\n")
    return int(bool(failures))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--settings", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


# -------------------------------------------------------------------------------------------- files


def outcomes(seed: int, count: int) -> Iterator[dict[str, str]]:
    """Yield what became of each file; a process that dies is replaced, and its file has failed."""
    start = 0
    while start < count:
        source, sink = os.pipe()
        child = os.fork()
        if not child:
            os.close(source)
            with os.fdopen(sink, "w") as told:
                limit_memory()
                for number in range(start, count):
                    signal.alarm(SECONDS)
                    told.write(json.dumps(decoded(seed, number)) + "\n")
                    told.flush()
            os._exit(0)
        os.close(sink)
        with os.fdopen(source) as lines:
            for line in lines:
                start += 1
                yield json.loads(line)
        status = os.waitpid(child, 0)[1]
        if start < count:
            name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "exit"
            outcome = "time-out" if name == "SIGALRM" else f"crash: {name}"
            yield {"file": str(start), "how": mutated(seed, start)[1], "outcome": outcome}
            start += 1


def limit_memory() -> None:
    """Limit the address space of this process."""
    size = psutil.Process().memory_info().vms + MORE
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def decoded(seed: int, number: int) -> dict[str, str]:
    """Decode a file; return its outcome."""
    data, how, original = mutated(seed, number)
    told = {"file": str(number), "how": how}
    try:
        if original is None:
            read_image(data, f"file {number}", (3, 3, 3, 1, 4)[number % 5])
        else:
            found = read_label(data, LABELS, f"file {number}")
            wrong = not torch.equal(found, torch.from_numpy(original))
            checked = how.startswith("png") and not how.endswith("size")
            return {**told, "outcome": "wrong ids" if wrong and checked else "read"}
        return {**told, "outcome": "read"}
    except SegaccError as error:
        lines = str(error).splitlines()
        return {**told, "outcome": "named" if len(lines) == 1 else "several lines"}
    except BaseException as error:
        return {**told, "outcome": f"{type(error).__name__}: {str(error)[:200]}"}


def mutated(seed: int, number: int) -> tuple[bytes, str, np.ndarray | None]:
    """Return the bytes of a file, what was done to it, and the ids of a label (None: an image)."""
    draw = random.Random(f"{seed}/{number}")
    label = number % 2 == 1
    form = draw.choice(("png", "png", "palette png", "tiff", "bmp") if label else IMAGE_FORMS)
    pixels = np.random.default_rng(number).integers(0, 200, (45, 60), dtype=np.uint8)
    pixels = np.repeat(np.repeat(pixels[::9, ::10], 9, 0), 10, 1)
    data = encoded(pixels, form, draw)
    kind = draw.choice(list(MUTATIONS))
    if draw.random() < 0.05:
        kind, change = "whole", bytes
    else:
        change = MUTATIONS[kind](draw)
    return change(data), f"{form.split()[-1]} {kind}", pixels if label else None


IMAGE_FORMS = ("png", "grey png", "16-bit png", "jpeg", "progressive jpeg", "webp", "gif", "tiff")


def encoded(pixels: np.ndarray, form: str, draw: random.Random) -> bytes:
    """Encode grey pixels (H, W), as RGB for forms of images that have colours."""
    picture = Image.fromarray(pixels)
    if form == "palette png":
        picture.putpalette([value for k in range(256) for value in (k, 255 - k, k // 2)])
    elif form == "16-bit png":
        picture = Image.fromarray(pixels.astype(np.uint16) * 257)
    elif form in ("jpeg", "progressive jpeg", "webp"):
        picture = picture.convert("RGB")
    more = {"progressive": True} if form.startswith("progressive") else {}
    if form == "tiff":
        more = {"compression": draw.choice(["raw", "tiff_deflate", "tiff_lzw", "packbits"])}
    into = io.BytesIO()
    picture.save(into, format=form.split()[-1].upper(), **more)
    return into.getvalue()


Change = Callable[[bytes], bytes]


def cut(draw: random.Random) -> Change:
    """Keep the beginning."""
    return lambda data: data[: draw.randrange(len(data))]


def flip(draw: random.Random) -> Change:
    """Flip some bits."""

    def change(data: bytes) -> bytes:
        found = bytearray(data)
        for _ in range(draw.choice((1, 1, 3, 30))):
            found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
        return bytes(found)

    return change


def overwrite(draw: random.Random) -> Change:
    """Replace a part, often of the header, by random bytes."""

    def change(data: bytes) -> bytes:
        start = draw.choice((0, draw.randrange(len(data))))
        part = draw.randbytes(draw.choice((4, 40, 200)))
        return data[:start] + part + data[start + len(part) :]

    return change


def rearrange(draw: random.Random) -> Change:
    """Remove, repeat or move a part."""

    def change(data: bytes) -> bytes:
        a, b = sorted((draw.randrange(len(data)), draw.randrange(len(data))))
        return draw.choice((data[:a] + data[b:], data[:b] + data[a:], data[b:] + data[:b]))

    return change


def resize(draw: random.Random) -> Change:
    """Give a PNG another size, with the right checksum; other files other bytes in their header."""

    def change(data: bytes) -> bytes:
        if not data.startswith(b"\x89PNG"):
            return overwrite(draw)(data)
        sides = (0, 1, 44, 61, 60_000, 2**31 - 1)
        header = struct.pack(">II", draw.choice(sides), draw.choice(sides)) + data[24:29]
        check = zlib.crc32(b"IHDR" + header).to_bytes(4, "big")
        return data[:16] + header + check + data[33:]

    return change


def bomb(draw: random.Random) -> Change:
    """Replace the file by a small PNG that unpacks to hundreds of megabytes."""

    def change(_: bytes) -> bytes:
        width, height = draw.choice(((13_000, 13_000), (30_000, 30_000), (1, 10**8)))
        line, packer = bytes(width + 1), zlib.compressobj(9)
        data = b"".join(packer.compress(line) for _ in range(min(height, 2000))) + packer.flush()
        header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )

    return change


def noise(draw: random.Random) -> Change:
    """Replace the file by random bytes or a text."""
    return lambda data: draw.choice((draw.randbytes(200), b"<html>not found</html>", b""))


MUTATIONS = {
    **{"cut": cut, "flipped": flip, "overwritten": overwrite, "rearranged": rearrange},
    **{"size": resize, "bomb size": bomb, "noise": noise},
}


# ----------------------------------------------------------------------------------------- settings


def plans(draw: random.Random, count: int, folder: Path) -> Iterator[dict[str, str]]:
    """Yield what became of random settings: every other one is YAML, the others flags."""
    registry = load_registry()
    for number in range(count):
        values = {one: value_of(draw) for one in draw.sample(KEYS, draw.choice((1, 2, 3)))}
        if number % 2:
            kind = draw.choice(
                ("arch", "dataset", "loss", "metric", "aug", "optimizer", "schedule")
            )
            text = component(draw)
            values[kind] = (text,) if kind in ("loss", "metric", "aug") else text
        told = {"settings": repr(values)[:300]}
        try:
            values["output_dir"] = str(folder / str(number))
            layer = Layer(values, "command line")
            if not number % 2:
                path = folder / f"{number}.yaml"
                path.write_text(yaml_text(draw, values), encoding="utf-8")
                told["settings"] = path.read_text()[:300]
                layer = read_yaml(path)
            make_plan([layer], registry)
            yield {**told, "outcome": "plan"}
        except SegaccError as error:
            fine = "\n" not in str(error) and len(str(error)) < 2000
            yield {**told, "outcome": "named" if fine else f"too long: {error}"[:300]}
        except Exception as error:
            yield {**told, "outcome": f"{type(error).__name__}: {error}"[:300]}


KEYS = [option.name for option in describe(TrainConfig)]
VALUES = (
    *(None, True, False, 0, -1, 1, 3, 1e308, float("nan"), float("inf"), 2**70, "", " ", "none"),
    *("auto", "512", "0x10", "1e-4", "a" * 500, "\x1b[31m", "é", "{", "[1, 2", "!!python/object:x"),
    *([], [1], ["flip", "flip"], {}, {"name": "flip"}, {"name": 3}, {"a": {"b": "c"}}),
)
NAMES = ("segformer", "folder", "cross_entropy", "mean_iou", "flip", "adamw", "poly", "nothing", "")
OPTIONS = ("variant", "root", "weight", "lr", "", "drop_path", "betas", "power", "x" * 300)


def value_of(draw: random.Random) -> object:
    """Return a value of any kind."""
    return draw.choice((*VALUES, component(draw), draw.randrange(1000)))


def component(draw: random.Random) -> str:
    """Return the text of a component, more or less."""
    parts = [
        f"{draw.choice(OPTIONS)}{draw.choice(('=', '=', ':', ''))}{draw.choice(VALUES)}"
        for _ in range(draw.choice((0, 1, 1, 2)))
    ]
    text = f"{draw.choice(NAMES)}{draw.choice((':', ':', '', '='))}{','.join(parts)}"
    return text if draw.random() < 0.8 else text[: draw.randrange(len(text) + 1)]


def yaml_text(draw: random.Random, values: dict[str, object]) -> str:
    """Return settings as YAML, at times damaged."""
    lines = [
        f"{key}: {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in values.items()
    ]
    text = "\n".join(lines) + "\n"
    if draw.random() < 0.3:
        place = draw.randrange(len(text))
        text = text[:place] + draw.choice((":", "\t", "- ", "&a *a", '"', "\x00")) + text[place:]
    return text


if __name__ == "__main__":
    sys.exit(main())
