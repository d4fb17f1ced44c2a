"""`segacc evaluate` and `segacc compare`."""
