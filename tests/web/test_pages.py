from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from minerwatch.api.types import ConnectionStatus, ContainerStatus, GpuStatus
from minerwatch.untrusted_text.display import printable
from minerwatch.web.container_page import container_page, past_page
from minerwatch.web.layout import View, error_page, page_key
from minerwatch.web.masking import masked
from minerwatch.web.now_page import SORTED_BY, now_page
from minerwatch.web.processes_page import processes_page
from minerwatch.web.week_page import week_page
from tests.examples import examples
from tests.report.samples import MINER, finding, hostile_text, process
from tests.web.views import STATUSES, Page, change, made_up_week, usage, view, week

_ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "footer"),
    *("strong", "a", "h1", "h2", "p", "span", "div", "details", "summary", "time"),
    *("table", "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd", "ul", "li"),
    *("pre", "code", "br", "figure", "figcaption"),
    *("svg", "defs", "pattern", "path", "rect", "text"),
}
_ATTRIBUTES = {
    *("lang", "charset", "name", "content", "http-equiv", "class", "href", "scope", "title"),
    *("aria-current", "aria-label", "role", "data-label", "datetime", "id", "fill"),
    *("viewbox", "d", "x", "y", "width", "height", "patternunits", "text-anchor"),
}
_SECRET = "q7zSECRETx9"


def pages(shown: View, status: ContainerStatus) -> list[str]:
    """All pages that show ``status``."""
    at = replace(shown, statuses=[status, *STATUSES])
    key = page_key(status)
    return [
        *(now_page(at, sort=sort, shows_all=True) for sort in SORTED_BY),
        container_page(at, status, key),
        week_page(at),
        processes_page(at),
        *([past_page(at, key, at.history)] if at.history and key in at.history.containers else []),
    ]


def hostile_status(text: str) -> ContainerStatus:
    """A container in which everything that others choose is ``text``."""
    found = finding(
        text, rule=text, evidence={"CommandLine": text, "Comm": text, text: text},
        expected={text: text}, filters=(text,),
    )  # fmt: skip
    one = process(
        command_line=text, comm=text, image=text, user=text,
        connections=(ConnectionStatus(text, 1, "2026-11-23T02:17:45Z"),),
    )  # fmt: skip
    return structs.replace(
        MINER, namespace=text, pod=text, container=text, container_id=text, image=text,
        cgroup=text, owner=text, findings=(found,), processes=(one,), node=text, abuse=text,
        level=text, since=text, kind=text, runtime=text, pod_uid=text,
    )  # fmt: skip


def hostile_week(text: str, key: str) -> list[Any]:
    names = {"namespace": text, "pod": text, "container": text, "owner": text}
    return [
        change(week().until_s - 60, text, text, key=key, abuse=text, **names),
        *(
            msgspec.structs.replace(
                line, containers=tuple(msgspec.structs.replace(each, key=key, **names)
                                       for each in line.containers)
            )
            for line in made_up_week()[-20:]
            if isinstance(line, type(usage(0, cpu_cores=1)))
        ),
    ]  # fmt: skip


_hostile = st.one_of(
    hostile_text,
    st.sampled_from(
        (
            "<script>alert(1)</script>",
            '"><img src=x onerror=alert(1)>',
            "' onmouseover='alert(1)",
            "</style><script>alert(1)</script>",
            "</title><script>",
            "&lt;b&gt;&#60;script&#62;",
            "javascript:alert(1)",
            "]]><!--",
            "\u202egnp.exe</td>",
        )
    ),
)


@settings(max_examples=examples(30))
@given(text=_hostile)
def test_no_text_becomes_an_element_or_attribute_or_has_power_over_a_line(text: str) -> None:
    status = hostile_status(text)
    shown = view(history=week(hostile_week(text, page_key(status))), shows_arguments=True)
    shown = replace(
        shown, agent=structs.replace(shown.agent, node=text, version=text, troubles=(text,))
    )
    for html in [*pages(shown, status), error_page("Not found", text)]:
        page = Page(html)
        assert {name for name, _ in page.elements} <= _ELEMENTS
        assert {name for _, each in page.elements for name in each} <= _ATTRIBUTES
        for name, attributes in page.elements:
            if "href" in attributes:
                assert attributes["href"].startswith(("/", "/container/")), (name, attributes)
                assert not attributes["href"].startswith("//")
            assert all(value == printable(value) for value in attributes.values())
        assert all(each == printable(each) for each in page.texts if each.strip("\n"))


