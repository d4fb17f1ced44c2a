"""What a run leaves behind: metrics.jsonl, pictures, environment.json, and trackers."""
