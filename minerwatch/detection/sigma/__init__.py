"""Sigma files to rules."""
