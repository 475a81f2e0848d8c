"""Verification of API servers' certificates: chain and host name, as kubectl does it.

From Python 3.13 on, `ssl` and urllib3 also demand what RFC 5280 asks of an issuer (OpenSSL's
``X509_V_FLAG_X509_STRICT``): a key usage in the authority's certificate, an authority key
identifier in the server's. Many clusters' certificates have none, EKS's and those of
``openssl req -x509`` among them, and Go, in which kubectl is written, demands none.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context

if TYPE_CHECKING:
    from kubernetes.client import Configuration


def verify_as_kubectl(manager: PoolManager) -> None:
    """Let all connections that ``manager`` opens from now on verify certificates in this way."""
    pools: dict[str, Any] = {**manager.pool_classes_by_scheme}
    usual: type[HTTPSConnectionPool] = pools["https"]  # through a SOCKS proxy it is another
    connection = type("Connection", (_VerifyingConnection, usual.ConnectionCls), {})
    pools["https"] = type("ConnectionPool", (usual,), {"ConnectionCls": connection})
    manager.pool_classes_by_scheme = pools


def tls_context(configuration: Configuration) -> ssl.SSLContext:
    """Return the context for one connection that is not urllib3's; raises OSError."""
    context = _context(ssl.CERT_REQUIRED if configuration.verify_ssl else ssl.CERT_NONE)
    authorities = configuration.ssl_ca_cert, getattr(configuration, "ca_cert_data", None)
    if any(authorities):
        context.load_verify_locations(authorities[0], cadata=authorities[1])
    else:
        context.load_default_certs()
    if configuration.assert_hostname is False:
        context.check_hostname = False
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


class _VerifyingConnection(HTTPSConnection):
    """Makes a context of its own: threads may not share one that each connection changes."""

    def connect(self) -> None:
        """Connect and verify; raises urllib3's errors."""
        self.ssl_context = _context(self.cert_reqs)
        if not (self.ca_certs or self.ca_cert_dir or self.ca_cert_data):
            self.ssl_context.load_default_certs()
        super().connect()


def _context(cert_reqs: Any) -> ssl.SSLContext:
    context = create_urllib3_context(cert_reqs=cert_reqs)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority need not be a root
    return context
