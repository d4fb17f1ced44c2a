"""The built-in losses: pixel-wise, region and boundary losses."""
