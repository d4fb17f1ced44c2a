"""What an optimizer step does: optimizers, parameter groups, schedule, freezing, EMA."""
