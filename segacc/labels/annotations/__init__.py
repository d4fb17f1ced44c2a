"""Annotation files of labelling tools: shapes with class names, read to labels and written."""
