"""What each `segacc X` does and prints."""
