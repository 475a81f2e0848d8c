"""Owners as labels of metrics."""

from __future__ import annotations

from msgspec import structs

from minerwatch.agent.publisher import owner_labels
from minerwatch.api.types import OwnerStatus
from minerwatch.report.metrics import OWNER_LABELS
from tests.report.samples import MINER

OWNERS = (
    OwnerStatus("a", "victim", "user", claimed=True),
    OwnerStatus("b", "ada", "user"),
    OwnerStatus("c", "https://x:ghp_0123456789abcdefghijABCDEFGHIJ012345@h/r", "build"),
    OwnerStatus("d", "192.0.2.7", "client", claimed=True),
    OwnerStatus("e", "lab:1", "image"),
)
STATUS = structs.replace(MINER, owners=OWNERS)


def test_labels_have_no_secret_and_name_people_only_where_asked_to() -> None:
    shown = owner_labels(STATUS, OWNER_LABELS[:3])
    assert set(shown) == {"repository", "image"}
    assert "ghp_" not in shown["repository"]
    assert shown["image"] == "lab:1"


def test_a_claim_is_marked_and_gives_way_to_what_is_certain() -> None:
    shown = owner_labels(STATUS, OWNER_LABELS)
    assert (shown["user"], shown["client"]) == ("ada", "192.0.2.7 (claimed)")
    assert owner_labels(structs.replace(MINER, owners=()), OWNER_LABELS) == {}
