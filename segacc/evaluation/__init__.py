"""`segacc evaluate` and `segacc compare`: scores with intervals, files, proofs, comparisons."""
