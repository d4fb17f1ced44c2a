"""Loads data sets of `hub` from the Hugging Face Hub, or from the cache if it is unreachable."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segacc.errors import DataError, OptionError, SegaccError
from segacc.model.hub import HUB_TIMEOUT, knock, trouble
from segacc.plugins.datasets.bombs import refuse_bombs
from segacc.plugins.datasets.files import NAMES_FILES
from segacc.plugins.datasets.hub_files import (
    WHERE,
    Loaded,
    by_name,
    quiet_datasets,
    read,
    reason,
    script_text,
    with_cure,
)

CONVERTED = "refs/convert/parquet"
"""Branch of the Hub with automatically converted data: CONFIG/SPLIT/0000.parquet."""


def from_hub(hub_id: str, config: str | None, revision: str | None) -> Loaded:
    """Load a data set with all of its splits.

    Args:
        hub_id: USER/NAME.
        config: configuration name, if there are several.
        revision: branch, tag or commit.

    Raises:
        DataError: the Hub has no such data set, it is a script, or the Hub is unreachable and the
            data set is not cached. OptionError: `hub_id` is not a Hub id, or a configuration must
            be chosen.
    """
    what = f"id={hub_id}"
    try:
        hub_id, files = listed(hub_id, revision)
    except SegaccError:
        raise
    except Exception as error:  # offline, or any error of the Hub or the HTTP library
        data = _cached(hub_id, config, revision, trouble(error))
        find = partial(_fetch_names, hub_id, revision, only_cached=True)
        return Loaded(what, by_name(data), find, cache_folders())
    if (script := f"{hub_id.split('/')[-1]}.py") in files:
        raise DataError(script_text(what, script))
    folder = _converted(what, files, config) if revision == CONVERTED else None
    data = read(what, lambda: _load(hub_id, None if folder else config, folder, revision))
    find = partial(_fetch_names, hub_id, revision)
    return Loaded(what, by_name(data), find, cache_folders())


def cache_folders() -> tuple[Path, ...]:
    """Return the folders of downloaded data sets, to which alone the paths in rows may lead."""
    import datasets
    from huggingface_hub import constants

    return Path(datasets.config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE)


def listed(hub_id: str, revision: str | None) -> tuple[str, list[str]]:
    """Return the canonical id and the files of a data set, after checking access.

    Raises:
        SegaccError: there is no such data set or access. Any other error: the Hub is unreachable.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        found = HfApi().dataset_info(hub_id, revision=revision, timeout=HUB_TIMEOUT)
        files = [file.rfilename for file in found.siblings or []]
        if files:
            knock(found.id, files[0], repo_type="dataset", revision=revision)
        return found.id, files
    except HFValidationError:
        raise OptionError(
            f"{WHERE}: id={hub_id} is not a Hub id, which has the form USER/NAME. Local files are "
            f"read with path={hub_id}."
        ) from None
    except GatedRepoError:
        raise DataError(
            f"{WHERE}: id={hub_id} is gated: request access on "
            f"https://huggingface.co/datasets/{hub_id}, then log in with `hf auth login`."
        ) from None
    except RepositoryNotFoundError:
        raise DataError(
            f"{WHERE}: the Hub has no data set {hub_id}, or it is private. Check the name, or log "
            f"in with `hf auth login`. Local files are read with path={hub_id}."
        ) from None
    except RevisionNotFoundError:
        raise DataError(f"{WHERE}: id={hub_id} has no revision {revision}.") from None


def _load(hub_id: str, config: str | None, folder: str | None, revision: str | None) -> Any:
    """Do what datasets.load_dataset does, and look at the files before they are expanded."""
    import datasets

    class Downloads(datasets.DownloadManager):  # type: ignore[misc]
        def download(self, url_or_urls: Any) -> Any:
            before = set(self.downloaded_paths)  # those of other splits
            found = super().download(url_or_urls)
            new = self.downloaded_paths.keys() - before
            refuse_bombs(Path(self.downloaded_paths[url]) for url in new)
            return found

    builder = datasets.load_dataset_builder(hub_id, config, data_dir=folder, revision=revision)
    downloads = Downloads(
        dataset_name=builder.dataset_name,
        data_dir=builder.config.data_dir,
        base_path=builder.base_path,
        download_config=datasets.DownloadConfig(use_etag=False),
    )
    builder.download_and_prepare(dl_manager=downloads)
    return builder.as_dataset()


