"""The table, of which Textual holds a part: any number of rows, selected, scrolled, resized."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest
from msgspec import structs
from textual.events import MouseScrollDown

from minerwatch.api.types import ContainerStatus
from minerwatch.cli.top_screen.table import HELD, LongTable
from minerwatch.view.screen.poll import Poll
from tests.cli.top_screen.driving import AGENT, Driven, Recorded, run
from tests.report.samples import MINER, NOW, SIMULATION


def many(count: int, first: int = 0) -> tuple[ContainerStatus, ...]:
    return tuple(
        structs.replace(SIMULATION, container=f"c-{n:05}", cgroup=f"/c/{n}", cpu_cores=1e5 - n)
        for n in range(first, first + count)
    )


def recorded(statuses: Sequence[ContainerStatus]) -> Recorded:
    return Recorded([Poll(tuple(statuses), NOW, agents=(AGENT,))])


async def shows(screen: Driven, watched: Recorded, statuses: Sequence[ContainerStatus]) -> None:
    poll = Poll(tuple(statuses), NOW)
    watched.rounds = [poll]
    await screen.press("r")
    await screen.until(lambda: screen.shown.poll is poll)
    await screen.settle()


def check(screen: Driven) -> None:
    """What is selected is in sight, and drawn where the cursor is; Textual holds few rows."""
    table = screen.app.main.table
    assert table.row_count <= HELD
    first, last, count = table.span
    assert count == len(screen.shown.rows)
    if not count:
        return
    name = screen.selected.status.container
    assert 0 <= screen.line < max(1, table.size.height - 1)
    assert first <= table.index + 1 <= last
    assert name in "".join(map(str, table.get_row_at(table.cursor_row)))
    assert name in table.render_line(screen.line + 1).text


@pytest.mark.parametrize("count", [0, 1, 7, 300, pytest.param(5000, marks=pytest.mark.nightly)])
def test_any_number_of_rows_can_be_walked_through(count: int) -> None:
    rng = random.Random(count)

    async def scenario(screen: Driven) -> None:
        check(screen)
        for _ in range(12):
            await screen.press(*rng.choices(
                ["j", "K", "pagedown", "pageup", "G", "g", "down", "end"], k=rng.randint(1, 4)
            ))  # fmt: skip
            check(screen)
        await screen.press("G")
        check(screen)
        assert screen.app.main.table.span[1] == count
        await screen.press("g")
        check(screen)
        assert screen.app.main.table.span[0] == 1

    run(recorded(many(count)), scenario, (80, 24))


def test_what_is_selected_stays_selected_on_its_line_while_rows_come_and_go() -> None:
    rng = random.Random(1)
    watched = recorded(many(400))

    async def scenario(screen: Driven) -> None:
        await screen.press(*["pagedown"] * 6, "up")
        chosen, line = screen.selected, screen.line
        for _ in range(3):
            worse = tuple(
                structs.replace(MINER, cgroup=f"/m/{n}") for n in range(rng.randint(0, 400))
            )
            await shows(screen, watched, (*worse, *many(400)))
            check(screen)
            assert (screen.selected.key, screen.line) == (chosen.key, line)

    run(watched, scenario)


def test_while_the_first_rows_are_in_sight_they_stay_in_sight() -> None:
    watched = recorded(many(100))

    async def scenario(screen: Driven) -> None:
        await screen.press("down")
        await shows(screen, watched, (structs.replace(MINER, cgroup="/m"), *many(100)))
        assert screen.selected.status.container == "c-00001"
        assert screen.app.main.table.span[0] == 1

    run(watched, scenario)


def test_a_row_that_is_gone_leaves_the_cursor_to_the_next() -> None:
    watched = recorded(many(10))

    async def scenario(screen: Driven) -> None:
        await screen.press(*["down"] * 3)
        await shows(screen, watched, (*many(3), *many(6, 4)))
        assert screen.selected.status.container == "c-00004"
        await shows(screen, watched, many(2))
        assert screen.selected.status.container == "c-00001"
        await shows(screen, watched, ())
        await shows(screen, watched, many(5))
        assert screen.selected.status.container == "c-00000"
        check(screen)

    run(watched, scenario)


def test_without_a_choice_the_worst_is_selected_whichever_it_is() -> None:
    watched = recorded(many(10))

    async def scenario(screen: Driven) -> None:
        await screen.press("down", "home")
        await shows(screen, watched, (MINER, *many(10)))
        assert screen.selected.status == MINER

    run(watched, scenario)


def test_the_mouse_selects_opens_and_scrolls() -> None:
    async def scenario(screen: Driven) -> None:
        await screen.pilot.click(LongTable, offset=(30, 4))
        await screen.settle()
        assert screen.selected.status.container == "c-00003"
        screen.app.main.table.post_message(
            MouseScrollDown(None, 1, 1, 0, 1, 0, False, False, False)
        )
        await screen.settle()
        assert screen.selected.status.container == "c-00006"
        await screen.pilot.click(LongTable, offset=(30, 7))
        await screen.settle()
        assert screen.page.subject.status.container == "c-00006"

    run(recorded(many(1000)), scenario)


def test_it_follows_a_resize_wherever_it_is() -> None:
    async def scenario(screen: Driven) -> None:
        await screen.press(*["pagedown"] * 4)
        chosen = screen.selected.key
        for size in ((200, 60), (60, 12), (80, 130), (50, 9), (120, 40)):
            await screen.pilot.resize_terminal(*size)
            await screen.settle()
            assert screen.selected.key == chosen
            check(screen)

    run(recorded(many(2000)), scenario)


@pytest.mark.nightly
def test_fifty_thousand_rows_stay_usable() -> None:
    """1,000 nodes with 50 containers each: no key costs more than a second of CPU."""

    async def scenario(screen: Driven) -> None:
        for key in ("G", "pageup", "K", "g", "pagedown", "j", "C", "C"):
            before_s = time.thread_time()
            await screen.press(key)
            assert time.thread_time() - before_s < 1.0
            check(screen)
        assert len(screen.shown.rows) == 50_000

    run(recorded(many(50_000)), scenario, (200, 60))
