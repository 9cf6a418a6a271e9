"""The exam: detectors graded on models whose heads were planted."""
