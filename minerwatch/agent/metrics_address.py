"""The address of metrics and health.

In a cluster every pod can reach an agent's address, and metrics name all tenants' flagged pods. So
except on loopback the address speaks TLS there, and serves metrics only to clients that the cluster
authorizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from minerwatch.config.schema import Config
from minerwatch.config.values import host_and_port
from minerwatch.report.address_listener import address_listener
from minerwatch.report.http_server import Authorize, Listener, Routes
from minerwatch.report.tls import TlsEndpoint

if TYPE_CHECKING:
    from minerwatch.kube.client import Cluster


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """A listener, and how it is reached."""

    listener: Listener
    address: str
    scheme: str  # http, https


def open_metrics_address(
    config: Config, cluster: Cluster | None, routes: Routes, on_error: Callable[[Exception], None]
) -> MetricsAddress:
    """Listen as configured. Raises ListenError."""
    host, port = host_and_port(config.listen)
    settings, authorize = config.tls, None
    if cluster is not None and config.authorize_metrics and not _is_loopback(host):
        authorize = _reviewer(cluster, on_error)
        if not settings.certificate:
            from minerwatch.report.self_signed import self_signed_tls

            settings = self_signed_tls()
    tls = TlsEndpoint(settings) if settings.certificate else None
    listener, address = address_listener(
        host, port, routes, on_error=on_error, tls=tls, authorize=authorize
    )
    return MetricsAddress(listener, address, "https" if tls is not None else "http")


def _reviewer(cluster: Cluster, on_error: Callable[[Exception], None]) -> Authorize:
    from minerwatch.kube.token_review import TokenReviewer

    return TokenReviewer(cluster, on_error)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
