"""``ban`` and ``release --ban``, as typed on a node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from msgspec import structs

from minerwatch.api import orders
from minerwatch.api.types import BanAnswer, BanStatus, LiftAnswer, OwnerStatus
from minerwatch.report.http_server import Answer, Posts
from minerwatch.view.ban_text import FORMATS
from tests.cli.test_cull import Typed, answering_agent, api, far, put_agent
from tests.kube.api_server import ApiServer
from tests.kube.exec_endpoint import Printing
from tests.report.samples import MINER

__all__ = ["api", "far"]

OWNERS = (
    OwnerStatus("environment BINDER_REPO_URL", "https://github.com/a/b", "repository"),
    OwnerStatus("environment BINDER_CLIENT_IP", "8.8.8.8", "client"),
)
STATUS = structs.replace(MINER, owners=OWNERS)
TARGET = f"{MINER.namespace}/{MINER.pod}"
USER = BanStatus(
    "user", "ada", {"blocked_users": "ada"}, "it mines", "e1", "n1", "eve",
    "2026-11-30T00:00:00Z", "2026-12-07T00:00:00Z",
)  # fmt: skip
ADDRESS = BanStatus(
    "address", "8.8.8.8", {"ban_networks": "8.8.8.8/32"}, "it mines", "e1", "n1", "eve",
    "2026-11-30T00:00:00Z", "2026-12-07T00:00:00Z", objections=("others use it",),
)  # fmt: skip


class Agent:
    """The answers of an agent, and the orders that it got."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, object]]] = []
        self.answers = {
            orders.BAN: orders.encode(BanAnswer("n1", "binder", "p", False, (), (USER,))),
            orders.LIFT: orders.encode(LiftAnswer("n1", (USER,), False)),
            orders.BANS: orders.encode((USER, ADDRESS)),
        }

    def posts(self) -> Posts:
        def answering(path: str) -> Callable[[bytes], Answer]:
            def answer(body: bytes) -> Answer:
                self.got.append((path, json.loads(body)))
                return Answer(self.answers[path])

            return answer

        return {path: answering(path) for path in self.answers}


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def typed(agent: Agent, tmp_path: Path) -> Iterator[Typed]:
    with answering_agent(tmp_path, [STATUS], agent.posts()) as run:
        yield run


def test_a_ban_is_a_dry_run_unless_it_is_to_be_applied(agent: Agent, typed: Typed) -> None:
    assert typed("ban", TARGET).exit_code == 0
    assert typed("ban", TARGET, "--apply", "--kind", "address", "--for", "30d").exit_code == 0
    (_, first), (_, second) = agent.got
    assert (first["dry_run"], first["kinds"]) == (True, ["user", "repository"])
    assert (second["dry_run"], second["kinds"]) == (False, ["address"])
    assert second["duration_s"] == 30 * 86400
    assert second["by"]
    assert second["unflagged"] == {"https://github.com/a/b": None, "8.8.8.8": None}, (
        "one node knows nothing of the others"
    )


def test_what_is_banned_is_said(typed: Typed) -> None:
    result = typed("ban", TARGET, "--apply")
    assert result.stdout == (
        "Banned user ada, until 2026-12-07T00:00:00Z\n"
        "    blocked_users: ada\n"
        "A hub reads bans when it starts: reload it (docs/hubs.md).\n"
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (BanAnswer("n1", "b", "p", False, ("Not confirmed.",), ()), "  - Not confirmed."),
        (BanAnswer("n1", "b", "p", False, (), (ADDRESS,)), "  - others use it"),
        (BanAnswer("n1", "b", "p", False, (), ()), "has no name that can be banned"),
        (BanAnswer("n1", "b", "p", False, (), (USER,), "full"), "could not be kept: full"),
    ],
)
def test_what_is_not_banned_is_a_failure_with_a_reason(
    agent: Agent, typed: Typed, answer: BanAnswer, said: str
) -> None:
    agent.answers[orders.BAN] = orders.encode(answer)
    result = typed("ban", TARGET, "--apply")
    assert result.exit_code == 1
    assert said in result.stdout


@pytest.mark.parametrize(
    "arguments", [[], ["x", "--list"], ["--list", "--apply"], ["x", "--apply", "--dry-run"]]
)
def test_wrong_usage(typed: Typed, arguments: list[str]) -> None:
    assert typed("ban", *arguments).exit_code == 2


@pytest.mark.parametrize("form", FORMATS)
def test_all_bans_in_every_format(typed: Typed, form: str) -> None:
    result = typed("ban", "--list", "--format", form)
    assert result.exit_code == 0
    if form == "network-policy":
        assert yaml.safe_load(result.stdout)["kind"] == "NetworkPolicy"
    elif form not in ("binderhub", "ipset"):
        assert "ada" in result.stdout


def test_a_name_is_released(agent: Agent, typed: Typed) -> None:
    result = typed("release", "--ban", "ada")
    assert result.stdout.startswith("1 ban lifted.")
    as_json = typed("release", "--ban", "ada", "-o", "json").stdout
    assert json.loads(as_json)["lifted"]
    assert as_json.endswith("\n")
    assert agent.got[0][1]["name"] == "ada"
    agent.answers[orders.LIFT] = orders.encode(LiftAnswer("n1", (), False))
    assert typed("release", "--ban", "nobody").exit_code == 1
    assert typed("release", "--ban", "ada", "--all").exit_code == 2


def test_hostile_names_are_escaped(agent: Agent, typed: Typed) -> None:
    hostile = structs.replace(USER, name="\x1b[2J\nx", values={"blocked_users": "\x1b[2J\nx"})
    agent.answers[orders.BANS] = orders.encode((hostile,))
    for form in FORMATS:
        shown = typed("ban", "--list", "--format", form).stdout
        assert "\x1b" not in shown
        assert "\nx" not in shown


@pytest.mark.parametrize("lie", [b'{"unflagged": {"8.8.8.8": -5}}', b"{", b'{"unflagged": []}'])
def test_a_node_that_lies_hides_no_users_of_an_address(
    api: ApiServer, far: Typed, lie: bytes
) -> None:
    """Root on one node must not have an address banned that others use, nor prevent all bans."""
    seen = b'{"unflagged": {"8.8.8.8": 5, "https://github.com/a/b": 0}}'
    put_agent(api, MINER.node, STATUS)
    for node, answer in (("node-8", seen), ("node-9", lie)):
        put_agent(api, node)
        api.runs("minerwatch", f"minerwatch-{node}", Printing(answer))
    far("ban", TARGET, "-A", "--apply", "--kind", "address")
    (ordered,) = [each.command[3] for each in api.requests if each.command[2:3] == (orders.BAN,)]
    assert json.loads(ordered)["unflagged"]["8.8.8.8"] is None
