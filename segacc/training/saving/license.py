"""Whose weights a run starts from, and under which licence they were published."""

import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segacc.errors import SegaccError
from segacc.evaluation.model_folder import initial_model, side_file
from segacc.hookspecs import Chosen
from segacc.model.hub import HUB_TIMEOUT, TORCHVISION, Source

NVIDIA = "NVIDIA Source Code License for SegFormer (non-commercial)"
PUBLISHED: Mapping[str, str] = {
    "nvidia/mit-": NVIDIA,
    "nvidia/segformer-": NVIDIA,
    "facebook/maskformer-": "CC BY-NC 4.0",
    "facebook/mask2former-": "CC BY-NC 4.0",
}
"""Licences by the beginning of a Hub id, where the model card only says `other`. Sources: the cards
of nvidia/mit-b0 to b5, which refer to the file in LINKS; its section 3.3 allows non-commercial use
only, also for derivative works. MODEL_ZOO.md of github.com/facebookresearch/MaskFormer and
Mask2Former, of all weights that they list."""
LINKS: Mapping[str, str] = {
    NVIDIA: "https://github.com/NVlabs/SegFormer/blob/master/LICENSE",
    "DINOv3 License": "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
}
IDS = ("apache-2.0", "bsd-3-clause", "cc-by-nc-4.0", "mit")
"""Identifiers of the Hub that a record's `weights_license` may mean."""
FORBIDDEN = re.compile(r"\bnc\b|non-?commercial|research", re.IGNORECASE)
"""Found in the names of licences that forbid commercial use."""


@dataclass(frozen=True, kw_only=True)
class License:
    """A licence, as a model card names it."""

    id: str
    """The Hub's identifier, such as `apache-2.0`, or `other`."""
    text: str
    """Its name."""
    link: str = ""

    @property
    def noncommercial(self) -> bool:
        """Whether its name says that commercial use is forbidden."""
        return FORBIDDEN.search(f"{self.id} {self.text}") is not None

    @classmethod
    def named(cls, text: str) -> "License":
        """Return a licence by its name, as in the `weights_license` of an architecture."""
        slug = re.sub(r"\s+", "-", text.lower())
        return cls(id=slug if slug in IDS else "other", text=text, link=LINKS.get(text, ""))


@dataclass(frozen=True, kw_only=True)
class Base:
    """The weights that a run started from."""

    name: str
    """The Hub id; the last part of its path for a folder that does not name its origin."""
    on_hub: bool
    """Whether `name` is an id of the Hub."""
    license: License | None
    """None if it is not known."""

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> "Base | None":
        """Return what `to_dict` stored; None if nothing was."""
        if not stored:
            return None
        license_ = stored.get("license")
        return cls(
            name=stored["name"],
            on_hub=stored["on_hub"],
            license=License(**license_) if license_ else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it for segacc.json."""
        return asdict(self)

    def warning(self) -> str:
        """Return a warning if the licence forbids commercial use; else an empty string."""
        if self.license is None or not self.license.noncommercial:
            return ""
        told = ", ".join(filter(None, (self.license.text, self.license.link)))
        return (
            f"warning: the licence of the weights {self.name} forbids commercial use ({told}), and "
            "it also covers models trained from them. --weights none starts from random weights; "
            "docs/architectures.md lists other weights and their licences."
        )


def warn(base: Base | None) -> None:
    """Print the warning about the licence of a run's initial weights, if there is one."""
    if base and (text := base.warning()):
        sys.stderr.write(f"{text}\n")


def find_base(source: Source, given: str, arch: Chosen) -> Base | None:
    """Find out whose weights a run starts from; None for random weights.

    Args:
        source: where the weights were found.
        given: `--weights`.
        arch: the architecture, for the licence of its default weights.
    """
    if source.folder is None:
        return None
    about = find_about(source.folder)
    earlier = stored_base(about)
    hub_id = hub_id_of(source, given) or (earlier.name if earlier and earlier.on_hub else "")
    return Base(
        name=hub_id or about.name,
        on_hub=bool(hub_id) and not hub_id.startswith(TORCHVISION),
        license=(earlier.license if earlier else None) or license_of(hub_id, about, given, arch),
    )


def find_about(folder: str) -> Path:
    """Return the folder that describes weights: for a checkpoint, one of its run folder."""
    with suppress(SegaccError):
        if found := initial_model(folder, "--weights"):
            return found.about
    return Path(folder)


def stored_base(about: Path) -> Base | None:
    """Return the weights from which segacc trained those of a folder, if it did."""
    with suppress(SegaccError, KeyError, TypeError):
        return Base.read(side_file(about).get("base_model"))
    return None


def hub_id_of(source: Source, given: str) -> str:
    """Return the Hub id of weights, also of those in the Hub's cache; empty if there is none."""
    if given == "auto":
        return source.name
    if initial_model(given, "--weights") is None:
        return given
    folder = Path(source.folder or "").resolve()
    if folder.parent.name == "snapshots" and folder.parts[-3].startswith("models--"):
        return folder.parts[-3].removeprefix("models--").replace("--", "/")
    return ""


def license_of(hub_id: str, about: Path, given: str, arch: Chosen) -> License | None:
    """Return the licence of weights: as published, or as the model card in their folder says."""
    for beginning, text in PUBLISHED.items():
        if hub_id.startswith(beginning):
            return License.named(text)
    if given == "auto" and (text := arch.record.weights_license(arch.options)):
        return License.named(text)
    own = about / "README.md"
    if own.is_file():
        return read_license(own.read_text(encoding="utf-8", errors="replace"))
    return read_license(card_of(hub_id)) if hub_id else None


def card_of(hub_id: str) -> str:
    """Return the model card of a Hub id, or an empty text; the weights were fetched without it.

    `hf_hub_download` would try again and again, without a time limit.
    """
    from huggingface_hub import get_session, get_token, hf_hub_url, hf_raise_for_status

    with suppress(Exception):  # no network, no card, or no Hub id at all
        token = get_token()
        answer = get_session().get(
            hf_hub_url(hub_id, "README.md"),
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=HUB_TIMEOUT,
            follow_redirects=True,
        )
        hf_raise_for_status(answer)
        return str(answer.text)
    return ""


def read_license(card: str) -> License | None:
    """Return the licence in the front matter of a model card; None if it names none."""
    from huggingface_hub import ModelCard

    found: dict[str, Any] = {}
    if not card.startswith("---"):  # huggingface_hub would complain
        return None
    with suppress(Exception):  # whatever a damaged card makes the parser raise
        data: Any = ModelCard(card, ignore_metadata_errors=True).data
        found = data.to_dict()
    if not isinstance(id_ := found.get("license"), str):
        return None
    name, link = (found.get(key) for key in ("license_name", "license_link"))
    return License(
        id=id_,
        text=name if isinstance(name, str) else id_,
        link=link if isinstance(link, str) and link.startswith("https://") else "",
    )
