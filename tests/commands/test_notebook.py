"""The progress display in a notebook: a real kernel, and what it sends to the page."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from cli_tools import environment

pytest_plugins = ["cli_fixtures"]

FIT = """
import segacc
run = segacc.fit(
    dataset="folder:root={data}", output_dir="run", arch="segformer:variant=tiny", weights="none",
    crop_size=48, batch_size=2, num_workers=0, max_steps=30, log_every=10, eval_every=15,
)
run
"""
EVALUATE = """
found = segacc.evaluate(run.folder / "best", dataset="folder:root={data}", num_workers=0)
print(found)
"""


@pytest.fixture
def kernel(tmp_path: Path) -> Any:
    """A client of a running kernel in the folder `tmp_path`."""
    jupyter = pytest.importorskip("jupyter_client.manager")  # of ipykernel, in the extra `dev`
    manager, client = jupyter.start_new_kernel(
        cwd=str(tmp_path), env={**os.environ, **environment()}
    )
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run(kernel: Any, code: str) -> list[tuple[str, dict[str, Any]]]:
    """Run a cell; return the messages that reach the page, with their type."""
    found: list[tuple[str, dict[str, Any]]] = []
    reply = kernel.execute_interactive(
        code,
        timeout=300,
        output_hook=lambda message: found.append((message["msg_type"], message["content"])),
    )
    assert reply["content"]["status"] == "ok", found[-1]
    return found


def text(messages: list[tuple[str, dict[str, Any]]], stream: str) -> str:
    """Join what a cell wrote to a stream."""
    sent = (content for kind, content in messages if kind == "stream")
    return "".join(content["text"] for content in sent if content["name"] == stream)


@pytest.mark.slow
@pytest.mark.launch
def test_a_bar_below_the_cell_is_updated_in_place(kernel: Any, data: Path) -> None:
    sent = run(kernel, FIT.format(data=data))
    shown = [content for kind, content in sent if kind == "display_data"]
    updates = [content for kind, content in sent if kind == "update_display_data"]
    assert len(shown) == 1 and len(updates) >= 2
    ids = {content["transient"]["display_id"] for content in (*shown, *updates)}
    assert len(ids) == 1
    assert "step 0/30" in shown[0]["data"]["text/plain"]
    last = updates[-1]["data"]
    assert re.search(r"step 30/30 +━+ .* elapsed +eta 0:00", last["text/plain"])
    assert "loss " in last["text/plain"] and "mean_iou " in last["text/plain"]
    assert last["text/html"].startswith("<pre ") and "step 30/30" in last["text/html"]
    out = text(sent, "stdout")
    assert "evaluation at step 15: 3 images in " in out and "finished at step 30/30" in out
    assert "\x1b" not in out and "step 10/30" in out, "a line for each tenth of the run"
    assert "for Jupyter support" not in text(sent, "stderr"), "rich's warning without ipywidgets"
    [result] = [content["data"] for kind, content in sent if kind == "execute_result"]
    assert re.match(r"TrainingResult\(folder=.*reason='finished'", result["text/plain"])

    sent = run(kernel, EVALUATE.format(data=data))
    assert " on validation: 3 images, protocol whole" in text(sent, "stdout")
    assert text(sent, "stderr") == ""
    bars = [one["data"]["text/plain"] for kind, one in sent if kind.endswith("display_data")]
    assert bars and "scoring" in bars[-1] and "3/3" in bars[-1]
