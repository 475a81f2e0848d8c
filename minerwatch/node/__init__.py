"""Sources on one node: the kernel's interfaces, GPU drivers, files of container engines."""
