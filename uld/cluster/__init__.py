"""Clustering of descriptors and what follows from it: exemplars, matches, quality."""
