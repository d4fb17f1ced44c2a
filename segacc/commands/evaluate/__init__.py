"""The commands `segacc evaluate` and `segacc compare`."""
