"""What is printed: consoles and progress, and the tables of scores."""
