"""Formats: one file per format in which other programs keep what they know about heads."""
