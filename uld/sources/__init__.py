"""What models say of views of images: what methods cluster and search."""
