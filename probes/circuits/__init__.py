"""Which heads, MLPs and features carry a task: discovery by several methods, and how far to trust it."""
