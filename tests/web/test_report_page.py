from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given

from minerwatch.view.abuse_report import report
from minerwatch.web.report_page import report_page
from tests.view.report_samples import SINCE_S, UNTIL_S, hostile, made
from tests.view.test_report_text import texts
from tests.web.chromium import MISSING, PROGRAM, Browser
from tests.web.test_in_a_browser import DESK, HOSTILE, PHONE
from tests.web.views import Page

_ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "main", "footer", "strong"),
    *("h1", "h2", "p", "span", "div", "table", "thead", "tbody", "tr", "th", "td"),
    *("dl", "dt", "dd", "ul", "li", "figure", "figcaption"),
    *("svg", "defs", "pattern", "path", "rect", "text"),
}


def test_the_page(golden: Callable[[str, str], None]) -> None:
    golden("report.html", report_page(made()))


def test_it_needs_nothing_from_elsewhere_and_has_no_script() -> None:
    html = report_page(made())
    page = Page(html)
    assert {name for name, _ in page.elements} <= _ELEMENTS
    assert not re.search(r"\b(src|href|srcset|action|on\w+)=", html)
    assert "url(" not in html.replace('fill="url(#gap)"', "")
    policy = next(
        each["content"] for _, each in page.elements if "content-security-policy" in
        each.get("http-equiv", "").lower()
    )  # fmt: skip
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_it_says_what_is_missing_at_the_top_and_in_the_end() -> None:
    page = Page(report_page(made()))
    assert "96% of the time of 2 nodes is recorded; 1 node missing" in page.text
    assert "node-3: not in this report: CrashLoopBackOff" in page.text
    assert any(each.get("class") == "notice" for _, each in page.elements)
    assert any(each.get("fill") == "url(#gap)" for name, each in page.elements if name == "rect")


def test_a_report_of_nothing_is_a_page() -> None:
    page = Page(report_page(report((), (), since_s=SINCE_S, until_s=UNTIL_S)))
    assert "Nothing is recorded of any node." in page.text


@given(texts)
def test_no_text_is_an_element_or_an_attribute(evil: str) -> None:
    expected, found = (Page(report_page(hostile(each))) for each in ("x" * 20, evil))
    assert {name for name, _ in found.elements} <= {name for name, _ in expected.elements}
    attributes = {key for _, each in found.elements for key in each}
    assert attributes <= {key for _, each in expected.elements for key in each}
    classes = {each.get("class") for _, each in found.elements}
    assert classes <= {each.get("class") for _, each in expected.elements} | {"short"} | {
        f"level {level}" for level in ("suspicious", "likely", "confirmed")
    }


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not PROGRAM:
        pytest.skip(MISSING)
    with closing(Browser(tmp_path_factory.mktemp("profile"))) as opened:
        yield opened


@pytest.mark.parametrize("evil", ["", *HOSTILE], ids=range(len(HOSTILE) + 1))
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_it_fits_the_window_and_asks_for_nothing(
    browser: Browser, tmp_path: Path, size: tuple[int, int], evil: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_page(hostile(evil) if evil else made()), encoding="utf-8")
    browser.open(path.as_uri(), *size)
    assert browser.complaints() == []
    assert browser.requested() == [path.as_uri()]
    assert browser.value("document.documentElement.scrollWidth") <= size[0]
    assert browser.value("document.scripts.length + document.images.length") == 0
    assert browser.value("getComputedStyle(document.body).margin") == "0px", "the style applies"
    assert "Abuse of compute" in browser.value("document.title")


def test_on_paper_it_is_dark_on_light_and_fits(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_page(made()), encoding="utf-8")
    browser.open(path.as_uri(), 690, 1000, scheme="dark")
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.value("document.documentElement.scrollWidth") <= 690
    assert browser.value("getComputedStyle(document.querySelector('tr')).display") == "table-row"
