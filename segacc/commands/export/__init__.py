"""`segacc export` and `segacc benchmark`."""
