"""The model card, README.md of best/ and last/: what the model is, its scores, how to use it."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.contracts import VERSION
from segacc.errors import count_of, first_of
from segacc.settings.secrets import without_secrets
from segacc.settings.units import clock_text
from segacc.training.folders import ENVIRONMENT
from segacc.training.optim.lora import choose_lora
from segacc.training.saving.license import Base
from segacc.training.saving.markdown import escaped, fenced, printable, table
from segacc.training.saving.scores import CARD, PLACE, Scored, dataset_title
from segacc.training.tracking.environment import read_starts

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

    from segacc.training.run import Run

PICTURE = "example.png"
"""Name of the picture in a model folder: validation images, their labels and predictions."""
PACKAGES = ("segacc", "torch", "transformers", "accelerate", "python")
STARTED = re.compile(r"^\S*python[\d.]*( -\S+)*? (-m segacc|\S*/segacc(/__main__\.py)?)(?= |$)")
"""The beginning of a recorded command that starts segacc."""
FEW = 12
"""Number of class names in the first paragraph."""

PIPELINE = f"""\
from transformers import pipeline

segment = pipeline("image-segmentation", model="{PLACE}")
for found in segment("photo.jpg", subtask="semantic"):
    print(found["label"], found["mask"])  # a picture, white where the class is
"""
SEGMENTER = f"""\
from segacc import Segmenter

prediction = Segmenter.from_pretrained("{PLACE}")("photo.jpg")  # (H, W) uint8 classes
"""


def write_card(run: "Run", folder: Path) -> None:
    """Write README.md and its picture into a model folder."""
    picture = copy_picture(run, folder)
    text = model_card(run, picture=picture)
    (folder / CARD).write_text(text, encoding="utf-8")


def copy_picture(run: "Run", folder: Path) -> bool:
    """Copy the figure of the newest evaluation, if there is one; return whether there is."""
    average = "-ema" if run.scoring.weights == "ema" else ""
    path = run.folder / "pictures" / f"step-{run.progress.evaluated:08d}{average}.png"
    if path.is_file():
        shutil.copyfile(path, folder / PICTURE)
    return path.is_file()


def model_card(run: "Run", *, picture: bool = False) -> str:
    """Return the text of the model card."""
    scored = Scored(
        scores=run.progress.scores,
        terms=run.scoring.terms(),
        dataset=run.plan.dataset.text,
        split=run.config.eval_split,
        step=run.progress.evaluated,
    )
    native = in_transformers(run)
    parts = [
        f"---\n{metadata(run, scored, native=native).to_yaml()}\n---\n",
        f"# {escaped(title(run))}\n",
        f"{introduction(run)}\n",
        f"![Validation images, their labels and predictions]({PICTURE})\n" if picture else "",
        scored.section().rstrip() + "\n",
        f"## Use\n\n{usage(native=native, protocol=run.scoring.protocol.text())}\n",
        f"## Licence\n\n{terms_of_use(run.base)}\n",
        f"## Training\n\n{training(run)}\n",
    ]
    return "\n".join(filter(None, parts))


def title(run: "Run") -> str:
    """Return the heading: architecture and data set."""
    return f"{run.plan.arch.text} on {dataset_title(run.plan.dataset.text)}"


def metadata(run: "Run", scored: Scored, *, native: bool) -> "ModelCardData":
    """Return the front matter of the card, as the Hub reads it."""
    from huggingface_hub import ModelCardData

    base, given = run.base, run.base.license if run.base else None
    other = given if given and given.id == "other" else None
    return ModelCardData(
        library_name="transformers" if native else "segacc",
        pipeline_tag="image-segmentation",
        tags=["segacc", "semantic-segmentation", printable(run.plan.arch.name)],
        base_model=base.name if base and base.on_hub else None,
        license=given.id if given else None,
        license_name=slug(other.text) if other else None,
        license_link=(other.link or None) if other else None,
        model_name=printable(title(run)),
        eval_results=scored.results() or None,
    )


def slug(text: str) -> str:
    """Return a name as the Hub wants it in `license_name`: small letters, digits, `-` and `.`."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "other"


def in_transformers(run: "Run") -> bool:
    """Return whether transformers has the network itself, so that it loads without segacc."""
    network = getattr(run.network, "network", None)
    return type(network).__module__.startswith("transformers.")


def introduction(run: "Run") -> str:
    """Return the first paragraph: what the model does, and which weights these are."""
    names = run.labels.names
    told = escaped(first_of(map(printable, names), FEW))
    average = ""
    if run.ema:
        average = f" The weights are an exponential moving average with decay {run.ema.decay:g}."
    steps = count_of(run.progress.step, "optimizer step")
    return (
        f"Assigns one of {count_of(len(names), 'class', 'classes')} to each pixel of an image: "
        f"{told}. Trained with segacc {VERSION} for {steps} of "
        f"{count_of(run.total_batch_size, 'image')}.{average}"
    )


