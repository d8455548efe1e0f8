"""How models learn: the loop, and what the methods' rounds share."""
