"""`make audit`: it never says that all is well when nobody answered."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deploy.image.audit import verdict
from tests.deploy.services import DEPLOY

_LOCK = DEPLOY / "requirements.lock"
_KNOWN = {
    "id": "GHSA-0000-0000-0000",
    "aliases": ["CVE-2026-0000"],
    "summary": "one of a test",
    "affected": [
        {
            "package": {"name": "urllib3", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
    ],
}


class Osv(ThreadingHTTPServer):
    """Answers as the Open Source Vulnerabilities service does."""

    def __init__(self, known: dict[str, dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.known = known
        self.asked: set[str] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/query"


class _Answer(BaseHTTPRequestHandler):
    server: Osv

    def do_POST(self) -> None:
        name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
        self.server.asked.add(name)
        known = self.server.known.get(name)
        body = json.dumps({"vulns": [known]} if known else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[Osv]:
    with Osv({"urllib3": _KNOWN}) as service:
        yield service
        service.shutdown()


def _audit(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.image.audit", "--osv-url", url, str(_LOCK)],
        cwd=DEPLOY.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_what_is_known_is_told(osv: Osv) -> None:
    done = _audit(osv.url)
    assert done.returncode == 1, done.stderr
    found, total = done.stdout.splitlines()
    assert found.startswith("urllib3 ")
    assert found.endswith(": CVE-2026-0000 GHSA-0000-0000-0000, fixed in 99.0")
    assert total == f"known: 1, in {len(osv.asked)} packages"
    assert {"kubernetes", "yara-x", "textual"} <= osv.asked


def test_packages_that_were_not_asked_about_are_not_taken_for_good_ones() -> None:
    """As when a mirror answers that it knows none of them, which pip-audit passes over."""
    told = [{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}]
    assert verdict("URL", json.dumps({"dependencies": told[:1]}), "")[0] == 0
    assert verdict("URL", json.dumps({"dependencies": told}), "") == (
        2,
        ["cannot audit: URL knows nothing of b"],
    )
    assert verdict("URL", json.dumps({"dependencies": []}), "")[0] == 2


def test_without_a_network_it_says_so_in_one_line() -> None:
    done = _audit("http://127.0.0.1:9/v1/query")  # discard: nobody listens
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("cannot audit: no answer from http://127.0.0.1:9/v1/query")
