"""Model folders: best/ and last/ with their model cards, and their upload to the Hub."""
