"""Where weights come from: the Hub, a folder, or nowhere; and what was said about it."""

from dataclasses import dataclass
from pathlib import Path

from segacc.errors import WeightsError
from segacc.model import torchvision_hub

HUB_TIMEOUT = 5.0
"""Seconds that the Hub may take to answer before it counts as out of reach."""


@dataclass(frozen=True)
class Source:
    """A decision, made once and shared by all processes."""

    folder: str | None
    """A folder to load from, or None for random weights."""
    name: str
    """What to call it."""
    warning: str = ""
    """What the user must be told loudly."""
    error: Exception | None = None
    """What the main process met; all processes raise it together."""


def choose(given: str, default_id: str | None) -> Source:
    """Decide where the weights come from, and fetch them when they are on the Hub.

    Args:
        given: `auto`, `none`, a folder or a Hub id.
        default_id: the architecture's published weights, for `auto`.

    Raises:
        WeightsError: a folder or Hub id that the user typed is not there.
    """
    if given == "none" or (given == "auto" and default_id is None):
        return Source(None, "random")
    if given == "auto":
        assert default_id is not None
        try:
            return Source(fetch(default_id), default_id)
        except WeightsError as error:
            return Source(
                None, f"random (wanted {default_id})", f"STARTING FROM RANDOM WEIGHTS: {error}"
            )
    return Source(find(given), given)


def find(given: str, *, only_config: bool = False) -> str:
    """Return the folder that the user typed, or one with what the Hub has under that id.

    Args:
        given: a folder or a Hub id.
        only_config: config.json is enough.

    Raises:
        WeightsError: neither is there.
    """
    folder = Path(given).expanduser()
    if folder.is_dir():
        return str(folder)
    if is_path(given):
        raise WeightsError(f"--weights {given}: no such folder (looked at {folder.resolve()}).")
    try:
        return fetch(given, only_config=only_config)
    except WeightsError as error:
        raise WeightsError(f"--weights {given}: there is no such folder; {error}") from None


def is_path(given: str) -> bool:
    """Tell a path by its form from a Hub id, which is NAME or USER/NAME."""
    return given.count("/") > 1 or given.startswith((".", "/", "~", "\\"))


def fetch(hub_id: str, *, only_config: bool = False) -> str:
    """Return a local folder with the weights of a Hub id; from the cache when out of reach.

    Args:
        hub_id: NAME or USER/NAME, or `torchvision:NAME`.
        only_config: fetch the JSON files only.

    Raises:
        WeightsError: the Hub cannot be reached within seconds and the cache has nothing, or the id
            is unknown.
    """
    if hub_id.startswith(torchvision_hub.SCHEME):
        return torchvision_hub.fetch(hub_id)
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        found = [
            file.rfilename
            for file in HfApi().model_info(hub_id, timeout=HUB_TIMEOUT).siblings or []
        ]
        safe = any(name.endswith(".safetensors") for name in found)
        wanted = ["*.json"] if only_config else ["*.json", "*.safetensors" if safe else "*.bin"]
        needed = [name for name in found if name.endswith(wanted[-1][1:])]
        if not needed:
            raise WeightsError(f"the Hub's {hub_id} holds no file {wanted[-1]}.")
        knock(hub_id, needed[0])
        return str(snapshot_download(hub_id, allow_patterns=wanted, etag_timeout=HUB_TIMEOUT))
    except WeightsError:
        raise
    except HFValidationError:
        raise WeightsError(f"{hub_id} is no Hub id, which has the form USER/NAME.") from None
    except RepositoryNotFoundError as error:
        first = str(error).strip().splitlines()[0]
        raise WeightsError(f"the Hub does not give {hub_id}: {first}") from None
    except Exception as error:  # offline, a Hub in trouble, or what its HTTP library raises
        return cached(hub_id, type(error).__name__)


def knock(
    hub_id: str, file: str, *, repo_type: str | None = None, revision: str | None = None
) -> None:
    """Ask the Hub's file store for the first byte of a file, which a firewall may never answer."""
    from huggingface_hub import get_session, get_token, hf_hub_url, hf_raise_for_status

    url, token = hf_hub_url(hub_id, file, repo_type=repo_type, revision=revision), get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with get_session().stream(
        "GET", url, headers=headers, timeout=HUB_TIMEOUT, follow_redirects=True
    ) as answer:
        hf_raise_for_status(answer)


def cached(hub_id: str, trouble: str) -> str:
    """Return the folder of a Hub id in the Hub's cache, if weights are in it.

    Raises:
        WeightsError: none are.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True))
        if any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir()):
            return str(folder)
    except LocalEntryNotFoundError:
        pass
    raise WeightsError(
        f"the Hub cannot be reached ({trouble}) and {hub_id} is not in its cache. "
        "Give --weights FOLDER with weights on disk, or --weights none to start at "
        "random without this message."
    )
