"""Features of a frozen diffusion network: the model, what is read out of it, and where that is kept."""
