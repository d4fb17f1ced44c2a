"""`segacc plugins` and `segacc plugins new`."""
