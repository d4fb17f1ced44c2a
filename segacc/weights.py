"""Where weights come from: the Hub, a folder, or nowhere; and what was said about it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segacc.errors import WeightsError
from segacc.model import LoadReport, SegmentationModel

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
    folder = Path(given).expanduser()
    if folder.is_dir():
        return Source(str(folder), given)
    if given.count("/") > 1 or given.startswith((".", "/", "~", "\\")):
        raise WeightsError(f"--weights {given}: no such folder (looked at {folder.resolve()}).")
    try:
        return Source(fetch(given), given)
    except WeightsError as error:
        raise WeightsError(f"--weights {given}: there is no such folder; {error}") from None


def fetch(hub_id: str) -> str:
    """Return a local folder with the weights of a Hub id; from the cache when out of reach.

    Raises:
        WeightsError: the Hub cannot be reached within seconds and the cache has nothing, or the id
            is unknown.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        found = [
            file.rfilename
            for file in HfApi().model_info(hub_id, timeout=HUB_TIMEOUT).siblings or []
        ]
        safe = any(name.endswith(".safetensors") for name in found)
        wanted = ["*.json", "*.safetensors" if safe else "*.bin"]
        knock(hub_id, next(name for name in found if name.endswith(wanted[1][1:])))
        return str(snapshot_download(hub_id, allow_patterns=wanted, etag_timeout=HUB_TIMEOUT))
    except HFValidationError:
        raise WeightsError(f"{hub_id} is no Hub id, which has the form USER/NAME.") from None
    except RepositoryNotFoundError as error:
        first = str(error).strip().splitlines()[0]
        raise WeightsError(f"the Hub does not give {hub_id}: {first}") from None
    except Exception as error:  # offline, a Hub in trouble, or what its HTTP library raises
        return cached(hub_id, type(error).__name__)


def knock(hub_id: str, file: str) -> None:
    """Ask the Hub's file store for the first byte of a file, which a firewall may never answer."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    url, headers = hf_hub_url(hub_id, file), build_hf_headers()
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


def load(model: SegmentationModel, source: Source) -> LoadReport:
    """Load what `choose` decided into the network.

    Raises:
        WeightsError: they do not belong to the network.
    """
    if source.folder is None:
        return LoadReport(source.name)
    return replace(model.load_weights(source.folder, offline=True), source=source.name)


def agree(given: str, default_id: str | None, accelerator: Any) -> Source:
    """Let the main process `choose` for all; each node's first process fetches for its own disk.

    Raises:
        WeightsError: as `choose`, on every process.
    """
    from accelerate.utils import broadcast_object_list

    source = None
    if accelerator.is_main_process:
        try:
            source = choose(given, default_id)
        except Exception as error:  # carried to the others, which wait
            source = Source(None, "", error=error)
    decision: list[Source] = broadcast_object_list([source])
    shared = decision[0]
    if shared.error is not None:
        raise shared.error
    if shared.folder and not Path(shared.folder).is_dir():  # another node, another disk
        with accelerator.local_main_process_first():
            return replace(shared, folder=fetch(shared.name))
    return shared
