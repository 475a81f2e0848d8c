"""Bans and notices by minerwatch, for JupyterHub: load it by load_subconfig.

MINERWATCH_BANS is the folder where minerwatch's ConfigMap is mounted. Bans are read when the hub
starts; notices at each page, so a user sees at once why a server was stopped.
"""

import json
import os
import time
from pathlib import Path

_FOLDER = Path(os.environ.get("MINERWATCH_BANS", "/etc/minerwatch/bans"))
_NOTICE_S = 30 * 86400


def _read(name):
    """Return the records of a file; none while it is missing or damaged."""
    try:
        found = json.loads((_FOLDER / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _number(record, key):
    """Return a number of a record; 0: none."""
    found = record.get(key)
    return found if isinstance(found, int | float) else 0


def _notice(user):
    """Return the latest notice for a user; "": none. JupyterHub calls it for each page."""
    since, text = time.time() - _NOTICE_S, ""
    for each in _read("notices.json"):
        if each.get("user") == getattr(user, "name", None) and _number(each, "at_unix_s") > since:
            since, text = _number(each, "at_unix_s"), str(each.get("text", ""))
    return text


_now = time.time()
_values = [
    each["values"]
    for each in _read("bans.json")
    if isinstance(each.get("values"), dict) and _number(each, "until_unix_s") > _now
]
_blocked = {each["blocked_users"] for each in _values if isinstance(each.get("blocked_users"), str)}
c = get_config()  # noqa: F821 - of traitlets
if _blocked:
    c.Authenticator.blocked_users.update(_blocked)
c.JupyterHub.template_vars.update({"minerwatch_notice": _notice})
c.JupyterHub.template_paths.insert(0, str(Path(__file__).with_name("templates")))
