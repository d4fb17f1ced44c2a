"""`segacc demo`: a page on this machine on which pictures are segmented, made with gradio."""

import base64
import html
import importlib.util
import io
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segacc.commands.terminal.console import (
    console_of,
    load_plugins,
    loading,
    quiet_libraries,
)
from segacc.errors import OptionError, SegaccError, is_main, is_memory_full
from segacc.evaluation.model_folder import Model, find_model, run_settings
from segacc.settings.commands import DemoConfig
from segacc.settings.sources import Layer, config_of, flag

if TYPE_CHECKING:
    import numpy as np

    from segacc.evaluation.segmenter import Segmenter
    from segacc.hookspecs import Sample

HOST = "127.0.0.1"
"""The page is served to this machine only."""
EXAMPLES = 4
"""Number of images of the run's validation split that are offered."""
SHOWN = 1400
"""Maximum width and height of a shown picture in pixels; the network sees the whole image."""
PACKAGE = "gradio"
STYLE = """
:root { --classes: .55 }
.seg-picture { position: relative; line-height: 0; border-radius: 8px; overflow: hidden }
.seg-picture img { width: 100%; height: auto; display: block }
.seg-picture img + img { position: absolute; inset: 0; height: 100%; opacity: var(--classes);
  image-rendering: pixelated }
.seg-legend, .seg-legend tr { width: 100%; border: 0 !important; border-collapse: collapse }
.seg-legend { margin: 14px 0 6px; font-size: 15px }
.seg-legend td { padding: 5px 0 !important; border: 0 !important;
  border-bottom: 1px solid #8883 !important;
  overflow-wrap: anywhere }
.seg-legend td:last-child { text-align: right; font-variant-numeric: tabular-nums }
.seg-legend span { display: inline-block; width: 14px; height: 14px; border-radius: 4px;
  margin-right: 10px; vertical-align: -2px; box-shadow: inset 0 0 0 1px #8888 }
.seg-note { opacity: .7; font-size: 14px; margin: 8px 0 }
.seg-error { border-left: 4px solid #c92a2a; padding: 10px 14px; overflow-wrap: anywhere }
"""
SLIDE = "(value) => { document.documentElement.style.setProperty('--classes', value / 100) }"
"""Changes the opacity in the browser, without asking the network again."""


def demo_command(given: str, layer: Layer) -> int:
    """Serve the page until Ctrl+C.

    Args:
        given: the model; see `find_model`.
        layer: the given flags.

    Raises:
        SegaccError: a flag is invalid, gradio is not installed, the port is in use, or there is no
            model.
    """
    config = config_of(DemoConfig, layer)
    if not is_main():
        return 0
    need_gradio()
    refuse_used(config.port)
    model = find_model(given, "MODEL")
    console = console_of(stderr=True)
    with tempfile.TemporaryDirectory(prefix="segacc-demo-") as folder:
        with loading(console, "torch, the weights and gradio"):
            quiet_libraries()
            from segacc.evaluation.segmenter import Segmenter

            page = build_page(Segmenter.from_pretrained(model.folder), model, Path(folder))
        try:
            _, url, _ = page.launch(**served(config))
            sys.stdout.write(f"{model.name} at {url} on this machine only; Ctrl+C ends it\n")
            sys.stdout.flush()
            while True:  # the system may hand the signal to a thread of the server
                time.sleep(0.5)
        except KeyboardInterrupt:
            sys.stdout.write("\nsegacc demo: stopped\n")
            sys.stdout.flush()
    os._exit(0)  # a connection that a browser keeps open could make the server's threads wait


def need_gradio() -> None:
    """Refuse to start without gradio, before torch is loaded.

    Raises:
        OptionError: it is not installed.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise OptionError(
            f"segacc demo: the package {PACKAGE} is not installed. Install it with `pip install "
            f"{PACKAGE}`."
        )


def refuse_used(port: int) -> None:
    """Refuse a port on which another program listens.

    Raises:
        OptionError: it is in use, or not allowed.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OptionError(
                f"{flag('port')}: port {port} of {HOST} cannot be used: {reason}. Give another "
                f"one, as --port {port + 1 if port < 65535 else 7861}."
            ) from None


