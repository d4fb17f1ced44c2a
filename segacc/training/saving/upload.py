"""Upload a model folder to the Hub with huggingface_hub; nothing here imports torch."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from segacc.errors import OptionError, SegaccError, cut
from segacc.evaluation.model_folder import side_file
from segacc.settings.secrets import without_secrets
from segacc.training.saving.repository import LOGIN
from segacc.training.saving.scores import CARD, EVALUATION, PLACE, read_evaluation, refreshed

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ANSWER = 20.0
"""Seconds in which the Hub must give its first answer; huggingface_hub itself waits forever."""
PREFIX, SUFFIX = ".push-", ".part"
"""Of the folder that holds what is uploaded; `--overwrite` deletes it like other `.*.part`."""
AGAIN = "Run the command again: what has arrived completely is not sent again."


class PushError(SegaccError):
    """A model could not be uploaded."""


@dataclass(frozen=True)
class Uploaded:
    """A model on the Hub."""

    repo: str
    """USER/NAME."""
    url: str


def upload(folder: Path, repo: str, *, private: bool = False) -> Uploaded:
    """Upload a model folder; the repository is created if it does not exist.

    Args:
        folder: the model folder.
        repo: USER/NAME, or NAME for one of the user's own.
        private: create it as a private repository.

    Raises:
        PushError: the Hub cannot be reached or refuses it.
        OptionError: `private` is given, and the repository is public.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        user = greet(api)
        full = repo if "/" in repo else f"{user}/{repo}"
        url = api.create_repo(full, private=private or None, exist_ok=True)
        if private and not api.model_info(url.repo_id).private:
            raise OptionError(
                f"--private: {url.repo_id} exists and is public. Change its visibility in its "
                "settings on the Hub, leave this out, or choose another name."
            )
        with snapshot(folder) as part:
            fill_in(part, url.repo_id)
            api.upload_folder(
                repo_id=url.repo_id, folder_path=part, commit_message=commit_message(folder)
            )
    except SegaccError:
        raise
    except Exception as error:  # huggingface_hub and its HTTP library raise many types
        raise PushError(f"{repo}: {explain(error, repo)}") from None
    return Uploaded(url.repo_id, str(url))


def greet(api: "HfApi") -> str:
    """Ask the Hub who the user is, with a limit on the time; return the name."""
    from huggingface_hub import get_session, get_token, hf_raise_for_status

    headers = {"authorization": f"Bearer {get_token()}"}
    answer = get_session().get(f"{api.endpoint}/api/whoami-v2", headers=headers, timeout=ANSWER)
    hf_raise_for_status(answer)
    return str(answer.json()["name"])


def commit_message(folder: Path) -> str:
    """Return the message of the commit on the Hub."""
    with suppress(SegaccError):
        if step := side_file(folder).get("step"):
            return f"Upload model of step {step}"
    return "Upload model"


def files_of(folder: Path) -> list[Path]:
    """List the files of a model folder that are uploaded: all but hidden ones and evaluations."""
    inside = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    apart = EVALUATION.parts[0]
    return [
        path
        for path in inside
        if path.parts[0] != apart and not any(part.startswith(".") for part in path.parts)
    ]


@contextmanager
def snapshot(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder with the files of a model folder as they are now."""
    kept = keep(folder)
    try:
        yield Path(kept.name)
    finally:
        kept.cleanup()


def keep(folder: Path) -> "TemporaryDirectory[str]":
    """Keep the files of a model folder as they are now, by hard links, or copies if need be.

    A run replaces best/ as a whole, so the links stay those of one model.
    """
    try:
        above = folder.resolve().parent
        kept = TemporaryDirectory(dir=above, prefix=PREFIX, suffix=SUFFIX)
    except OSError:  # not writable
        kept = TemporaryDirectory(prefix=PREFIX, suffix=SUFFIX)
    for path in [*files_of(folder), *(one for one in [EVALUATION] if (folder / one).is_file())]:
        target = Path(kept.name) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to((folder / path).resolve())
        except OSError:  # another file system, or one without links
            shutil.copyfile(folder / path, target)
    return kept


def fill_in(part: Path, repo: str) -> None:
    """Complete the card in a snapshot: the name of the repository, and newer scores.

    If `segacc evaluate` has scored the model, its scores with their intervals replace those of the
    training run.
    """
    card, scored = part / CARD, read_evaluation(part)
    shutil.rmtree(part / EVALUATION.parts[0], ignore_errors=True)
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8", errors="replace").replace(f'"{PLACE}"', f'"{repo}"')
    card.unlink()  # a link: the model's own card stays
    card.write_text(refreshed(text, scored) if scored else text, encoding="utf-8")


def explain(error: Exception, repo: str) -> str:
    """Return why an upload failed, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    server = getattr(error, "server_message", None) or ""
    reason = without_secrets(cut(" ".join((server or str(error)).split()), 300)).rstrip(".")
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, json.JSONDecodeError | KeyError) or status in (301, 302, 303, 307, 308):
        return (
            "the answer did not come from the Hub, but perhaps from the login page of this "
            "network: open a page in a browser, then run the command again."
        )
    if status == 401:
        return f"the Hub does not accept the token (401): it is wrong or has expired. {LOGIN}"
    if status == 403:
        return (
            f"the token may not write there (403: {reason}). Its role must be `write`, or it must "
            f"be a fine-grained one with access to {repo}; an organization must have you as a "
            "member."
        )
    if status is not None:
        return f"the Hub refuses it ({status}: {reason}). {AGAIN if status >= 500 else ''}".strip()
    if kinds & {"TransportError", "ConnectionError", "TimeoutError", "OSError"}:
        return f"the Hub cannot be reached ({type(error).__name__}: {reason}). {AGAIN}"
    return f"{type(error).__name__}: {reason}. {AGAIN}"


def sizes(folder: Path) -> dict[str, int]:
    """Return the files that are uploaded, with their sizes in bytes."""
    return {path.as_posix(): (folder / path).stat().st_size for path in files_of(folder)}
