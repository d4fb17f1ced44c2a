"""Every promise of docs/reliability.md and SECURITY.md names a test that is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tests_of_the_promises_exist() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    found = re.findall(r"`([a-z_/]+\.py)`:((?:,?\s*`test_\w+`)+)", text)
    names = [(file, name) for file, some in found for name in re.findall(r"test_\w+", some)]
    assert len(names) == len(re.findall(r"`test_\w+`", text)) > 25
    for file, name in names:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}: {name}"
    for file in re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "SECURITY.md").read_text()):
        assert (ROOT / file).is_file()


def test_the_numbers_are_those_of_the_code() -> None:
    from segacc.contracts import MAX_BYTES, MAX_PIXELS
    from segacc.training.tracking.identity import LOOKED_AT

    text = (ROOT / "docs" / "reliability.md").read_text()
    assert (MAX_BYTES, MAX_PIXELS, LOOKED_AT) == (2**30, 200_000_000, 10_000)
    assert "`max_bytes` (1 GiB) or `max_pixels` (200 million)" in text and "10,000 samples" in text
