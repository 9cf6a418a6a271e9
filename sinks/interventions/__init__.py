"""Interventions on sinks, one file each; found by the registry `INTERVENTIONS`."""
