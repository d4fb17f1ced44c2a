"""`segacc push` and its Python form: upload a model folder to the Hugging Face Hub."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.commands.terminal.console import Where, console_of
from segacc.errors import OptionError, count_of
from segacc.evaluation.model_folder import local_model
from segacc.settings.commands import PushConfig
from segacc.settings.sources import Layer, config_of, keywords_of

if TYPE_CHECKING:
    from rich.console import Console


def push_command(given: str, repo: str, layer: Layer) -> int:
    """Upload a model folder, or print what would be uploaded.

    Args:
        given: the model; see `local_model`.
        repo: USER/NAME, or NAME for one of the user's own.
        layer: the given flags.
    """
    config = config_of(PushConfig, layer)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    result = push_folder(given, repo, config, layer.where)
    result.show(console_of())
    return 0


@keywords_of(PushConfig)
def push(folder: str | Path, repo: str, **settings: Any) -> "PushResult":
    """Upload a model folder to the Hugging Face Hub, as `segacc push` does.

    Args:
        folder: a run folder (its best/), `best/` or `last/` of a run, or any transformers folder.
        repo: USER/NAME, or NAME for one of your own; it is created if it does not exist.
        **settings: the options of `segacc push`: `private` and `dry_run`.

    Raises:
        SegaccError: a setting is invalid, there is no model, nobody is logged in, or the Hub cannot
            be reached or refuses the upload.
    """
    layer = Layer(settings, "segacc.push")
    return push_folder(str(folder), repo, config_of(PushConfig, layer), layer.where)


@dataclass(frozen=True, kw_only=True)
class PushResult:
    """What was uploaded, or would be."""

    repo: str
    """USER/NAME; as given if nothing was uploaded."""
    url: str | None
    """The address on the Hub; None if nothing was uploaded."""
    folder: Path
    """The model folder."""
    files: dict[str, int]
    """The files with their sizes in bytes."""
    private: bool

    def show(self, console: "Console") -> None:
        """Print it."""
        total = megabytes(sum(self.files.values()))
        count = count_of(len(self.files), "file")
        lines = [
            f"{count} ({total}) uploaded from {self.folder} to {self.url}",
            f'load it in Python  segacc.Segmenter.from_pretrained("{self.repo}")',
            f"or on a terminal   segacc predict {self.repo} IMAGE --output-dir predictions",
        ]
        if self.url is None:
            kind = "private" if self.private else "public"
            name = self.repo if "/" in self.repo else f"USER/{self.repo} of the user logged in"
            lines = [
                f"{count} ({total}) would be uploaded from {self.folder} to {name}, created as a "
                f"{kind} repository if it does not exist:",
                *(f"  {megabytes(size):>12}  {name}" for name, size in self.files.items()),
            ]
        for line in lines:
            console.out(line, highlight=False)


def megabytes(size: int) -> str:
    """Return a number of bytes, as `3.21 MB`."""
    return f"{size / 1e6:.2f} MB" if size >= 10_000 else f"{size} bytes"


def push_folder(given: str, repo: str, config: PushConfig, where: Where) -> PushResult:
    """Check and upload a model folder; with `dry_run` only check it.

    Raises:
        SegaccError: see `push`.
    """
    from segacc.training.saving.repository import check_login, check_repo
    from segacc.training.saving.upload import sizes, upload

    model = local_model(given, where("folder"))
    if model is None or model.weights is not None:
        what = "no such folder" if model is None else "a checkpoint, which transformers cannot load"
        raise OptionError(
            f"{where('folder')}: {given}: {what}. Give a run folder, or the folder best/ or last/ "
            "of one."
        )
    check_repo(repo, where("repo"))
    files = sizes(model.folder)
    if config.dry_run:
        return PushResult(
            repo=repo, url=None, folder=model.folder, files=files, private=config.private
        )
    check_login(f"{where('repo')} {repo}")
    done = upload(model.folder, repo, private=config.private)
    return PushResult(
        repo=done.repo, url=done.url, folder=model.folder, files=files, private=config.private
    )
