"""Models whose heads are known because their weights were set by hand, not trained."""
