"""The repository on the Hub to which a model is uploaded, checked without a network."""

import os
import re
from pathlib import Path

from segacc.errors import OptionError, is_main, quoted
from segacc.settings.sources import Settings

LOGIN = "Run `hf auth login` with a token that may write, or set HF_TOKEN to one."


def repo_of(settings: Settings, folder: Path) -> str | None:
    """Return the repository of `--push-to-hub`, checked without a network; None without it.

    Raises:
        OptionError: the name is invalid, or nobody is logged in.
    """
    given, where = settings.config.push_to_hub, settings.where("push_to_hub")
    if given in (None, "none"):
        return None
    repo = given
    if given == "auto":
        name = re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name))
        repo = re.sub(r"\.{2,}", ".", name).strip("-.")[:96]
        if not repo:
            raise OptionError(
                f"{where}: no repository can be named after the run folder {folder}. Give one, as "
                "in --push-to-hub USER/NAME."
            )
    check_repo(repo, where)
    if is_main():
        check_login(where)
    return repo


def check_repo(repo: str, where: str) -> None:
    """Refuse what is not the name of a repository, without a network.

    Raises:
        OptionError: it is neither USER/NAME nor NAME.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo if isinstance(repo, str) else "")
    except HFValidationError:
        raise OptionError(
            f"{where}: {quoted(repo)} is not the name of a Hub repository: USER/NAME, or NAME "
            "for one of your own; NAME has up to 96 letters, digits, `-`, `_` and `.`, does not "
            "begin or end with `-` or `.`, and contains neither `--` nor `..`."
        ) from None


def check_login(where: str) -> None:
    """Refuse to upload without a token or without a network, which is not used here.

    Raises:
        OptionError: nobody is logged in, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import get_token

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "TRUE", "YES"):
        raise OptionError(f"{where}: HF_HUB_OFFLINE is set, so nothing can be uploaded. Unset it.")
    if not get_token():
        raise OptionError(f"{where}: nobody is logged in to the Hub on this machine. {LOGIN}")
