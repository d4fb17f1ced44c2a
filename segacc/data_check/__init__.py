"""`segacc check-data`: a data set is read, judged, told and drawn; each file is one of these."""
