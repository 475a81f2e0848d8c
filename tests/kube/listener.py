"""An HTTP server in threads that ends with all its connections, for the tests' API servers."""

from __future__ import annotations

import ssl
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Listener(ThreadingHTTPServer):
    """Listens on this machine alone, from now until it is stopped."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, port: int, handler: type[BaseHTTPRequestHandler], certificate: Path | None = None
    ) -> None:
        self._connections: set[Any] = set()
        super().__init__(("127.0.0.1", port), handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that goes away

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()
        for connection in [*self._connections]:
            with suppress(OSError):
                connection.shutdown(2)


class QuietHandler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.1, and to nobody else."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
