"""Bans by minerwatch, for BinderHub: load it by load_subconfig.

MINERWATCH_BANS is the folder where minerwatch's ConfigMap is mounted. BinderHub reads it when it
starts.
"""

import json
import os
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
        if isinstance(each, dict) and each.get("until_unix_s", 0) > time.time():
            yield from each.get("values", {}).items()


c = get_config()  # noqa: F821 - of traitlets
for _setting, _value in _values():
    _provider = _setting.partition(".")[0]
    if _setting == "ban_networks":
        c.BinderHub.ban_networks.update({_value: "banned by minerwatch"})
    elif _provider in _PROVIDERS:
        c[_provider].banned_specs.append(_value)
