"""Generated files: the configuration page, the values schema, manifests. See ``make generate``."""
