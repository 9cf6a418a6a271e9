"""Interventions on heads, one file each; found by the registry `INTERVENTIONS`."""
