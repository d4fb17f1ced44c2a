"""`segacc check-data`: scan a data set, report problems and suggest options."""
