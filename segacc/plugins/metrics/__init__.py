"""Built-in metrics, one hook module per family."""
