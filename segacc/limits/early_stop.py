"""`--early-stop`: the run ends when a score has not become better for some evaluations."""

from collections.abc import Mapping, Sequence
from typing import Any

from segacc.checkpoint import Progress
from segacc.contracts import MetricState
from segacc.evaluation.scores import Scores
from segacc.evaluation.scoring import ScoreKey, Scoring
from segacc.hookspecs import Chosen
from segacc.limits.patience import EarlyStopOptions
from segacc.plan import Plan


class EarlyStop(ScoreKey):
    """Counts the evaluations without a better score; the count is in each checkpoint."""

    def __init__(
        self,
        by: str,
        options: EarlyStopOptions,
        chosen: Sequence[Chosen],
        empty: Mapping[str, MetricState],
        where: str = "--early-stop",
    ) -> None:
        """Check that the metrics give such a score.

        Raises:
            OptionError: they do not.
        """
        super().__init__(by, chosen, empty, where)
        self.options = options

    def note(self, scores: Scores, progress: Progress) -> None:
        """Take over the scores of the present step; a nan is never better."""
        value, was = self.value(scores), self._state(progress)
        if self.better(value, was["best"], self.options.min_delta):
            was = {"by": self.by, "best": value, "step": progress.step, "since": 0}
        else:
            was["since"] += 1
        progress.early_stop = was

    def reason(self, progress: Progress) -> str:
        """Say why the run ends; nothing while it does not."""
        was = self._state(progress)
        if was["since"] < self.options.patience:
            return ""
        best = f" than {was['best']:.4f} of step {was['step']}" if was["step"] else ""
        return (
            f"early stop: {self.by} has not been {'lower' if self.lower else 'higher'}{best} for "
            f"{was['since']} evaluations"
        )

    def _state(self, progress: Progress) -> dict[str, Any]:
        """Return the count; it starts anew for another score."""
        was = progress.early_stop
        fresh = {"by": self.by, "best": None, "step": 0, "since": 0}
        return dict(was) if was.get("by") == self.by else fresh


def build_early_stop(plan: Plan, scoring: Scoring) -> EarlyStop | None:
    """Build what ends the run when a score does not become better, where that was asked for."""
    if plan.early_stop is None:
        return None
    where = plan.settings.where("early_stop")
    return EarlyStop(*plan.early_stop, plan.metric, scoring.metrics(), where)
