"""Diffusion features: the backbone, what is read out of it, and the store that keeps it."""
