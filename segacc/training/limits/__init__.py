"""Time limit, early stopping, signals, and steps that are skipped as they are not finite."""
