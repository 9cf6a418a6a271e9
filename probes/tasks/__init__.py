"""Tasks: one seeded generator of labelled prompts per file."""