def _converted(what: str, files: Sequence[str], config: str | None) -> str:
    """Choose the folder of a configuration among those converted by the Hub."""
    folders = sorted({name.split("/")[0] for name in files if name.endswith(".parquet")})
    if config is None and len(folders) == 1:
        return folders[0]
    if config not in folders:
        given = f"there is no configuration {config}" if config else "there are several"
        raise OptionError(
            f"{WHERE}: {what},revision={CONVERTED}: {given}; add config=NAME. There is "
            f"{', '.join(folders) or 'none'}."
        )
    return config


def _cached(hub_id: str, config: str | None, revision: str | None, why: str) -> Any:
    """Load a data set from the cache of `datasets`.

    Raises:
        DataError: it is not cached, or in another revision.
    """
    folder = config if revision == CONVERTED else None
    away = f"{WHERE}: {why} and {hub_id} "
    cure = (
        "Give path=FOLDER with local files, or load it once on a computer with access to the Hub "
        "and copy the cache here (HF_HOME)."
    )
    try:
        if revision != CONVERTED:
            config = config or _default_config(hub_id, revision)
        with quiet_datasets(HF_HUB_OFFLINE=True):
            found = _load(hub_id, None if folder else config, folder, None)
    except ConnectionError:
        raise DataError(f"{away}is not in the local cache. {cure}") from None
    except Exception as error:  # the cache has something else
        told = f"{away}cannot be loaded from its cache: {with_cure(error)} {cure}"
        raise DataError(told) from None
    if revision is not None and not _of_revision(found, hub_id, revision):
        raise DataError(f"{away}is cached only in another revision than {revision}. {cure}")
    return found


def _default_config(hub_id: str, revision: str | None) -> str | None:
    """Return the Hub's default configuration, according to the cached dataset card.

    `datasets` itself would use the only cached one.

    Returns:
        None if the card lists none, or is not cached.

    Raises:
        ValueError: the card lists several without a default.
    """
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, try_to_load_from_cache

    card = try_to_load_from_cache(hub_id, "README.md", repo_type="dataset", revision=revision)
    if not isinstance(card, str):
        return None
    configs = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data)
    default: str | None = configs.get_default_config_name()
    if default is None and configs:
        raise ValueError(f"the configurations are {', '.join(configs)}")
    return default


def _of_revision(found: Any, hub_id: str, revision: str) -> bool:
    """True if cached splits are from a branch, tag or commit: their folder is the commit."""
    from huggingface_hub import constants

    branch = f"datasets--{hub_id.replace('/', '--')}/refs/{revision}"
    note = Path(constants.HF_HUB_CACHE) / branch
    is_commit = re.fullmatch(r"[0-9a-f]{40}", revision)
    commit = revision if is_commit or not note.is_file() else note.read_text().strip()
    files = [file["filename"] for data in found.values() for file in data.cache_files]
    return {Path(file).parent.name for file in files} == {commit}


def _fetch_names(hub_id: str, revision: str | None, *, only_cached: bool = False) -> Path | None:
    """Download a file of class names from the repository; None if it has none.

    Raises:
        DataError: the download failed.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    branch = None if revision == CONVERTED else revision  # that branch has no other files
    for name in NAMES_FILES:
        try:
            return Path(
                hf_hub_download(
                    hub_id,
                    name,
                    repo_type="dataset",
                    revision=branch,
                    etag_timeout=HUB_TIMEOUT,
                    local_files_only=only_cached,
                )
            )
        except EntryNotFoundError:  # neither on the Hub nor cached
            continue
        except Exception as error:
            raise DataError(f"{WHERE}: {name} of {hub_id}: {reason(error)}.") from None
    return None
