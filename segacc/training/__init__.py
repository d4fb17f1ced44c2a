"""Training: plan, build, feed, limit, track, save and resume a run."""
