"""Bans by minerwatch, for BinderHub: load it by load_subconfig.

MINERWATCH_BANS is the folder where minerwatch's ConfigMap is mounted. BinderHub reads it when it
starts.
"""

import ipaddress
import json
import os
import re
import time
from pathlib import Path

_PROVIDERS = ("GitHubRepoProvider", "GistRepoProvider", "GitLabRepoProvider", "GitRepoProvider")
_file = Path(os.environ.get("MINERWATCH_BANS", "/etc/minerwatch/bans")) / "bans.json"


def _values():
    """Yield setting and value of each ban in force; none while the file is missing or damaged."""
    try:
        bans = json.loads(_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for each in bans if isinstance(bans, list) else ():
        until, values = (
            isinstance(each, dict) and each.get(key) for key in ("until_unix_s", "values")
        )
        if isinstance(until, int | float) and until > time.time() and isinstance(values, dict):
            yield from values.items()


def _is_valid(parse, text):
    try:
        return isinstance(text, str) and bool(parse(text))
    except (TypeError, ValueError, re.error):
        return False


c = get_config()  # noqa: F821 - of traitlets
for _setting, _value in _values():
    _provider = _setting.partition(".")[0]
    if _setting == "ban_networks" and _is_valid(ipaddress.ip_network, _value):
        c.BinderHub.ban_networks.update({_value: "banned by minerwatch"})
    elif _provider in _PROVIDERS and _is_valid(re.compile, _value):
        c[_provider].banned_specs.append(_value)
