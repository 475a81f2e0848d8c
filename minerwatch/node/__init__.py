"""What the kernel says: one file a source, each usable alone."""
