"""From what a model says of an image to the places of landmarks."""
