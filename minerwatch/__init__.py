"""Find crypto-miners on Kubernetes nodes, and explain each finding."""

from __future__ import annotations

__version__ = "0.1.0"