def usage(*, native: bool, protocol: str) -> str:
    """Return the code that uses the model."""
    own = fenced(SEGMENTER, "python")
    if not native:
        return f"transformers lacks this network; segacc has it (`pip install segacc`):\n\n{own}"
    return (
        f"{fenced(PIPELINE, 'python')}\n\nWith segacc (`pip install segacc`), which predicts by "
        f"the protocol of the scores ({escaped(protocol)}):\n\n{own}"
    )


def terms_of_use(base: Base | None) -> str:
    """Return what is known about the licence of the model."""
    if base is None:
        return "Trained from random weights, so no licence comes from earlier weights."
    name = escaped(base.name)
    if base.license is None:
        return f"Trained from the weights {name}, whose licence is unknown."
    told = escaped(base.license.text)
    if base.license.link:
        told = f"[{told}](<{base.license.link}>)"
    text = f"Trained from the weights {name}, whose licence is {told}."
    if base.license.noncommercial:
        text = (
            f"**Not for commercial use.** {text} It forbids commercial use, of models trained from "
            "these weights too."
        )
    return text


def training(run: "Run") -> str:
    """Return the settings, the time, the devices, the versions and the command of the run."""
    starts = read_starts(run.folder / ENVIRONMENT)
    rows = [[name, value] for name, value in settings(run).items() if value]
    newest = starts[-1]
    devices = ", ".join(f"{newest['devices'].count(one)} x {one}" for one in unique(newest))
    versions = ", ".join(f"{name} {newest[name]}" for name in PACKAGES)
    took = f"{clock_text(run.clock.used())} on {devices}, evaluations included"
    resumed = f"; resumed {count_of(len(starts) - 1, 'time')}" if len(starts) > 1 else ""
    return (
        f"{table(['setting', 'value'], rows)}\n\nTook {escaped(took)}{resumed}. Versions: "
        f"{escaped(versions)}. Command:\n\n{fenced(shown(starts[0]['command']), 'sh')}"
    )


def unique(start: Mapping[str, Any]) -> list[str]:
    """Return the different devices of a start."""
    return list(dict.fromkeys(start["devices"]))


def shown(command: str) -> str:
    """Return a recorded command as a user types it, without secrets and without the home folder."""
    return without_secrets(STARTED.sub("segacc", command)).replace(str(Path.home()), "~")


def settings(run: "Run") -> dict[str, str]:
    """Return the hyperparameters of a run by name, as text."""
    config, plan = run.config, run.plan
    batch = f"{run.total_batch_size} ({config.batch_size} per process, "
    batch += f"{count_of(run.accelerator.num_processes, 'process', 'processes')}, "
    batch += f"{count_of(config.gradient_accumulation_steps, 'accumulation step')})"
    height, width = run.facts.crop_size
    return {
        "architecture": plan.arch.text,
        "initial weights": run.base.name if run.base else "random",
        "data set": dataset_title(plan.dataset.text),
        "training split": config.train_split,
        "loss": listed([one.text for one in plan.loss] or list(run.losses)),
        "optimizer": named(config.optimizer),
        "learning rate": f"{config.lr:g}, head x {config.head_lr_scale:g}",
        "weight decay": f"{config.weight_decay:g}",
        "schedule": f"{named(config.schedule)}, warm-up {config.warmup_steps:g} steps",
        "total batch size": batch,
        "steps": f"{run.progress.step} of {run.max_steps} ({run.epoch():.1f} epochs)",
        "crop": f"{height} x {width} pixels",
        "augmentation": listed([one.text for one in plan.aug]) or "none",
        "class weights": config.class_weights or "",
        "frozen": listed(config.freeze),
        "LoRA": lora_text(run),
        "precision": run.scoring.terms().number_format,
        "EMA": f"decay {config.ema:g}" if config.ema else "none",
        "seed": str(config.seed),
    }


def lora_text(run: "Run") -> str:
    """Return the options of `--lora`; an empty string without it."""
    if (lora := choose_lora(run.plan.settings)) is None:
        return ""
    targets = ", ".join(lora.targets) or "all linear layers of the encoder"
    return (
        f"rank {lora.r}, alpha {lora.scale}, dropout {lora.dropout:g}, learning rate x "
        f"{lora.lr_scale:g}, on {targets}; merged here, alone in adapters/"
    )


def listed(texts: Sequence[str]) -> str:
    """Return texts in one line."""
    return "; ".join(texts)


def named(given: str | Mapping[str, Any]) -> str:
    """Return a component as it is typed on the command line."""
    if isinstance(given, str):
        return given
    values = ",".join(f"{key}={value}" for key, value in given.items() if key != "name")
    return f"{given['name']}:{values}" if values else str(given["name"])
