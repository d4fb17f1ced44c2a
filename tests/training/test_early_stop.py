"""--early-stop and the default of --best-by in real runs; the rules are tested in test_best.py."""

from pathlib import Path

import pytest
import yaml

from cli_tools import Warm, assert_succeeded, metrics

pytest_plugins = ["cli_fixtures"]

FLAGS = (
    *("--arch", "segformer:variant=tiny", "--weights", "none", "--aug", "flip", "--lr", "1e-12"),
    *("--crop-size", "48x64", "--batch-size", "2", "--num-workers", "0", "--num-pictures", "0"),
    *("--max-steps", "8", "--eval-every", "1"),
)
"""A learning rate at which no score ever changes."""


@pytest.mark.slow
def test_a_run_that_stops_early_says_so_again_and_goes_on_with_more_patience(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    asked = (*FLAGS, "--dataset", f"folder:root={data}", "--output-dir", "run")
    done = assert_succeeded(warm(*asked, "--early-stop", "mean_iou:patience=2", cwd=tmp_path))
    why = "early stop: mean_iou has not been higher than "
    assert [row["step"] for row in metrics(tmp_path / "run", "eval")] == [1, 2, 3]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(why))
    assert " at step 1 for 2 evaluations at step 3/8 after " in line
    assert (tmp_path / "run" / "last" / "model.safetensors").is_file()

    again = assert_succeeded(warm("--resume", "run", cwd=tmp_path))
    assert again.stdout == (
        f"{tmp_path}/run: this run was stopped early at step 3; nothing is done. To continue it, "
        "give --early-stop mean_iou:patience=N, N > 2.\n"
    )
    further = ("--resume", "run", "--early-stop")
    more = assert_succeeded(warm(*further, "mean_iou:patience=4", cwd=tmp_path))
    assert " for 4 evaluations at step 5/8" in more.stdout
    last = assert_succeeded(warm(*further, "none", cwd=tmp_path))
    assert "finished at step 8/8" in last.stdout
    wrong = warm(*asked[:-1], "other", "--early-stop", "miou", cwd=tmp_path)
    assert wrong.stderr.startswith("segacc: --early-stop miou: no such score. Known: mean_iou, ")


def test_a_run_without_mean_iou_is_judged_by_the_first_score_it_has(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    asked = (*FLAGS, "--dataset", f"folder:root={data}", "--output-dir", "run", "--metric", "dice")
    assert_succeeded(warm(*asked, cwd=tmp_path))
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert yaml.safe_load(text)["best_by"] == "mean_dice"
    assert "# chosen: the first score of dice" in text
    rows = metrics(tmp_path / "run", "eval")
    assert [row["best"] for row in rows] == [True] + 7 * [False] and rows[0]["mean_dice"] > 0

    (tmp_path / "judge.yaml").write_text("best_by: mean_iou\nmetric: [dice]\n")
    wrong = warm(*asked[:-4], "--config", "judge.yaml", cwd=tmp_path)
    assert wrong.stderr.startswith("segacc: judge.yaml: best_by mean_iou: no such score. Known: ")


@pytest.mark.slow
def test_plateau_reduces_the_learning_rate_and_a_resumed_run_goes_on_counting(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    asked = (*FLAGS, "--dataset", f"folder:root={data}", "--log-every", 1, "--warmup-steps", 0)
    falls = ("--schedule", "plateau:patience=2,gamma=0.5,floor=0.2", "--save-every", 4)
    assert_succeeded(warm(*asked, *falls, "--output-dir", "run", cwd=tmp_path))
    rates = [row["lr"] for row in metrics(tmp_path / "run", "train")]
    # The first score is the best for ever; after each two more the rate falls, and not below 0.2.
    assert rates == pytest.approx([1e-12] * 3 + [5e-13] * 2 + [2.5e-13] * 2 + [2e-13])
    begin = tmp_path / "run" / "checkpoints" / "step-00000004"
    assert_succeeded(warm("--resume", begin, cwd=tmp_path))
    assert [row["lr"] for row in metrics(tmp_path / "run", "train")] == rates
