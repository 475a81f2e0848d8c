"""The ``proxy`` subresource of a pod, as an API server serves it: GET, over TLS, unverified."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from http.client import HTTPException, HTTPSConnection

PATH = re.compile(
    r"/api/v1/namespaces/(?P<namespace>[^/]+)/pods/https:(?P<pod>[^/:]+):(?P<port>\d+)/proxy(?P<path>/.*)"
)
_OWN = frozenset(("authorization", "host", "connection", "accept-encoding"))
"""Headers that are not passed on: the first authenticates at the API server alone."""


def fetched(address: str, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Status and body of what a pod answers; raises OSError."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = HTTPSConnection(address, timeout=10, context=context)
    try:
        passed = {name: value for name, value in headers.items() if name not in _OWN}
        connection.request("GET", path, headers=passed)
        response = connection.getresponse()
        return response.status, response.read()
    except HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()
