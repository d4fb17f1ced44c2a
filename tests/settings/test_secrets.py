"""Passwords and signatures of URLs: used, and written and shown nowhere."""

from pathlib import Path

import pytest

from cli_tools import Warm, assert_succeeded, draw
from data_tools import encode
from segacc.hookspecs import Sample
from segacc.settings.secrets import without_secrets
from stream_tools import serving, write_samples

pytest_plugins = ["cli_fixtures"]

PASSWORD, SIGNATURE = "correct-horse", "f00dcafe1234"
SETTINGS = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--crop-size", 32),
    *("--batch-size", 1, "--num-workers", 0, "--log-every", 1),
)


def written(folder: Path) -> str:
    """Return all that is in the files of a folder."""
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return b"\n".join(files).decode(errors="replace")


@pytest.mark.slow
def test_secrets_of_a_url_are_in_no_file_and_no_line(warm: Warm, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    for split in ("train", "validation"):
        pairs = [draw((len(split), k), (32, 32)) for k in range(3)]
        samples = [
            Sample(encode(image), encode(label), f"{k}") for k, (image, label) in enumerate(pairs)
        ]
        write_samples(served / f"{split}.tar", samples)
    (tmp_path / "classes.txt").write_text("background\ndisc\nbar\n")
    with serving(served) as (address, asked):
        host = address.replace("//", f"//me:{PASSWORD}@")
        secret = f"?X-Amz-Signature={SIGNATURE}"
        urls = f"train={host}/train.tar{secret},validation={host}/validation.tar{secret}"
        data = ("--dataset", f"shards:{urls},names=classes.txt")
        start = (*SETTINGS, *data, "--output-dir", "run", "--max-steps", 2)
        told = [assert_succeeded(warm(*start, cwd=tmp_path))]
        assert any(SIGNATURE in path for path, _ in asked), "the server gets them"

        resumed = warm("--resume", "run", "--max-steps", 4, cwd=tmp_path)
        assert resumed.returncode == 2
        assert "run/config.yaml: dataset: *** stands for a password" in resumed.stderr
        scored = warm("evaluate", "run", cwd=tmp_path)
        assert scored.returncode == 2 and "*** stands for a password" in scored.stderr
        told += [resumed, scored]
        told += [assert_succeeded(warm("--resume", "run", "--max-steps", 4, *data, cwd=tmp_path))]
        told += [assert_succeeded(warm("evaluate", "run", *data, cwd=tmp_path))]
        (served / "validation.tar").unlink()
        missing = warm("evaluate", "run", *data, cwd=tmp_path)
        assert missing.returncode == 2 and "validation.tar" in missing.stderr
    shown = "".join(one.stdout + one.stderr for one in [*told, missing])
    for text in (shown, written(tmp_path / "run")):
        assert "validation.tar" in text
        for hidden in (PASSWORD, SIGNATURE):
            assert hidden not in text


def test_what_counts_as_a_secret() -> None:
    text = "s3://key:word@host/a.tar?x=1&Signature=abc&y=2 and hf_abcdefghijklmnopqrst"
    assert without_secrets(text) == "s3://***@host/a.tar?x=1&Signature=***&y=2 and ***"
    assert without_secrets("user@host:/a https://host/a?size=3") == (
        "user@host:/a https://host/a?size=3"
    )
