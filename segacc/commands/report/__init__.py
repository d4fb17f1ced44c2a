"""`segacc report`: one HTML file that shows runs."""
