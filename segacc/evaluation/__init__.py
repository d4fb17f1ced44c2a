"""Inference and evaluation: protocols, sliding windows, prediction and scores."""
