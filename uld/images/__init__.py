"""Image files to pixels, crops and changes of them."""
