"""The settings of outlines, which `segacc convert` and `segacc predict --format` share."""

from typing import Any

from segacc.commands.terminal.console import Where
from segacc.errors import OptionError


def refuse_unused_outlines(config: Any, where: Where) -> None:
    """Refuse settings of outlines that have no effect with the format.

    Args:
        config: a dataclass with `format` (None or `folder`: no outlines), `shapes`, `tolerance` and
            `image_url`.
        where: names a setting in errors.

    Raises:
        OptionError: one of them is given.
    """
    keys = ("shapes", "tolerance", "image_url")
    given = [key for key in keys if getattr(config, key) != getattr(type(config), key)]
    if given and config.format in (None, "folder"):
        raise OptionError(
            f"{where(given[0])}: only has an effect on outlines; add --format with "
            "coco, yolo, labelme or another format of a tool, or leave it out."
        )
    if config.format == "yolo" and config.shapes == "masks":
        raise OptionError(
            f"{where('shapes')} masks: the label files of YOLO have polygons only. Leave it out; "
            "--tolerance 0 gives exact polygons."
        )
    if config.shapes == "masks" and "tolerance" in given:
        raise OptionError(
            f"{where('tolerance')}: masks are always exact. Leave it out, or choose other --shapes."
        )
    if "image_url" in given and config.format != "labelstudio":
        raise OptionError(
            f"{where('image_url')}: only has an effect with --format labelstudio, whose "
            "files have URLs of images. Leave it out."
        )
