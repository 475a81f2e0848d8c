"""Settings of a JupyterHub: how its servers are stopped, and where bans are kept."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from minerwatch.config.values import Duration
from minerwatch.kinds import BanKind

_NAMESPACED = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
Count = Annotated[int, msgspec.Meta(ge=1)]


class Hub(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The JupyterHub that stops its users' servers; see hubs.md."""

    url: str = ""  # of its API, such as http://hub.jhub:8081/hub/api; "": no hub
    token_file: str = ""  # file: a token for read:servers and delete:servers only
    ca: str = ""  # PEM file to verify the hub by; "": the system's authorities

    def __post_init__(self) -> None:
        """Raises ValueError for a hub that could not be asked."""
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{self.url} is no http or https address")
        if bool(self.url) is not bool(self.token_file):
            raise ValueError("set both url and token_file, or neither")


class Bans(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Names that may not come back, kept for the hub and the network; see hubs.md."""

    config_map: str = ""  # NAMESPACE/NAME of bans and notices to stopped users; "": none
    after_cull: bool = False  # also ban without an order, after an enforced action
    kinds: tuple[BanKind, ...] = (BanKind.USER,)  # banned without an order; others by hand
    duration: Duration = Duration(604800)  # of a ban
    per_day: Count = 10  # new bans in any day at most, in the whole cluster

    def __post_init__(self) -> None:
        """Raises ValueError for bans that cannot be kept."""
        if self.config_map and not _NAMESPACED.fullmatch(self.config_map):
            raise ValueError(f"config_map: {self.config_map!r} is not NAMESPACE/NAME")
        if self.after_cull and not self.config_map:
            raise ValueError("after_cull needs config_map, where bans are kept")
        for each in self.kinds:
            if each is not BanKind.USER:
                raise ValueError(f"kinds: {each} is only banned by hand (minerwatch ban)")
