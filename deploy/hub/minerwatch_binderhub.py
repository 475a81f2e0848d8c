"""Bans by minerwatch, for BinderHub: load it by load_subconfig.

MINERWATCH_BANS is the folder where minerwatch's ConfigMap is mounted. BinderHub reads it when it
starts.
"""

import json
import os
import time
from pathlib import Path

_PROVIDERS = (*("GitHubRepoProvider", "GistRepoProvider", "GitLabRepoProvider", "GitRepoProvider"),)
_file = Path(os.environ.get("MINERWATCH_BANS", "/etc/minerwatch/bans")) / "bans.json"
try:
    _bans = json.loads(_file.read_text(encoding="utf-8"))
except (OSError, ValueError):
    _bans = []
_now = time.time()
c = get_config()  # noqa: F821 - of traitlets
for _ban in _bans:
    if _ban["until_unix_s"] <= _now:
        continue
    for _setting, _value in _ban["values"].items():
        _provider = _setting.partition(".")[0]
        if _setting == "ban_networks":
            c.BinderHub.ban_networks.update({_value: f"minerwatch {_ban['evidence']}"})
        elif _provider in _PROVIDERS:
            c[_provider].banned_specs.append(_value)