@given(text=_hostile)
def test_no_ordinary_page_has_other_elements_than_a_hostile_one(text: str) -> None:
    """What is hostile changes no page's structure: the same elements, in the same order."""
    first, second = (
        [name for name, _ in Page(now_page(view(statuses=[each]))).elements]
        for each in (
            structs.replace(hostile_status("x"), level="likely", since=MINER.since),
            structs.replace(hostile_status(f"x{text}y"), level="likely", since=MINER.since),
        )
    )
    assert first == second


def test_masked_pages_have_no_arguments_connections_or_users() -> None:
    found = finding(
        evidence={
            "CommandLine": f"./a {_SECRET}", "Arguments": _SECRET, "DestinationIp": _SECRET,
            "DestinationHostname": _SECRET, "PoolWords": _SECRET, "CurrentDirectory": _SECRET,
            "CpuCores": 1.5, "Comm": "xmrig",
        }
    )  # fmt: skip
    private = finding(
        f"title {_SECRET}", private=True, rule="00000000-0000-4000-8000-000000000009",
        evidence={"Comm": _SECRET}, expected={"Comm": _SECRET}, filters=(_SECRET,),
    )  # fmt: skip
    one = process(
        command_line=f"./a --user {_SECRET}", user=_SECRET,
        connections=(ConnectionStatus(_SECRET, 3333, MINER.since),),
    )  # fmt: skip
    status = structs.replace(MINER, findings=(found, private), processes=(one,))
    open_pages = pages(view(shows_arguments=True), status)
    assert any(_SECRET in each for each in open_pages)
    for html in pages(view(), masked(status)):
        assert _SECRET not in html
    text = Page(container_page(view(), masked(status), page_key(status))).text
    assert "CpuCores: 1.50" in text
    assert "Comm: xmrig" in text
    assert "CommandLine: (hidden)" in text
    assert "private rule 00000000-0000-4000-8000-000000000009" in text
    assert "arguments, connections and users are hidden" in text


def test_the_first_page_has_what_top_has() -> None:
    page = Page(now_page(view()))
    for wanted in (
        "4 containers flagged", "11.5 of 16 cores busy", "19 GiB of 64 GiB memory", "load 11.9",
        "binder/jupyter-alice-2dnotebooks-2dx7f3k2/notebook", "95", "confirmed", "alice",
        "identity ×2: XMRig command line; execution: Executable deleted from a temporary folder",
        "23.4", "12m",
        "node node-7: the API server is down", "agent 1.2.3 · 112 rules · mode observe",
        "/proc hides other users' processes", "as of 2026-11-23 02:30:00 UTC",
    ):  # fmt: skip
        assert wanted in page.text, wanted
    links = [each["href"] for name, each in page.elements if name == "a"]
    assert f"/container/{page_key(MINER)}" in links
    assert ("meta", {"http-equiv": "refresh", "content": "30"}) in page.elements


def test_rows_are_sorted_and_idle_containers_are_shown_when_asked_for() -> None:
    def names(html: str) -> list[str]:
        found = [each["href"] for name, each in Page(html).elements if name == "a"]
        return [each for each in found if each.startswith("/container/")]

    by_score = names(now_page(view()))
    assert by_score[0] == f"/container/{page_key(MINER)}"
    by_cpu = names(now_page(view(), sort="cpu"))
    assert by_cpu[0] != by_score[0]
    assert names(now_page(view(), sort="nonsense")) == by_score
    idle = structs.replace(STATUSES[-1], cgroup="/idle", cpu_cores=0.0)
    both = view(statuses=[*STATUSES, idle])
    assert f"/container/{page_key(idle)}" not in names(now_page(both))
    assert f"/container/{page_key(idle)}" in names(now_page(both, shows_all=True))


