"""Detectors: one rule per file that turns observations into scores per head."""
