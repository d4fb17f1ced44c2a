"""Checks of an architecture: what is saved comes back, into other classes too."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from segacc.model import SegmentationModel
from segacc.testing.subject import Subject
from segacc.testing.tools import close, facts_of, few, gap


def check(subject: Subject) -> None:
    """Check save_pretrained and load_weights."""
    with TemporaryDirectory() as folder:
        with subject.report.attempt("weights to be saved and loaded"):
            network = used(subject)
            names = subject.facts.class_names
            state = {name: one.clone() for name, one in network.state_dict().items()}
            network.save_pretrained(Path(folder), names=names, state_dict=state)
            told(subject, Path(folder))
            state_dict(subject, network)
            comes_back(subject, network, folder, None, "build(options)")
        if subject.record.model_types:
            with subject.report.attempt("a network to be built from the folder it was saved in"):
                options = subject.record.options(config=Path(folder))
                comes_back(subject, network, folder, options, "build(options(config=FOLDER))")
        with subject.report.attempt("weights to be loaded into a network of other classes"):
            other_classes(subject, network, folder)


@torch.no_grad()
def used(subject: Subject) -> SegmentationModel:
    """Build a network, and let its statistics move away from where they start."""
    network = subject.build(seed=1)
    network.train().on_step(0, 10)
    network(subject.images(network))
    return network.eval()


def told(subject: Subject, folder: Path) -> None:
    """Require that config.json names the classes, and the model_type where there is one."""
    path = folder / "config.json"
    subject.report.require(path.is_file(), "save_pretrained to write config.json", "none")
    config = json.loads(path.read_text())
    stored = config.get("id2label") or {}
    names = tuple(str(stored[key]) for key in sorted(stored, key=int))
    expected = f"id2label in config.json to be {', '.join(subject.facts.class_names)}"
    subject.report.require(names == subject.facts.class_names, expected, few(names) or "none")
    kinds = subject.record.model_types
    if kinds:
        expected = f"model_type in config.json to be {' or '.join(kinds)}"
        found = str(config.get("model_type"))
        subject.report.require(found in kinds, expected, found)


@torch.no_grad()
def say(subject: Subject, network: SegmentationModel) -> Tensor:
    """Return logits in evaluation."""
    logits: Tensor = network.eval()(subject.images(network)).main
    return logits


def state_dict(subject: Subject, network: SegmentationModel) -> None:
    """Require that the state dict holds all that decides the logits."""
    again = subject.build(seed=2)
    again.load_state_dict(network.state_dict())
    mine, theirs = say(subject, again), say(subject, network)
    expected = "state_dict() to hold all that decides the logits"
    found = f"{gap(mine, theirs)} after load_state_dict: register such tensors as buffers"
    subject.report.require(close(mine, theirs, 1e-5), expected, found)


def comes_back(
    subject: Subject, network: SegmentationModel, folder: str, options: Any, how: str
) -> None:
    """Require that a new network with the saved weights says the same.

    But for rounding: where a tensor lies in memory decides which kernel computes with it.
    """
    again = subject.build(seed=2, options=options)
    report = again.load_weights(folder, class_names=subject.facts.class_names)
    expected = f"all tensors back from save_pretrained, by {how} and load_weights"
    found = f"that {few(report.new)} start anew"
    subject.report.require(not report.new, expected, found)
    expected = f"no tensor left over from save_pretrained, by {how} and load_weights"
    subject.report.require(not report.dropped, expected, few(report.dropped))
    mine, theirs = say(subject, again), say(subject, network)
    expected = f"the same logits after save_pretrained, {how} and load_weights"
    subject.report.require(close(mine, theirs, 1e-5), expected, gap(mine, theirs))


def other_classes(subject: Subject, network: SegmentationModel, folder: str) -> None:
    """Require that rows of classes that are known by name are taken over, and only where asked."""
    names = ("house", *reversed(subject.facts.class_names))  # new, then the old ones turned round
    fresh = subject.build(seed=2, num_classes=4, class_names=names)
    before = {name: one.clone() for name, one in fresh.state_dict().items()}
    fresh.load_weights(folder, class_names=names, fresh_head=True)
    state = fresh.state_dict()
    heads = [n for n, _ in fresh.named_parameters() if fresh.is_head(n)]
    moved = [name for name in heads if not torch.equal(state[name], before[name])]
    expected = "load_weights(fresh_head=True) to leave the head as it is"
    subject.report.require(not moved, expected, f"that {few(moved)} changed")

    kept = subject.build(seed=2, num_classes=4, class_names=names)
    kept.load_weights(folder, class_names=names)
    mine, theirs = kept.state_dict(), network.state_dict()
    for module in kept.classifiers:
        rows = [n for n in mine if n.startswith(f"{module}.") and mine[n].ndim]
        expected = f"classifiers to name modules with tensors; {module} is one of them"
        subject.report.require(rows, expected, "no tensor under this name")
        for name in rows:
            carried(subject, name, mine[name], theirs[name])


def carried(subject: Subject, name: str, mine: Tensor, theirs: Tensor) -> None:
    """Require the rows of 3 classes in those of 4: one new class, then the old ones turned."""
    count = facts_of(3).num_classes
    fine = mine.shape[0] - theirs.shape[0] == 1 and theirs.shape[0] >= count
    expected = f"{name} of a network in `classifiers` to have a row for each class"
    subject.report.require(fine, expected, f"{mine.shape[0]} for 4, {theirs.shape[0]} for 3")
    expected = f"rows of {name} to follow their class names into a network of other classes"
    same = torch.equal(mine[1 : count + 1], theirs[:count].flip(0))
    subject.report.require(same, expected, "other numbers in them")
