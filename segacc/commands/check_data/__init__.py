"""`segacc check-data`: what is in a data set, what would stop a run, and what to paste."""
