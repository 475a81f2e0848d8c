"""Finds crypto-miners on Kubernetes nodes and says why it thinks so."""

from __future__ import annotations

__version__ = "0.1.0"
