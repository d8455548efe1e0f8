"""Heads on frozen features: features in, descriptors (and, once trained, a detection map) out."""
