"""Sparse autoencoders of what flows through a model: where they sit, how they learn, what they found."""