def served(config: DemoConfig) -> dict[str, Any]:
    """Return how gradio serves the page: to this machine, and without its own extras."""
    return {
        **{"server_name": HOST, "server_port": config.port, "inbrowser": config.open},
        **{"share": False, "quiet": True, "prevent_thread_lock": True, "ssr_mode": False},
        **{"mcp_server": False, "enable_monitoring": False, "pwa": False, "footer_links": []},
        **{"theme": theme(), "css": STYLE},
    }


def theme() -> Any:
    """Return gradio's plain theme with the fonts of the system: no font is fetched."""
    gradio = importlib.import_module(PACKAGE)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gradio.themes.Base(primary_hue="blue", **fonts)


def build_page(segmenter: "Segmenter", model: Model, folder: Path) -> Any:
    """Build the page.

    Args:
        segmenter: the network.
        model: the model that it is.
        folder: where uploaded pictures and the examples are stored.

    Returns:
        gradio's `Blocks`.
    """
    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}
    gradio = importlib.import_module(PACKAGE)
    examples = example_files(model, folder / "examples")
    with gradio.Blocks(title=f"segacc demo: {model.name}", analytics_enabled=False) as page:
        gradio.Markdown(f"## {escaped(segmenter.arch)}\n{escaped(model.name)}")
        with gradio.Row():
            with gradio.Column():
                kinds = {"type": "filepath", "image_mode": None, "sources": ["upload", "clipboard"]}
                picture = gradio.Image(label="Picture", height=420, **kinds)
                picture.preprocess = stored_path
                if examples:
                    gradio.Examples([[str(path)] for path in examples], picture, label="Examples")
            with gradio.Column():
                told = gradio.HTML(waiting(), label="Prediction", elem_id="prediction")
                slider = gradio.Slider(0, 100, 55, step=1, label="Opacity of the classes in %")
        slider.change(None, [slider], None, js=SLIDE)
        picture.change(lambda path: shown(segmenter, path), [picture], [told], api_name=False)
    return page


def stored_path(payload: Any) -> str | None:
    """Return the path of an uploaded file, which segacc reads itself; in place of gradio's."""
    return None if payload is None else payload.path


def example_files(model: Model, folder: Path) -> list[Path]:
    """Write the first images of the run's validation split to a folder; none without a run."""
    try:
        run = run_settings(model, "MODEL")
        samples = [] if run is None else validation_samples(run)
    except SegaccError as error:
        sys.stderr.write(f"no example images: {error}\n")
        return []
    folder.mkdir()
    files = []
    for number, sample in enumerate(samples):
        content = sample.image if isinstance(sample.image, bytes) else sample.image.read_bytes()
        plain = re.sub(r"[^\w.-]+", "_", sample.id)[-60:]
        files.append(folder / f"{number}-{plain}{ending_of(content)}")
        files[-1].write_bytes(content)
    return files


def validation_samples(run: Any) -> "Sequence[Sample]":
    """Return the first samples of the split that a run was scored on."""
    from segacc.data.splits import data_splits, pick_split
    from segacc.registry import choose

    dataset = choose(load_plugins(), "dataset", run.dataset, "MODEL")
    names = {"train": run.train_split, "scored": run.eval_split}
    splits, _ = data_splits(dataset, run.val_fraction, run.seed, **names)
    split = pick_split(splits, run.eval_split, "MODEL")
    return list(islice(split, EXAMPLES)) if isinstance(split, Sequence) else []


