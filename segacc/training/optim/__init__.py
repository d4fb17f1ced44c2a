"""Optimizers, schedules, parameter groups, freezing and the moving average of the weights."""
