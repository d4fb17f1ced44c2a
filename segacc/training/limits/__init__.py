"""What ends a run or skips a step: time, patience, signals, numbers that are not finite."""