def ending_of(content: bytes) -> str:
    """Return the file ending of an encoded image by its first bytes."""
    if content.startswith(b"\x89PNG"):
        return ".png"
    return ".tiff" if content[:4] in (b"II*\0", b"MM\0*") else ".jpg"


@dataclass(frozen=True)
class Segmented:
    """A segmented picture."""

    pixels: "np.ndarray[Any, Any]"
    """(H, W, 3) uint8."""
    classes: "np.ndarray[Any, Any]"
    """(H, W) uint8."""
    seconds: float
    """Time that the network took."""


def segmented(segmenter: "Segmenter", path: Path) -> Segmented:
    """Read a picture and segment it.

    Raises:
        SegaccError: it cannot be read, or the network does not support its size.
    """
    from segacc.data.decode import read_image
    from segacc.data.pictures import visible

    image = read_image(path, path.name, segmenter.network.num_channels, segmenter.reading)
    started = time.perf_counter()
    classes = segmenter.classes_of(image)
    return Segmented(visible(image), classes, time.perf_counter() - started)


def shown(segmenter: "Segmenter", path: str | None) -> str:
    """Return what the page shows for a picture: the classes over it and a legend, or an error."""
    if path is None:
        return waiting()
    try:
        found = segmented(segmenter, Path(path))
    except Exception as error:
        if not isinstance(error, SegaccError) and not is_memory_full(error):
            raise
        return f'<p class="seg-error" role="alert">{escaped(error)}</p>'
    height, width = found.classes.shape
    told = f"{1000 * found.seconds:,.0f} ms on {segmenter.device}, {width} x {height} pixels"
    return f"{layers(found, segmenter)}{legend(found, segmenter)}<p class='seg-note'>{told}</p>"


def waiting() -> str:
    """Return what the page shows before a picture is chosen."""
    return '<p class="seg-note">Drop a picture to see its classes.</p>'


def layers(found: Segmented, segmenter: "Segmenter") -> str:
    """Return the picture with its classes over it, which the slider makes transparent."""
    import numpy as np
    from PIL import Image

    from segacc.contracts import IGNORE
    from segacc.data.pictures import colorize, resized

    pixels, classes = (resized(one, SHOWN, SHOWN) for one in (found.pixels, found.classes))
    if max(found.classes.shape) <= SHOWN:
        pixels, classes = found.pixels, found.classes
    seen = np.where(classes == IGNORE, 0, 255).astype(np.uint8)
    colors = np.dstack([colorize(classes, segmenter.labels.palette), seen])
    photo = uri(Image.fromarray(pixels), "JPEG", quality=90)
    over = uri(Image.fromarray(colors), "PNG")
    return (
        f'<div class="seg-picture"><img src="{photo}" alt="the picture">'
        f'<img src="{over}" alt="the predicted classes"></div>'
    )


def uri(picture: Any, kind: str, **how: Any) -> str:
    """Return a picture as a data URI."""
    content = io.BytesIO()
    picture.save(content, kind, **how)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def legend(found: Segmented, segmenter: "Segmenter") -> str:
    """Return a table of the predicted classes with colour and share, the largest first."""
    import numpy as np

    from segacc.contracts import IGNORE

    labels = segmenter.labels
    classes, counts = np.unique(found.classes, return_counts=True)
    pairs = sorted(zip(classes.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1])
    rows = []
    for k, count in pairs:
        name = "ignored" if k == IGNORE else labels.names[k]
        color = (128, 128, 128) if k == IGNORE else labels.palette[k]
        swatch = f'<span style="background: rgb{tuple(color)}"></span>'
        share = f"{100 * count / found.classes.size:.1f} %"
        rows.append(f"<tr><td>{swatch}{escaped(name)}</td><td>{share}</td></tr>")
    return f'<table class="seg-legend">{"".join(rows)}</table>'


def escaped(text: object) -> str:
    """Return a text as HTML, without characters that cannot be printed."""
    printable = "".join(
        one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in str(text)
    )
    return html.escape(printable)
