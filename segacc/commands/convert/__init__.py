"""`segacc convert`."""
