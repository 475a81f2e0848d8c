"""The screen in its main states, and what each key does."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from rich.cells import cell_len
from textual import events
from textual.drivers.headless_driver import HeadlessDriver
from textual.geometry import Region

from minerwatch.api.types import AgentStatus, ContainerStatus, Unanswered
from minerwatch.cli.top_screen.proposal import Choice, Proposal
from minerwatch.cli.top_screen.table import LongTable
from minerwatch.errors import ClusterError, SnapshotError
from minerwatch.view.explanation import explanation
from minerwatch.view.overview import Coverage
from minerwatch.view.screen.containers import Tree, View
from minerwatch.view.screen.history import key_of
from minerwatch.view.screen.poll import Poll
from tests.cli.top_screen.driving import (
    AGENT,
    ASCII,
    ROUNDS,
    TALKING,
    Driven,
    Recorded,
    Scenario,
    cluster,
    node,
    normal,
    run,
)
from tests.report.samples import HOSTILE, HOSTILE_ONE, MINER, NODE, NOW, SIMULATION, container

Golden = Callable[[str, str], None]


def keys(*pressed: str) -> Scenario:
    async def press(screen: Driven) -> None:
        await screen.press(*pressed)

    return press


STATES: dict[str, tuple[Recorded, tuple[int, int], tuple[str, ...], dict[str, Any]]] = {
    "node-80": (node(rounds=ROUNDS), (80, 24), (), {}),
    "cluster-120": (cluster(ROUNDS), (120, 40), ("down",), {}),
    "cluster-200": (cluster(ROUNDS), (200, 60), ("down", "down"), {}),
    "cluster-by-owner": (cluster(ROUNDS), (120, 30), ("t",), {}),
    "processes-120": (node(rounds=ROUNDS), (120, 30), ("p",), {}),
    "nodes-120": (cluster(ROUNDS), (120, 30), ("n",), {}),
    "container-120": (node(rounds=ROUNDS), (120, 60), ("enter",), {}),
    "ascii-80": (node(rounds=ROUNDS), (80, 24), (), {"terminal": ASCII}),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_pictures_of_the_main_states(golden: Golden, state: str) -> None:
    watched, size, pressed, how = STATES[state]

    async def poll(screen: Driven) -> None:
        await screen.press(*pressed)
        golden(f"screen/{state}.svg", normal(screen.app.export_screenshot(title="minerwatch top")))

    run(watched, poll, size, **how)


# Keys.


def test_selection_and_scroll_stay_while_rows_come_and_go() -> None:
    statuses = tuple(
        structs.replace(
            SIMULATION, container=f"c-{n:02}", cgroup=f"/c/{n:02}", cpu_cores=10.0 - n / 10
        )
        for n in range(60)
    )
    watched = Recorded([Poll(statuses, NOW, agents=(AGENT,))])

    async def scenario(screen: Driven) -> None:
        await screen.press("pagedown", *["down"] * 3)
        chosen, line = screen.selected, screen.line
        for reds in (5, 0, 20):
            worse = tuple(structs.replace(MINER, cgroup=f"/m/{n}") for n in range(reds))
            poll = Poll((*worse, *statuses), NOW)
            watched.rounds = [poll]
            await screen.press("r")
            await screen.until(lambda: screen.shown.poll is poll)  # noqa: B023 - run at once
            assert screen.selected.key == chosen.key
            assert screen.line == line
        await screen.press("home")
        assert screen.selected.status.level == "confirmed"

    run(watched, scenario)


MORE_SORTS = (("H", "hours"), ("L", "limit"), ("N", "name"), ("O", "owner"))


@pytest.mark.parametrize(
    ("key", "sort"),
    [
        ("C", "cpu"),
        ("A", "age"),
        *(pytest.param(*each, marks=pytest.mark.nightly) for each in MORE_SORTS),
    ],
)
def test_shift_and_a_letter_sort_the_second_time_the_other_way_round(key: str, sort: str) -> None:
    async def scenario(screen: Driven) -> None:
        await screen.press(key)
        assert (screen.shown.view.sort, screen.shown.view.is_reversed) == (sort, False)
        first = screen.statuses
        await screen.press(key)
        assert screen.shown.view.is_reversed
        assert screen.statuses != first
        await screen.press("S")
        assert (screen.shown.view.sort, screen.shown.view.is_reversed) == ("score", False)

    run(node(), scenario)


@pytest.mark.nightly
def test_s_asks_by_what_to_sort_and_takes_no_for_an_answer() -> None:
    async def scenario(screen: Driven) -> None:
        await screen.press("s")
        assert "share of the limit" in screen.text
        await screen.press("escape")
        assert screen.shown.view.sort == "score"
        await screen.press("s", "H")
        assert screen.shown.view.sort == "hours"
        assert "CPU-H" not in screen.text or "▼" in screen.text

    run(node(), scenario)


def test_the_filter_follows_each_letter_and_escape_ends_it() -> None:
    async def scenario(screen: Driven) -> None:
        await screen.press("slash", *"lmp")
        assert screen.statuses == [SIMULATION]
        await screen.press("enter", "q")  # enter keeps it; then q is a key again

    async def cleared(screen: Driven) -> None:
        await screen.press("slash", *"nowhere")
        assert "No container here holds “nowhere”." in screen.text
        await screen.press("escape")
        assert screen.shown.view.text == ""
        assert len(screen.statuses) == 7

    run(node(), scenario)
    run(node(), cleared)


@pytest.mark.nightly
def test_keys_that_follow_the_slash_at_once_are_letters() -> None:
    async def scenario(screen: Driven) -> None:
        await screen.pilot.press("slash", "q", "s", "k")
        await screen.settle()
        assert screen.shown.view.text == "qsk"

    run(node(), scenario)


def test_the_tree_and_its_groups() -> None:
    async def scenario(screen: Driven) -> None:
        await screen.press("t")
        assert screen.shown.view.tree is Tree.OWNER
        assert "▾ 5 containers of owner" in screen.text
        await screen.press("left")
        assert "▸ 5 containers of owner" in screen.text
        await screen.press("enter")
        assert "▾ 5 containers of owner" in screen.text
        await screen.press("k")
        await screen.told("A group cannot be acted upon")
        await screen.press("t")
        assert "5 containers in 5 pods of owner" in screen.text
        await screen.press("t")
        assert screen.shown.view.tree.value == ""

    run(cluster(), scenario)


def test_idle_containers_are_shown_when_asked_for() -> None:
    async def scenario(screen: Driven) -> None:
        assert "ssh.service" not in screen.text
        await screen.press("a")
        assert "ssh.service" in screen.text

    run(node(), scenario)


def test_pause_holds_still_and_says_so() -> None:
    watched = node()

    async def scenario(screen: Driven) -> None:
        await screen.press("space")
        assert "PAUSED at 02:30:00Z" in screen.text
        asked = watched.asked
        watched.rounds = [Poll((SIMULATION,), NOW + timedelta(minutes=1))]
        await screen.press("r")
        await screen.told("space goes on")
        assert watched.asked == asked
        await screen.press("down", "C")  # what is there can still be looked at
        assert screen.shown.poll.at == NOW
        await screen.press("space")
        await screen.until(lambda: screen.shown.poll.at > NOW)
        assert "PAUSED" not in screen.text

    run(watched, scenario)


def test_the_page_has_findings_processes_connections_history_and_policy() -> None:
    async def scenario(screen: Driven) -> None:
        await screen.press("enter", "t")
        text = screen.text
        for told in (
            "CONFIRMED, score 95.2 of 100",
            "expected: CommandLine contains '--donate-level'",
            "├─ ./a --donate-level 1",
            "4711 a → 203.0.113.7:3333 for 12m",
            "execution: Executable deleted from a temporary folder began to hold",
            "Off: nothing is done (culling.mode).",
        ):
            assert told in text
        await screen.press("escape")
        assert "LEVEL" in screen.text

    run(node(), scenario, (120, 100))


def test_the_page_follows_what_happens_and_stays_where_it_was_scrolled() -> None:
    watched = node()

    async def scenario(screen: Driven) -> None:
        await screen.press("enter", "pagedown")
        top = screen.page.pager.scroll_y
        assert top > 0
        burning = structs.replace(TALKING, cpu_cores=1.23)
        watched.rounds = [Poll((burning,), NOW + timedelta(seconds=10), agents=(AGENT,))]
        await screen.press("r")
        await screen.until(lambda: screen.page.subject.status == burning)
        assert screen.page.pager.scroll_y == top
        watched.rounds = [Poll((SIMULATION,), NOW + timedelta(seconds=20))]
        await screen.press("r")
        await screen.until(lambda: screen.page.subject.is_gone)
        await screen.press("home")
        assert "It is no longer there." in screen.text

    run(watched, scenario, (120, 20))


def test_help_and_nodes_are_pages_that_q_leaves() -> None:
    async def scenario(screen: Driven) -> None:
        for key, told in (("question_mark", "Keys"), ("n", "2 of 3 nodes answered")):
            await screen.press(key)
            assert told in screen.text
            await screen.press("q")
            assert "LEVEL" in screen.text

    run(cluster(), scenario)


@pytest.mark.nightly
def test_the_help_names_every_key_of_the_table() -> None:
    async def scenario(screen: Driven) -> None:
        bound = {key for key, *_ in screen.app.screen.active_bindings.items()}
        await screen.press("question_mark")
        for key in (*"?/stekqanprSCHLTANOIDMjKgG", "space", "Enter", "Tab", "^p", "^c"):
            assert any(key in line[2:17].split() for line in screen.text.splitlines()), key
        names = {"question_mark": "?", "slash": "/"}
        letters = {names.get(key, key) for key in bound}
        assert set("?/stekqanprSCHLTANOIDMjKgG") <= letters

    run(node(), scenario, (120, 90))


@pytest.mark.nightly
def test_the_palette_finds_every_command_and_themes() -> None:
    async def scenario(screen: Driven) -> None:
        await screen.press("ctrl+p", *"cpu hours", "enter")
        await screen.until(lambda: screen.shown.view.sort == "hours")
        await screen.press("ctrl+p", *"theme")
        await screen.until(lambda: "change the colours" in screen.text)
        await screen.press("escape")
        screen.app.theme = "nord"
        await screen.settle()
        assert MINER.level in screen.text

    run(node(), scenario)


def test_the_footer_names_the_keys_and_is_clicked() -> None:
    async def scenario(screen: Driven) -> None:
        for told in ("Enter why", "? help", "q quit", "n nodes"):
            assert told in screen.footer
        await screen.pilot.click("FooterKey")
        await screen.settle()
        assert "CONFIRMED, score" in screen.text

    run(node(), scenario)


@pytest.mark.nightly
def test_text_that_was_selected_is_copied_else_the_screen_is_left() -> None:
    written: list[str] = []

    async def scenario(screen: Driven) -> None:
        screen.app.copy_to_clipboard = written.append  # type: ignore[assignment, method-assign]
        await screen.press("enter")
        await screen.pilot.mouse_down("#head", offset=(0, 0))
        await screen.pilot.hover("#head", offset=(6, 0))
        await screen.pilot.mouse_up("#head", offset=(6, 0))
        await screen.press("ctrl+c")
        assert written == ["binder/"]
        await screen.told("copied")
        screen.app.screen.clear_selection()
        await screen.pilot.press("ctrl+c")
        await screen.pilot.pause()
        assert not screen.app.is_running

    run(node(), scenario)


def test_q_quits_and_the_source_is_closed() -> None:
    watched = node()

    async def scenario(screen: Driven) -> None:
        await screen.pilot.press("q")
        await screen.pilot.pause()

    run(watched, scenario)
    for _ in range(100):
        if watched.closed:
            break
        asyncio.run(asyncio.sleep(0.05))
    assert watched.closed


# Processes and nodes.


def test_the_tables_are_one_key_away_and_back() -> None:
    async def scenario(screen: Driven) -> None:
        pressed = ("p", "n", "n", "tab", "tab", "shift+tab", "q")
        titles = ("COMMAND", "TROUBLE", "SCORE", "COMMAND", "TROUBLE", "COMMAND", "SCORE")
        for key, title in zip(pressed, titles, strict=True):
            await screen.press(key)
            assert title in screen.text
        await screen.pilot.click("#PROCESSES")
        await screen.settle()
        assert "COMMAND" in screen.text

    run(cluster(), scenario)


def test_a_process_is_followed_to_its_container() -> None:
    async def scenario(screen: Driven) -> None:
        await screen.press("p", "slash", *"docker/9c", "enter")
        assert len(screen.shown.rows) == 1
        assert "pid 4711: 1.98 cores, findings: id" in screen.text
        await screen.press("k")
        await screen.told("culling is off")
        await screen.press("enter")
        assert "LIKELY, score 88" in screen.text
        assert "docker/9c1b44de3f2a" in screen.text

    run(node(), scenario)


def test_processes_that_are_alike_are_unfolded() -> None:
    alike = tuple(
        structs.replace(TALKING.processes[0], pid=pid, command_line="burn", comm="burn")
        for pid in (7, 8, 9)
    )

    async def scenario(screen: Driven) -> None:
        await screen.press("p")
        assert "3 × burn" in screen.text
        assert "3 processes 7, 8, 9" in screen.text
        await screen.press("t")
        assert "3 × burn" not in screen.text
        assert len(screen.shown.rows) == 3

    run(Recorded([Poll((structs.replace(MINER, processes=alike),), NOW)]), scenario)


def test_a_node_is_read_with_all_its_troubles() -> None:
    troubled = structs.replace(AGENT, troubles=tuple(f"trouble number {n}" for n in range(30)))
    watched = Recorded([Poll(NODE, NOW, agents=(troubled,), notes=("a note",))])

    async def scenario(screen: Driven) -> None:
        await screen.press("n", "k", "e")
        await screen.told("There is no container to choose.")
        await screen.press("enter")
        for told in ("trouble number 0", "trouble number 29", "a note", "cores busy"):
            assert told in screen.text
        await screen.press("q", "q")
        assert "SCORE" in screen.text

    run(watched, scenario, (120, 50))


# A page is searched, and its sections are jumped to.


def test_a_page_is_searched() -> None:
    async def scenario(screen: Driven) -> None:
        await screen.press("enter", "slash", *"donate")
        reader = screen.page.pager
        first = reader.scroll_y
        assert first > 0
        await screen.press("enter", "n")
        second = reader.scroll_y
        assert second > first
        await screen.press("N")
        assert reader.scroll_y == first
        await screen.press("slash", *"xyzzy", "enter", "n")
        await screen.told("Nothing here holds “xyzzy”.")
        await screen.press("slash", "escape", "n")
        await screen.told("/ searches.")

    run(node(), scenario, (100, 20))


def test_sections_are_jumped_to() -> None:
    async def scenario(screen: Driven) -> None:
        await screen.press("enter")
        tops = []
        for title in ("CPU        1.98", "Score", "Why: 3 findings", "Processes by CPU"):
            await screen.press("tab")
            tops.append(screen.page.pager.scroll_y)
            assert screen.text.splitlines()[0].startswith(title)
        await screen.press("shift+tab", "shift+tab")
        assert screen.page.pager.scroll_y == tops[1]
        await screen.press("G")
        assert "how to be sure" in screen.text
        await screen.press("g", "j", "j", "K")
        assert screen.page.pager.scroll_y == 1

    run(node(), scenario, (100, 20))


# Copies.


def test_a_copy_goes_to_the_terminal_and_into_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(HeadlessDriver, "write", lambda _driver, data: written.append(data))

    async def scenario(screen: Driven) -> None:
        await screen.press("e", "t")
        assert "copied to the terminal's clipboard (OSC 52)" in screen.text
        await screen.press("e", "s")
        await screen.told("saved: ")

    run(node(), scenario, (200, 40), folder=tmp_path)
    assert any(sequence.startswith("\x1b]52;c;") for sequence in written)
    (text,) = (path.read_text() for path in tmp_path.glob("*.txt"))
    (read,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    assert text == explanation(TALKING, now=NOW, width=100, campaign=_campaign_of(TALKING))
    assert read["pod"] == MINER.pod
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def _campaign_of(status: ContainerStatus) -> Any:
    from minerwatch.view.campaigns import campaigns

    found = campaigns((TALKING, *NODE[1:]))
    return next(
        each for each in found if key_of(status) in [key_of(member) for member in each.members]
    )


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    async def scenario(screen: Driven) -> None:
        for _ in range(20):  # a name has the second in it
            await screen.press("e", "s")
            if screen.has_told("File exists"):
                break
        await screen.told("File exists")

    run(node(), scenario, (200, 40), folder=tmp_path)


# Actions.


class Policy:
    """A proposer that permits, or objects."""

    def __init__(self, *, is_permitted: bool = True) -> None:
        self._is_permitted = is_permitted
        self.done: list[str] = []

    def choices(self, status: ContainerStatus, agent: AgentStatus | None) -> Sequence[Choice]:
        return [("s", "stop", "stop it"), ("e", "evict", "evict it")]

    def propose(self, status: ContainerStatus, action: str) -> Proposal:
        if not self._is_permitted:
            reasons = "The policy does not permit to evict it:\n  - It is too young."
            return Proposal(status, action, reasons, "", "dry-run", is_permitted=False)
        request = "POST /api/v1/namespaces/binder/pods/x/eviction?dryRun=All"
        decision = f"The policy permits to {action} it in a dry run."
        return Proposal(status, action, decision, request, "dry-run", is_permitted=True)

    def carry_out(self, proposal: Proposal) -> str:
        self.done.append(f"{proposal.action} {proposal.confirmation}")
        return "It would have been done;\nthis was a dry run."


def test_an_action_is_done_only_once_the_name_was_typed(golden: Golden) -> None:
    policy = Policy()

    async def scenario(screen: Driven) -> None:
        await screen.press("k")
        assert "nothing is done before you type the name" in screen.text
        await screen.press("e")
        golden("screen/action.svg", normal(screen.app.export_screenshot(title="minerwatch top")))
        await screen.press(*"jupyter", "enter")
        await screen.told("That is not its name: nothing was done.")
        assert not policy.done
        await screen.pilot.press(*["backspace"] * len("jupyter"))
        await screen.press(*(_key(letter) for letter in MINER.pod), "enter")
        assert "this was a dry run" in screen.text
        assert policy.done == [f"evict {MINER.pod}"]
        await screen.press("escape")
        assert "LEVEL" in screen.text

    run(node(), scenario, (100, 24), proposer=policy)


def _key(letter: str) -> str:
    return {"-": "minus"}.get(letter, letter)


def test_what_is_not_permitted_cannot_be_typed_for() -> None:
    policy = Policy(is_permitted=False)

    async def scenario(screen: Driven) -> None:
        await screen.press("k", "e")
        assert "It is too young" in screen.text
        assert "typed" not in screen.text
        await screen.press("enter", "slash", *"young", "enter", "n")
        await screen.press("escape")
        assert "LEVEL" in screen.text

    run(node(), scenario, proposer=policy)
    assert not policy.done


def test_who_decides_for_no_action_does_nothing() -> None:
    policy = Policy()

    async def scenario(screen: Driven) -> None:
        await screen.press("k", "escape")
        assert "LEVEL" in screen.text
        await screen.press("enter", "k", "s", "escape")  # from the page, too
        assert "CONFIRMED" in screen.text

    run(node(), scenario, proposer=policy)
    assert not policy.done


def test_where_culling_is_off_k_says_so() -> None:
    async def scenario(screen: Driven) -> None:
        await screen.press("k")
        await screen.told("culling is off on this node (culling.mode): it only observes")
        await screen.told("set culling.mode to dry-run or enforce")

    run(node(), scenario)


def test_an_agent_that_takes_no_orders_is_no_crash() -> None:
    acting = structs.replace(AGENT, culling="enforce")
    watched = Recorded([Poll((TALKING,), NOW, agents=(acting,))])

    async def scenario(screen: Driven) -> None:
        await screen.press("k", "d")
        await screen.told("it takes no orders")

    run(watched, scenario)


# Hostile and broken.


def test_hostile_names_are_shown_and_never_obeyed() -> None:
    hostile = structs.replace(HOSTILE_ONE, node=HOSTILE[7], namespace=HOSTILE[7], pod=HOSTILE[0])
    watched = Recorded([Poll((hostile, structs.replace(MINER, owner=HOSTILE[7])), NOW)])

    async def scenario(screen: Driven) -> None:
        for pressed in ((), ("enter",), ("pagedown",), ("escape", "t"), ("n",), ("q", "down", "k")):
            await screen.press(*pressed)
            svg = screen.app.export_screenshot()
            assert "\x1b" not in svg
            assert "\u202e" not in svg
            assert all(cell_len(line) <= 80 for line in screen.text.splitlines())
        await screen.press("t", "t", "enter")
        assert "[bold red]" in screen.text  # markup is text
        assert "\\e[2J" in screen.text

    run(watched, scenario, (80, 50))


def test_what_is_pasted_is_not_obeyed_either() -> None:
    async def scenario(screen: Driven) -> None:
        await screen.press("slash")
        screen.app.screen.post_message(events.Paste("x\x1b[2J\x9b31m\u202ey"))
        await screen.settle()
        svg = screen.app.export_screenshot()
        assert not {"\x1b", "\x9b", "\u202e"} & set(svg)
        assert "x[2J31my" in screen.text

    run(node(), scenario, (80, 24))


def test_nothing_is_lost_when_the_agent_goes_away() -> None:
    watched = node()

    async def scenario(screen: Driven) -> None:
        watched.rounds = [SnapshotError("the agent on /run/x did not answer: timed out")]
        await screen.press("r")
        await screen.until(lambda: screen.shown.poll.failure != "")
        assert "did not answer: timed out" in screen.text
        assert MINER.container in screen.text
        assert "02:30:00Z" in screen.text  # it is as old as it says

    run(watched, scenario)


def test_an_error_before_the_first_answer_says_what_to_do() -> None:
    error = ClusterError("context lab: no agent is labelled x in any namespace: install minerwatch")

    async def scenario(screen: Driven) -> None:
        assert "no agent is labelled x" in screen.text
        assert "It is tried again" in screen.text
        await screen.press("down", "enter", "e", "k", "t")
        await screen.told("There is no container to choose.")

    run(Recorded([error]), scenario, (80, 24))


def test_an_error_of_ours_is_one_line_not_a_crash() -> None:
    class Broken(Recorded):
        def polls(self) -> Iterator[Poll]:
            raise ZeroDivisionError("division by zero")

    watched = Broken([ClusterError("")])

    async def scenario(screen: Driven) -> None:
        assert "ZeroDivisionError: division by zero" in screen.text

    run(watched, scenario, (80, 24))


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ((), "No container here."),
        ((container(), container(cgroup="/b")), "2 idle containers are not shown."),
    ],
)
def test_empty_states_say_why_and_what_to_press(
    statuses: tuple[ContainerStatus, ...], told: str
) -> None:
    async def scenario(screen: Driven) -> None:
        assert told in screen.text
        await screen.press("enter")
        assert told in screen.text

    run(Recorded([Poll(statuses, NOW)]), scenario, (80, 24))


@pytest.mark.parametrize(
    ("statuses", "answered", "told"),
    [
        ((), 0, "No container to show: no agent has answered, so nothing is known."),
        ((), 1, "No container to show on the 1 node that answered; nothing is known of 1 other."),
        ((container(),), 1, "Nothing is flagged and nothing is busy on the 1 node that answered"),
    ],
)
def test_no_row_is_no_all_clear_while_nodes_are_missing(
    statuses: tuple[ContainerStatus, ...], answered: int, told: str
) -> None:
    missing = Unanswered("node-1", "minerwatch/agent-1", "no answer within 20 s")
    coverage = Coverage("lab", "", answered, (missing,))

    async def scenario(screen: Driven) -> None:
        assert told in " ".join(screen.text.split())

    run(Recorded([Poll(statuses, NOW, coverage)]), scenario, (110, 24))


def test_before_the_first_answer_it_says_whom_it_asks() -> None:
    watched = Recorded([Poll((), NOW, progress=(0, 1))])

    async def scenario(screen: Driven) -> None:
        assert "waiting for the first answer" in screen.text

    run(watched, scenario, (80, 24))


# Sizes and terminals.


MORE_SIZES = ((200, 60), (40, 10), (20, 5), (300, 100))


@pytest.mark.parametrize(
    "size",
    [
        (80, 24),
        (10, 3),
        *(pytest.param(each, marks=pytest.mark.nightly) for each in MORE_SIZES),
    ],
)
def test_it_fits_any_terminal(size: tuple[int, int]) -> None:
    async def scenario(screen: Driven) -> None:
        for pressed in (
            (),
            ("enter",),
            ("escape", "t"),
            ("question_mark",),
            ("q", "s"),
            ("escape",),
        ):
            await screen.press(*pressed)
            lines = screen.text.splitlines()
            assert len(lines) <= size[1]
            assert all(len(line) <= size[0] for line in lines)

    run(cluster(), scenario, size)


def test_it_follows_a_resize() -> None:
    async def scenario(screen: Driven) -> None:
        await screen.press("down", "down")
        chosen = screen.selected
        for size in ((200, 60), (60, 12), (80, 24)):
            await screen.pilot.resize_terminal(*size)
            await screen.settle()
            assert screen.selected == chosen
            lines = screen.text.splitlines()
            assert len(lines) <= size[1]
            assert max(map(len, lines)) <= size[0]
            assert "CONTAINER" in screen.text
        await screen.press("enter")
        await screen.pilot.resize_terminal(60, 20)
        await screen.settle()
        assert all(len(line) <= 60 for line in screen.text.splitlines())

    run(cluster(), scenario)


@pytest.mark.nightly
def test_a_terminal_without_unicode_gets_ascii() -> None:
    async def scenario(screen: Driven) -> None:
        for pressed in ((), ("enter",), ("escape", "t"), ("question_mark",), ("q", "n")):
            await screen.press(*pressed)
            svg = screen.app.export_screenshot()
            texts = "".join(re.findall(r"<text[^>]*>(.*?)</text>", svg))
            assert texts.replace("&#160;", "").replace("\N{NO-BREAK SPACE}", "").isascii()

    run(cluster(), scenario, terminal=ASCII)


def test_no_color_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def scenario(screen: Driven) -> None:
        for pressed in ((), ("enter",), ("escape",), ("slash", "x")):
            await screen.press(*pressed)
            colours = set(re.findall(r"fill: (#[0-9a-f]{6})", screen.app.export_screenshot()))
            assert colours <= {"#c5c8c6", "#292929", "#868887"}  # front, back, and front dimmed

    run(node(), scenario)


def test_levels_are_told_in_words_too() -> None:
    async def scenario(screen: Driven) -> None:
        for level in ("confirmed", "likely", "suspicious", "clear"):
            assert level in screen.text

    run(node(), scenario, (80, 24))


def test_lines_that_have_not_changed_are_not_drawn_again() -> None:
    watched = node()

    async def scenario(screen: Driven) -> None:
        drawn: list[int] = []
        table = screen.app.main.table
        plain = table.refresh

        def counting(*regions: Region, **options: Any) -> LongTable:
            drawn.append(len(regions))
            return plain(*regions, **options)

        table.refresh = counting  # type: ignore[method-assign]
        last = watched.rounds[-1]
        assert isinstance(last, Poll)
        same = replace(last, at=last.at + timedelta(microseconds=1))
        watched.rounds = [same]
        await screen.press("r")
        await screen.until(lambda: screen.shown.poll is same)
        assert drawn == []
        await screen.press("down")
        assert drawn == [1, 1]  # the row that was selected, and the one that is

    run(watched, scenario)


def test_a_view_from_the_command_line() -> None:
    async def scenario(screen: Driven) -> None:
        assert [status.pod for status in screen.statuses] == ["melt-0"]

    run(cluster(), scenario, view=View(sort="cpu", text="lmp", namespace="science"))
