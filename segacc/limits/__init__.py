"""What ends a run or skips a step: time, patience, numbers that are not finite."""
