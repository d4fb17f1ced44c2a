"""Checks of an architecture: saving and loading, also with other classes."""

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
    """Build a network, and run it once in training so that its statistics change."""
    network = subject.build(seed=1)
    network.train().on_step(0, 10)
    network(subject.images(network))
    return network.eval()


def told(subject: Subject, folder: Path) -> None:
    """Check that config.json has the class names, and the model_type if there is one."""
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
    """Return the logits in evaluation."""
    logits: Tensor = network.eval()(subject.images(network)).main
    return logits


def state_dict(subject: Subject, network: SegmentationModel) -> None:
    """Check that the state dict determines the logits."""
    again = subject.build(seed=2)
    again.load_state_dict(network.state_dict())
    mine, theirs = say(subject, again), say(subject, network)
    expected = "state_dict() to determine the logits"
    found = f"{gap(mine, theirs)} after load_state_dict: register such tensors as buffers"
    subject.report.require(close(mine, theirs, 1e-5), expected, found)


def comes_back(
    subject: Subject, network: SegmentationModel, folder: str, options: Any, how: str
) -> None:
    """Check that a new network with the saved weights gives the same logits.

    Small differences are allowed, because the memory layout of tensors affects kernel selection.
    """
    again = subject.build(seed=2, options=options)
    report = again.load_weights(folder, class_names=subject.facts.class_names)
    expected = f"all tensors of save_pretrained to be restored by {how} and load_weights"
    found = f"that {few(report.new)} are new"
    subject.report.require(not report.new, expected, found)
    expected = f"all tensors of save_pretrained to be used by {how} and load_weights"
    subject.report.require(not report.dropped, expected, f"that {few(report.dropped)} are not used")
    mine, theirs = say(subject, again), say(subject, network)
    expected = f"the same logits after save_pretrained, {how} and load_weights"
    subject.report.require(close(mine, theirs, 1e-5), expected, gap(mine, theirs))


def other_classes(subject: Subject, network: SegmentationModel, folder: str) -> None:
    """Check that rows of classes with the same name are reused, unless the head is to be fresh."""
    names = ("house", *reversed(subject.facts.class_names))  # a new one, the old ones reversed
    fresh = subject.build(seed=2, num_classes=4, class_names=names)
    before = {name: one.clone() for name, one in fresh.state_dict().items()}
    fresh.load_weights(folder, class_names=names, fresh_head=True)
    state = fresh.state_dict()
    heads = [n for n, _ in fresh.named_parameters() if fresh.is_head(n)]
    moved = [name for name in heads if not torch.equal(state[name], before[name])]
    expected = "load_weights(fresh_head=True) not to load the head"
    subject.report.require(not moved, expected, f"that {few(moved)} changed")

    kept = subject.build(seed=2, num_classes=4, class_names=names)
    kept.load_weights(folder, class_names=names)
    mine, theirs = kept.state_dict(), network.state_dict()
    for module in kept.classifiers:
        rows = [n for n in mine if n.startswith(f"{module}.") and mine[n].ndim]
        expected = f"`classifiers` to list modules with tensors; {module} is listed"
        subject.report.require(rows, expected, "no tensor with this name")
        for name in rows:
            carried(subject, name, mine[name], theirs[name])


def carried(subject: Subject, name: str, mine: Tensor, theirs: Tensor) -> None:
    """Check that rows of 3 classes are in those of 4: a new class, then the old ones reversed."""
    count = facts_of(3).num_classes
    fine = mine.shape[0] - theirs.shape[0] == 1 and theirs.shape[0] >= count
    expected = f"{name}, listed in `classifiers`, to have a row for each class"
    subject.report.require(fine, expected, f"{mine.shape[0]} for 4, {theirs.shape[0]} for 3")
    expected = f"rows of {name} to be reused by class name in a network with other classes"
    same = torch.equal(mine[1 : count + 1], theirs[:count].flip(0))
    subject.report.require(same, expected, "other values")
