"""The operator's YAML as a typed tree."""
