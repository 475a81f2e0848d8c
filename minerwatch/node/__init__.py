"""Sources: one file for each interface of the kernel."""
