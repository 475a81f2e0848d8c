"""A real JupyterHub on loopback, with its proxy, for tests/culling/test_hub.py.

It comes from a virtual environment of its own: MINERWATCH_TEST_HUB is its folder.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from tests.waiting import until

HERE = Path(__file__).parent
SUBCONFIG = HERE.parents[1] / "deploy" / "hub" / "minerwatch_hub.py"
HOW = (
    "needs JupyterHub: python3 -m venv V; V/bin/pip install jupyterhub binderhub;"
    " npm install --prefix V configurable-http-proxy; then set MINERWATCH_TEST_HUB=V"
)


def programs() -> tuple[str, str] | None:
    """JupyterHub and its proxy; None: they are not here."""
    folder = os.environ.get("MINERWATCH_TEST_HUB", "")
    path = f"{folder}/bin:{folder}/node_modules/.bin" if folder else None
    found = [shutil.which(name, path=path) for name in ("jupyterhub", "configurable-http-proxy")]
    return (found[0], found[1]) if found[0] and found[1] else None


@dataclass
class JupyterHub:
    """A hub that runs."""

    url: str  # of its pages
    api: str
    bans: Path  # the folder where the ConfigMap is mounted

    def token(self, service: str) -> str:
        return f"token-of-{service}-0123456789abcdef"

    def call(self, method: str, path: str, service: str = "admin") -> Any:
        request = urllib.request.Request(
            self.api + path,
            method=method,
            data=b"{}" if method == "POST" else None,
            headers={"Authorization": f"token {self.token(service)}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = answer.read()
        return msgspec.json.decode(body) if body else None

    def start(self, user: str, server: str = "") -> float:
        """Start a server; return when it was started."""
        name = quote(user, safe="")
        if not any(each["name"] == user for each in self.call("GET", "/users")):
            self.call("POST", f"/users/{name}")
        path = f"/users/{name}/servers/{quote(server, safe='')}" if server else (
            f"/users/{name}/server"
        )  # fmt: skip
        if not self.server(user, server).get("ready"):
            self.call("POST", path)
        until(lambda: self.server(user, server).get("ready"))
        return time.time()

    def server(self, user: str, server: str = "") -> dict[str, Any]:
        name = quote(user, safe="")
        found: dict[str, Any] = self.call("GET", f"/users/{name}")["servers"]
        return dict(found.get(server, {}))

    def page(self, user: str, path: str) -> str:
        """A page as ``user`` sees it, who logs in first."""
        jar = CookieJar()
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        form = browser.open(f"{self.url}/hub/login", timeout=30).read().decode()
        match = re.search(r'name="_xsrf"\s+value="([^"]+)"', form)
        fields = {"username": user, "password": "x", "_xsrf": match[1] if match else ""}
        browser.open(f"{self.url}/hub/login", urlencode(fields).encode(), timeout=30).read()
        text: str = browser.open(f"{self.url}{path}", timeout=30).read().decode()
        return text


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports: list[int] = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


@contextmanager
def running(folder: Path) -> Iterator[JupyterHub]:
    """A hub in ``folder``, until the end of the block."""
    found = programs()
    assert found is not None
    ports = _free_ports(3)
    bans = folder / "bans"
    bans.mkdir(parents=True)
    environment = {
        **os.environ,
        "HUB_FOLDER": str(folder),
        "HUB_PORTS": ",".join(map(str, ports)),
        "HUB_PROXY": found[1],
        "HUB_SUBCONFIG": str(SUBCONFIG),
        "HUB_SERVER": f"{sys.executable},{HERE / 'hub_server.py'}",
        "MINERWATCH_BANS": str(bans),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [found[0], "-f", str(HERE / "jupyterhub_config.py")],
            cwd=folder, env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    hub = JupyterHub(f"http://127.0.0.1:{ports[1]}", f"http://127.0.0.1:{ports[0]}/hub/api", bans)
    try:
        until(lambda: process.poll() is not None or _answers(hub))
        assert process.poll() is None, (folder / "log").read_text()
        yield hub
    finally:
        process.terminate()
        process.wait(60)


def _answers(hub: JupyterHub) -> bool:
    try:
        hub.call("GET", "/")
    except OSError:
        return False
    return True
