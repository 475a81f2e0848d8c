"""Every figure that the docs quote."""
