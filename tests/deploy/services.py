"""Real Prometheus and Alertmanager on ports and folders of their own; a webhook that listens."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import waiting

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "minerwatch.rules.yml"
GUIDE = Path(__file__).parents[2] / "docs" / "sre-guide.md"

AGENT_POD = {
    "instance": "node-1",
    "namespace": "minerwatch",
    "pod": "minerwatch-x7k2p",
    "container": "agent",
}
"""What Prometheus knows of the agent's own pod; never to be taken for the flagged one."""


def program(name: str, package: str) -> str:
    """The path of ``name``; skips the test where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing: apt install {package}")
    return found


def until(holds: Callable[[], Any], what: Callable[[], str] = str) -> Any:
    """The first answer of ``holds`` that is true, waited for; ``what`` tells what was seen last."""
    return waiting.until(holds, what, every_s=0.1)


class Service:
    """A server in the background, with its output in a file."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.log = folder / f"{Path(command[0]).name}.log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def runs(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Prometheus(Service):
    """Scrapes ``agent`` each second as the docs say, and evaluates the shipped rules as often."""

    def __init__(self, folder: Path, agent: str, alertmanager: str | None, **scrape: Any) -> None:
        config: dict[str, Any] = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {
                    "job_name": "minerwatch",
                    "honor_labels": True,
                    "static_configs": [{"targets": [agent], "labels": AGENT_POD}],
                    **scrape,
                }
            ],
        }
        if alertmanager:
            config["alerting"] = {
                "alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]
            }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.address = _free_address()
        super().__init__(
            folder,
            [
                program("prometheus", "prometheus"),
                "--config.file=prometheus.yml",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={self.address}",
            ],
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant vector; raises ValueError for what is no expression."""
        asked = urllib.parse.urlencode({"query": expression})
        try:
            answer = _json(f"http://{self.address}/api/v1/query?{asked}")
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.BAD_REQUEST:
                raise
            with error:
                raise ValueError(f"{expression}: {error.read().decode()}") from None
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def has(self, expression: str) -> bool:
        """Return True if there is any series yet; also False while the server starts."""
        try:
            return bool(self.query(expression))
        except urllib.error.HTTPError as error:
            error.close()
        except urllib.error.URLError:
            assert self.runs(), self.said()
        return False

    def alerts(self) -> list[dict[str, Any]]:
        """All alerts, pending or firing."""
        found: list[dict[str, Any]] = _json(f"http://{self.address}/api/v1/alerts")["data"][
            "alerts"
        ]
        return found

    def rule_errors(self) -> list[str]:
        groups = _json(f"http://{self.address}/api/v1/rules")["data"]["groups"]
        return [
            rule["lastError"] for group in groups for rule in group["rules"] if "lastError" in rule
        ]


class Alertmanager(Service):
    """Runs ``config`` from ``folder``."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
        self.address = _free_address()
        super().__init__(
            folder,
            [
                program("prometheus-alertmanager", "prometheus-alertmanager"),
                "--config.file=alertmanager.yml",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address={self.address}",
                "--cluster.listen-address=",
            ],
        )


class Webhook:
    """Takes JSON by POST on any path, and keeps it."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, Any]]] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append((self.path, json.loads(body)))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def messages(self, path: str) -> list[dict[str, Any]]:
        return [message for at, message in list(self.received) if at == path]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def anchors(markdown: str) -> list[str]:
    """The anchors that GitHub gives to the headings of a page, in order."""
    found: list[str] = []
    fenced = False
    for line in markdown.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        level, _, title = line.partition(" ")
        if not fenced and level and not level.strip("#"):
            plain = "".join(c for c in title.strip().lower() if c.isalnum() or c in " -_")
            found.append(plain.replace(" ", "-"))
    return found


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)
