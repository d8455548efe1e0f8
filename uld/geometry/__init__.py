"""Coordinates, frames, warps and heat maps."""
