"""`segacc predict`."""
