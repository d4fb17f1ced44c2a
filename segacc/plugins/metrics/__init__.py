"""Built-in metrics, one file per family; each is a hook module of its own."""
