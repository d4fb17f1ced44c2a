"""The settings of the commands, how they are written, and where their values come from."""
