"""A socket that answers as an agent does, from a recorded snapshot: to test the client alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

SNAPSHOT = Path(__file__).parent / "fixtures" / "clusters" / "three-nodes" / "node-1.json"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_snapshot = self.path.startswith("/snapshot")
        body = SNAPSHOT.read_bytes() if is_snapshot else b"unknown"
        self.send_response(200 if is_snapshot else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "client"

    def log_request(self, *_: object) -> None:
        pass


@contextmanager
def stub_agent(path: Path) -> Iterator[Path]:
    """Serve the snapshot on the Unix socket at ``path``."""
    server = ThreadingUnixStreamServer(str(path), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield path
    finally:
        server.shutdown()
        server.server_close()
