"""Hostile text made fit to print: escaped, shortened, secrets masked."""
