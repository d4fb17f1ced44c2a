"""All that a training run holds: planned, built, fed, limited, saved."""
