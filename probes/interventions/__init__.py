"""Head ablations, one file each; found by the registry `INTERVENTIONS`."""
