"""The images of a report: tiles of the panels in a run folder, as data URIs."""

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from segacc.commands.report.run import RunData
from segacc.data.pictures import HEADINGS, read_panels

PHOTO = {"quality": 82, "method": 4}
CLASSES = {"lossless": True, "quality": 60, "method": 4}
"""Settings of WebP: for photographs, and for pictures of few colours."""


def images_of(run: RunData, most: int) -> dict[str, Any]:
    """Return the worst images of a run's evaluation, or the newest examples of its validation.

    Args:
        run: the run.
        most: the maximum number of images.

    Returns:
        `title`, the `note` on what would add or change them, and `images`: each with id, caption,
        width, height, and a data URI by HEADINGS.
    """
    worst = sorted((run.folder / "best/evaluation/pictures/worst").glob("*.png"))
    newest = sorted((run.folder / "pictures").glob("step-*.png"))[-1:]
    evaluated = run.evaluation is not None
    images = _read(worst if evaluated else newest, most)
    command = run.evaluate()
    if evaluated and images:
        title, note = f"The {len(images)} worst images, the worst one first", ""
    elif evaluated:
        title, note = (
            "No images",
            f"The evaluation has no images that can be shown; `{command}` writes them.",
        )
    elif images:
        title = f"Examples of the last validation, {newest[0].stem.replace('-', ' ')}"
        note = f"`{command}` finds the worst images of the whole split."
    else:
        title, note = "No images", f"`{command}` finds the worst images of the validation split."
    return {"title": title, "note": "" if most == 0 else note, "images": images}


def _read(panels: list[Path], most: int) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = []
    for path in panels:
        if len(images) >= most:
            break
        for panel in read_panels(path):
            size = panel.tiles["image"].size
            about = {"id": panel.id, "caption": panel.caption, "width": size[0], "height": size[1]}
            uris = {
                name: data_uri(panel.tiles[name], photo=name in HEADINGS[::3]) for name in HEADINGS
            }
            images.append({**about, **uris})
    return images[:most]


def data_uri(picture: Image.Image, *, photo: bool) -> str:
    """Return a picture as a data URI of WebP; one that is no photograph keeps its exact colours."""
    content = io.BytesIO()
    picture.save(content, "WEBP", **(PHOTO if photo else CLASSES))
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
