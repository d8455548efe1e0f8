"""Running experiments on many machines."""
