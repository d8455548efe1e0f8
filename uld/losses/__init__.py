"""Losses, a file a paper; all take and return tensors and know nothing of files or methods."""
