"""The API server and the clusters of ``tests/kube``."""

from __future__ import annotations

from tests.kube.conftest import any_cluster, api, cluster, kubeconfig

__all__ = ["any_cluster", "api", "cluster", "kubeconfig"]
