"""A transform of Albumentations, applied to image and label with segacc's random numbers."""

import difflib
import inspect
import os
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks pypi.org

import albumentations as A
import cv2

from segacc import Facts
from segacc.errors import OptionError
from segacc_albumentations import Options

TRIALS = ((64, 96), (2048, 2560))
"""(H, W) of the samples that a transform is tried on: the second only if it refuses the first, as
crops do that are larger."""
HOLES = ("GridElasticDeform",)
"""Transforms that leave some pixels of a label at 0 in some images, and have no `fill_mask`."""
ALIAS = r"(?s).*(special case|specialized version|is an alias|is very slow)"
"""Start of warnings that only recommend another transform."""
GIVEN = {"image", "mask"}
"""What Albumentations is given; a transform that needs more cannot be used."""


class Albumentation:
    """A transform of Albumentations for image and label; see `named` and `loaded`."""

    def __init__(self, create: Callable[[], Any], where: str, facts: Facts) -> None:
        """Create the transform, and try each of its parts on a sample.

        Args:
            create: creates it.
            where: how errors begin.
            facts: the facts of the run.

        Raises:
            OptionError: it cannot be created, needs more than an image and a label, or does not
                return an image and a label of one size with the classes from before.
        """
        cv2.setNumThreads(0)  # its threads do not survive the fork of a data loader's worker
        self.where = where
        with warnings.catch_warnings():
            # It only warns of unknown arguments, and then uses others.
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", ALIAS, UserWarning)
            self.transform = create()
        if getattr(self.transform, "processors", None):
            self._refuse_needs(
                type(self.transform).__name__,
                "boxes or keypoints (its bbox_params, keypoint_params)",
            )
        for part in parts(self.transform):
            self._try_out(part, facts)

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return image (C, H, W) uint8 and label (H, W) uint8, transformed together."""
        changed, classes = self._apply(self.transform, pixels_of(image), label.numpy().copy())
        return tv_tensors.Image(tensor_of(changed)), tv_tensors.Mask(torch.from_numpy(classes))

    def _apply(self, transform: Any, image: Any, label: Any, **more: Any) -> tuple[Any, Any]:
        """Apply a transform to (H, W, C) and (H, W), under a seed that torch's generator draws."""
        seed = int(torch.randint(2**31, ()))
        # One generator for all parts: `set_random_seed` would give each the same draws.
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        found = transform(image=image, mask=label, **more)
        return found["image"], np.ascontiguousarray(found["mask"])

    def _refuse_needs(self, name: str, needed: str) -> None:
        raise OptionError(
            f"{self.where}: {name} needs {needed}; segacc has only images and labels. Choose a "
            "transform of images and masks."
        )

    def _try_out(self, part: Any, facts: Facts) -> None:
        """Apply a part to a sample, whatever its probability.

        Raises:
            OptionError: see the class.
        """
        name = type(part).__name__
        if needed := sorted(set(getattr(part, "targets_as_params", ())) - GIVEN):
            self._refuse_needs(name, ", ".join(needed))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            image, label = self._tried(part, facts)
        self._check(name, image, label, facts)
        allowed = {*classes_of_trial(facts), getattr(part, "fill_mask", None)}
        new = sorted(set(np.unique(label).tolist()) - allowed)
        if new or name in HOLES:
            raise OptionError(
                f"{self.where}: {name} puts the values {new or [0]} into a label that did not "
                f"have them, and not {facts.ignore_index}, which is ignored. Choose another "
                "transform."
            )

    def _tried(self, part: Any, facts: Facts) -> tuple[Any, Any]:
        """Return image and label of the first size that the part accepts."""
        complaint: Exception | None = None
        for size in TRIALS:
            image = np.random.default_rng(0).integers(0, 256, (*size, facts.num_channels), np.uint8)
            known = classes_of_trial(facts)
            label = np.array(known, np.uint8)[np.indices(size).sum(0) // 16 % len(known)]
            try:
                return self._apply(part, image, label, force_apply=True)
            except KeyError as error:  # it asks for what it was not given
                self._refuse_needs(type(part).__name__, str(error.args[0]))
            except Exception as error:  # whatever it raises for an image that does not suit it
                complaint = complaint or error
        shape = f"({TRIALS[0][0]}, {TRIALS[0][1]}, {facts.num_channels})"
        raise OptionError(
            f"{self.where}: {type(part).__name__} fails for an image {shape} uint8 and its label: "
            f"{reason(complaint)}."
        ) from complaint

    def _check(self, name: str, image: Any, label: Any, facts: Facts) -> None:
        """Refuse what a part returned if it is no image and label.

        Raises:
            OptionError: it has another type, dtype, size or number of channels.
        """
        kinds = [str(getattr(one, "dtype", type(one).__name__)) for one in (image, label)]
        channels = image.shape[2] if image.ndim == 3 else 1
        fits = image.shape[:2] == label.shape and channels == facts.num_channels
        if kinds != ["uint8"] * 2 or not fits:
            raise OptionError(
                f"{self.where}: {name} returns an image {tuple(image.shape)} {kinds[0]} and a "
                f"label {tuple(label.shape)} {kinds[1]}; expected uint8 of one height and width, "
                f"with {facts.num_channels} channels. segacc itself normalizes images and makes "
                "tensors."
            )


def named(options: Options, facts: Facts) -> Any:
    """Create a transform by its name; areas from outside are ignored in the label.

    Albumentations' `fill_mask` is 0 unless it is given, which is a class.

    Raises:
        OptionError: there is none, or it is not for images.
    """
    name, known = options.transform, transform_classes()
    if name not in known:
        near = difflib.get_close_matches(name, list(known), 2)
        meant = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
        raise OptionError(f'--aug albumentations: there is no transform "{name}". {meant}')
    arguments = inspect.signature(known[name]).parameters
    given = dict(options.kwargs)
    if "fill_mask" in arguments and arguments["fill_mask"].default == 0:
        given.setdefault("fill_mask", facts.ignore_index)
    try:
        return known[name](**given)
    except Exception as error:
        raise OptionError(
            f"--aug albumentations: {name} cannot be created: {reason(error)}. Its arguments, "
            f"given as kwargs={{name: value}}, are {', '.join(arguments)}."
        ) from error


def transform_classes() -> dict[str, Any]:
    """Return the classes of Albumentations' transforms by name."""
    bases = (A.BasicTransform, A.DualTransform, A.ImageOnlyTransform, A.Transform3D)
    found = {name: one for name, one in sorted(vars(A).items()) if inspect.isclass(one)}
    return {
        name: one
        for name, one in found.items()
        if issubclass(one, A.BasicTransform) and one not in bases
    }


def loaded(file: Path, facts: Facts) -> Any:
    """Read the file of a transform; areas from outside are ignored in the label.

    The file does not tell whether a `fill_mask` of 0 was given or is the default; it becomes 255.

    Raises:
        OptionError: it is missing, or Albumentations cannot read it.
    """
    # It also saves arguments that it does not take back; the others are refused below.
    warnings.filterwarnings("ignore", "Argument", UserWarning)
    kind: Any = "yaml" if file.suffix in (".yaml", ".yml") else "json"
    try:
        transform = A.load(file, data_format=kind)
    except Exception as error:
        raise OptionError(
            f"--aug albumentations_file: {file} cannot be read as {kind}: {reason(error)}. Write "
            "the file with albumentations.save(transform, FILE), in version 2."
        ) from error
    for part in parts(transform):
        if strange := set(part.invalid_args) - set(part.get_transform_init_args_names()):
            raise OptionError(
                f"--aug albumentations_file: {file}: {type(part).__name__} has no argument "
                f"{', '.join(sorted(strange))}. Remove it, or save the file again."
            )
        if getattr(part, "fill_mask", None) == 0:
            part.fill_mask = facts.ignore_index
    return transform


def classes_of_trial(facts: Facts) -> list[int]:
    """Return the values of a trial's label: without class 0, which is what a transform may fill."""
    return [*range(min(1, facts.num_classes - 1), facts.num_classes), facts.ignore_index]


def parts(transform: Any) -> Iterator[Any]:
    """Return the transforms inside a Compose, OneOf, ..., or the transform itself."""
    if isinstance(transform, A.BasicTransform):
        yield transform
        return
    for one in transform.transforms:
        yield from parts(one)


def reason(error: Exception | None) -> str:
    """Return an error in one line, cut; of pydantic's, what is wrong with which argument."""
    if found := getattr(getattr(error, "__cause__", None), "errors", None):
        return "; ".join(": ".join((*map(str, one["loc"][:1]), one["msg"])) for one in found())
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text[:300]}"


def pixels_of(image: Tensor) -> Any:
    """Return a copy (H, W, C) of an image (C, H, W)."""
    return image.permute(1, 2, 0).numpy().copy(order="C")


def tensor_of(image: Any) -> Tensor:
    """Return (C, H, W) of (H, W, C), or of (H, W) with one channel."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).view(*image.shape[:2], -1)
    return pixels.permute(2, 0, 1).contiguous()
