"""SHA-256 checksums of saved files, by which damage is noticed when they are loaded.

They are written in the form of the program `sha256sum`, whose option `-c` checks them too.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from segacc.errors import WeightsError

WEIGHTS_SUMS = "weights.sha256"
"""File in best/ and last/ with the checksums of the weights; other files may be edited."""


def checksum(path: Path) -> str:
    """Return a file's SHA-256, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(path: Path, files: Iterable[Path]) -> None:
    """Write the checksums of files in the folder of `path`, or below it."""
    lines = [f"{checksum(one)}  {one.relative_to(path.parent).as_posix()}\n" for one in files]
    path.write_text("".join(lines), encoding="utf-8")


def read_sums(path: Path) -> dict[str, str]:
    """Return the checksum of each file.

    Raises:
        OSError: the checksums cannot be read. ValueError: they are damaged.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def fault_of(path: Path, wanted: Iterable[str] = ()) -> str:
    """Return which file is missing or damaged; an empty string if all are intact.

    Args:
        path: the file with the checksums.
        wanted: names of the files to check; by default all.
    """
    try:
        sums = read_sums(path)
        for name in wanted or sums:
            if not (path.parent / name).is_file():
                return f"{name} is missing"
            if name in sums and checksum(path.parent / name) != sums[name]:
                return f"{name} does not match its checksum"
    except (OSError, ValueError) as error:
        return f"{path.name}: {error}"
    return ""


def seal_weights(folder: Path) -> None:
    """Write the checksums of the weights of a model folder."""
    write_sums(folder / WEIGHTS_SUMS, sorted(folder.glob("*.safetensors")))


def refuse_damaged(folder: Path, sums: str = WEIGHTS_SUMS, wanted: Iterable[str] = ()) -> None:
    """Refuse weights that have changed since they were saved; without checksums, accept them.

    Args:
        folder: a model folder or a checkpoint.
        sums: name of the file with the checksums.
        wanted: names of the files to check; by default all.

    Raises:
        WeightsError: a file is missing or damaged.
    """
    if (folder / sums).is_file() and (reason := fault_of(folder / sums, wanted)):
        raise WeightsError(
            f"{folder} is damaged: {reason}. Copy the folder again, or train again. If you changed "
            f"the weights yourself, remove {sums}."
        )
