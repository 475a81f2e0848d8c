"""A real JupyterHub for tests/culling/test_hub.py: local processes, any user, two tokens."""

import os
from pathlib import Path

c = get_config()  # type: ignore[name-defined]  # noqa: F821
folder = Path(os.environ["HUB_FOLDER"])
hub, proxy, api = os.environ["HUB_PORTS"].split(",")
c.JupyterHub.bind_url = f"http://127.0.0.1:{proxy}"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{hub}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{api}"
c.ConfigurableHTTPProxy.command = [os.environ["HUB_PROXY"]]
c.JupyterHub.db_url = f"sqlite:///{folder}/hub.sqlite"
c.JupyterHub.cookie_secret_file = str(folder / "cookie")
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = str(folder / "home-{username}")
c.JupyterHub.allow_named_servers = True
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {"admin"}
c.Spawner.cmd = os.environ["HUB_SERVER"].split(",")
c.JupyterHub.services = [
    {"name": name, "api_token": f"token-of-{name}-0123456789abcdef"}
    for name in ("minerwatch", "reader", "admin")
]
c.JupyterHub.load_roles = [
    {"name": "stop", "scopes": ["read:servers", "delete:servers"], "services": ["minerwatch"]},
    {"name": "read", "scopes": ["read:servers"], "services": ["reader"]},
    {"name": "all", "scopes": ["admin:users", "admin:servers"], "services": ["admin"]},
]
load_subconfig(os.environ["HUB_SUBCONFIG"])  # type: ignore[name-defined]  # noqa: F821