def test_a_containers_page_has_what_explain_has() -> None:
    page = Page(container_page(view(shows_arguments=True), MINER, page_key(MINER)))
    for wanted in (
        "confirmed", "score 95.2 of 100", "1.98 cores, 99% of its limit of 2",
        "XMRig command line",
        "stratum+tcp://pool.example.org:3333", "--donate-level", "4711", "has findings",
        "What this does not prove", "Independent kinds of evidence agree", "CPU over time",
        "kubectl -n binder describe pod",
    ):  # fmt: skip
        assert wanted in page.text, wanted
    assert sum(name == "svg" for name, _ in page.elements) == 2


def test_processes_are_by_cpu_and_those_alike_are_one_row() -> None:
    alike = [process(pid=pid, comm="worker", command_line="worker -x", cpu_cores=0.5)
             for pid in (10, 11, 12)]  # fmt: skip
    status = structs.replace(MINER, processes=(process(), *alike), process_count=4)
    text = Page(processes_page(view(statuses=[status], shows_arguments=True))).text
    assert text.index("4711") < text.index("3 ×")
    for wanted in ("1.98", "1.50", "worker -x", "id+exec", "alice", "stratum+tcp"):
        assert wanted in text, wanted
    assert "No process is busy" in Page(processes_page(view(statuses=()))).text


def test_gpus_are_shown_where_a_container_uses_one() -> None:
    assert "GPU" not in Page(now_page(view())).text
    assert "GPU" not in Page(processes_page(view())).text
    gpu = GpuStatus(0.97, None, False, 26.5, 1, 8 << 30, None)
    on_gpu = process(comm="srv", cpu_cores=0.0, gpus=0.97, gpu_memory_bytes=8 << 30)
    user = structs.replace(STATUSES[-1], cgroup="/gpu", cpu_cores=0.0, gpu=gpu, processes=(on_gpu,))
    several = view(statuses=[*STATUSES, user])
    first = Page(now_page(several, sort="gpu"))
    assert "!0.97" in first.text
    links = [each["href"] for name, each in first.elements if name == "a"]
    assert next(each for each in links if each.startswith("/container/")) == (
        f"/container/{page_key(user)}"
    )
    assert "srv" in Page(processes_page(several)).text
    one = Page(container_page(several, user, page_key(user))).text
    for wanted in ("0.97 busy, 1 device; requested none", "keeps 0.97 GPUs busy, 8.0 GiB"):
        assert wanted in one, wanted


def test_the_week_has_changes_flagged_time_and_gaps() -> None:
    page = Page(week_page(view()))
    for wanted in (
        "93% of the week is recorded", "Flagged containers by CPU", "RandomX is executed",
        ", was clear", "gone", "12.0 hours", "Gaps and restarts", "Actions",
    ):  # fmt: skip
        assert wanted in page.text, wanted
    gaps = [each for name, each in page.elements if name == "rect" and each["class"] == "gap"]
    assert len(gaps) == 1
    assert 45 < float(gaps[0]["width"]) < 50, "half a day of seven, of 674"


def test_a_container_that_is_gone_has_a_page_from_the_journal() -> None:
    past = week()
    page = Page(past_page(view(), page_key(MINER), past))
    assert "It is not on the node now" in page.text
    assert "binder/jupyter-alice-2dnotebooks-2dx7f3k2/notebook" in page.text


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (now_page, "No history: the agent keeps no journal"),
        (week_page, "No history: the agent keeps no journal"),
    ],
)
def test_without_a_journal_pages_say_how_to_have_one(
    build: Callable[[View], str], said: str
) -> None:
    assert said in Page(build(view(history=None))).text


@pytest.mark.parametrize(
    ("age_s", "said"),
    [
        (None, "The agent has not ended its first tick"),
        (100.0, "The last tick ended 100 s ago, and this page shows what it found."),
    ],
)
def test_a_page_says_when_what_it_shows_is_old(age_s: float | None, said: str) -> None:
    for build in (now_page, week_page):
        assert said in Page(build(view(tick_age_s=age_s))).text
        assert "tick" not in Page(build(view(tick_age_s=14.0))).text.replace("few ticks", "")


def test_before_the_first_line_pages_say_so() -> None:
    empty = view(history=week([]), statuses=())
    assert "Nothing is recorded yet" in Page(now_page(empty)).text
    assert "No container is flagged" in Page(now_page(empty)).text
    assert "Nothing was recorded in the last week." in Page(week_page(empty)).text
