"""Measures training: losses over all processes, images per second, the wait for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from segacc.events import StepDone
from segacc.run import Run


class Meter:
    """Collects between two logged steps; nothing is moved from the device on other steps."""

    def __init__(self, run: Run) -> None:
        """Start the clock."""
        self.run = run
        self._reset()
        self.last = time.perf_counter()

    def _reset(self) -> None:
        self.losses: list[Tensor] = []
        self.steps = 0
        self.seconds = self.waited = 0.0

    def restart(self) -> None:
        """Leave out the time since the last step (evaluation, saving)."""
        self.last = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def step_done(self, losses: Tensor, grad_norm: Tensor | None, valid: Tensor) -> StepDone:
        """Make the event of a step; each `log_every` steps with the numbers since the last one.

        Args:
            losses: (L,) float, this process's share of each loss term.
            grad_norm: scalar, before clipping.
            valid: scalar, pixels of the effective batch that are not ignored.
        """
        run, step = self.run, self.run.progress.step
        self.steps += 1
        if not run.skipped:
            self.losses.append(losses)
        logged = step % run.config.log_every == 0 or step == run.max_steps
        mean = self._mean(losses) if logged else []
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        self.seconds += seconds
        event = StepDone(
            step=step,
            epoch=run.epoch(),
            lr=run.optimizer.param_groups[0]["lr"],
            seconds=seconds,
            logged=logged,
            **self._numbers(mean, grad_norm, valid) if logged else {},  # type: ignore[arg-type]
        )
        if logged:
            self._reset()
        return event

    def _mean(self, losses: Tensor) -> list[float]:
        """Mean of each term over the steps that were taken; nan where none was."""
        mean = torch.stack(self.losses or [losses * torch.nan]).mean(0)
        return cast("list[float]", self.run.accelerator.reduce(mean, "sum").tolist())

    def _numbers(
        self, mean: list[float], grad_norm: Tensor | None, valid: Tensor
    ) -> dict[str, object]:
        return {
            "loss": sum(mean),
            "losses": dict(zip(self.run.losses, mean, strict=True)),
            "grad_norm": float("nan") if grad_norm is None else float(grad_norm),
            "images_per_second": self.steps * self.run.total_batch_size / max(self.seconds, 1e-9),
            "data_wait": self.waited / max(self.seconds, 1e-9),
            "valid_pixels": int(valid),
        }
