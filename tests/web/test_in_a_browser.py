"""The pages in a real browser, on a telephone and on a desk, light and dark."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs

from minerwatch.agent.web_endpoint import WebEndpoint
from minerwatch.config.schema import Config, Web
from minerwatch.report.http_server import Answer, address_listener
from minerwatch.web.layout import View, page_key
from tests.report.samples import MINER
from tests.waiting import until
from tests.web.chromium import MISSING, PROGRAM, Browser
from tests.web.views import STATUSES, view

pytestmark = pytest.mark.skipif(not PROGRAM, reason=MISSING)

_IN_THE_DOCS = Path(__file__).parents[2] / "docs" / "pictures" / "web.png"
PHONE, DESK = (390, 844), (1280, 800)
SECRET = "0123456789abcdef0123456789abcdef"
HOSTILE = (
    '<script>document.title="owned"</script>',
    '"><img src=x onerror=alert(1)>',
    "</style><style>body{display:none}</style>",
    "\u202egnp.exe\u202c",
    "n" * 200,
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with closing(Browser(tmp_path_factory.mktemp("profile"))) as opened:
        yield opened


def _view(_processes: int) -> View:
    hostile = [
        structs.replace(MINER, pod=text, owner=text, image=text, cgroup=f"/{number}", score=50.0,
                level="suspicious", findings=(structs.replace(MINER.findings[0], title=text),))
        for number, text in enumerate(HOSTILE)
    ]  # fmt: skip
    return view(statuses=[*STATUSES, *hostile])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    config = Config(web=Web(listen="127.0.0.1:0"))
    with closing(WebEndpoint(config, _view, lambda _error: None)) as endpoint:
        yield endpoint.url


def paths() -> list[str]:
    return ["", "?all=1&sort=cpu", "processes", "week", f"container/{page_key(MINER)}", "nothing"]


@pytest.mark.parametrize("path", paths())
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_a_page_fits_its_window_and_runs_and_asks_for_nothing(
    browser: Browser, url: str, path: str, size: tuple[int, int]
) -> None:
    browser.open(url + path, *size)
    expected = ["404"] if path == "nothing" else []
    complaints = browser.complaints()
    assert len(complaints) == len(expected), complaints
    assert all(word in said for word, said in zip(expected, complaints, strict=True))
    assert {each for each in browser.requested() if "favicon" not in each} == {url + path}
    assert browser.value("document.documentElement.scrollWidth") <= size[0]
    assert "minerwatch" in browser.value("document.title")
    assert browser.value("document.scripts.length + document.images.length") == 0
    assert browser.value("document.styleSheets.length") == 1
    assert browser.value("getComputedStyle(document.body).margin") == "0px", "the style applies"


def test_a_page_is_dark_where_its_reader_wants_it(browser: Browser, url: str) -> None:
    colours = []
    for scheme in ("light", "dark"):
        browser.open(url, *DESK, scheme=scheme)
        colours.append(browser.value("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 24, 29)"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["", "processes", "week", f"container/{page_key(MINER)}"])
def test_all_text_can_be_told_from_its_background(
    browser: Browser, url: str, path: str, scheme: str
) -> None:
    """A contrast of 4.5 to 1 (WCAG 2, AA), of all text but the labels of charts."""
    browser.open(url + path, *DESK, scheme=scheme)
    faint = browser.value(_FAINT_TEXTS)
    assert faint == []


_FAINT_TEXTS = """
(() => {
  const parts = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => {
    const [r, g, b] = parts(c).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (parts(c).length < 4 || parts(c)[3] > 0) return c;
    }
    return 'rgb(255,255,255)';
  };
  const faint = [];
  for (const e of document.body.querySelectorAll('*')) {
    const own = [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim());
    if (!own || e.closest('svg')) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(e.outerHTML.slice(0, 120));
  }
  return faint;
})()
"""


def test_links_lead_to_pages(browser: Browser, url: str) -> None:
    browser.open(url, *PHONE)
    links = browser.value("[...document.links].map(each => each.href)")
    assert len(links) > 10
    browser.open(next(each for each in links if page_key(MINER) in each), *PHONE)
    assert "score 95.2 of 100" in browser.value("document.body.innerText")


def test_a_browser_gets_pages_with_the_token_only(browser: Browser, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET)
    config = Config(web=Web(listen="127.0.0.1:0", token_file=str(token)))
    with closing(WebEndpoint(config, _view, lambda _error: None)) as endpoint:
        url = endpoint.url.replace("127.0.0.1", f"me:{SECRET}@127.0.0.1")
        browser.open(f"{url}container/{page_key(MINER)}", *DESK)
        assert "--donate-level 1" in browser.value("document.body.innerText")


def test_another_sites_page_can_link_to_pages_but_not_load_them(browser: Browser) -> None:
    built: list[int] = []

    def noted(processes: int) -> View:
        built.append(processes)
        return view()

    config = Config(web=Web(listen="127.0.0.1:0"))
    with closing(WebEndpoint(config, noted, lambda _error: None)) as endpoint:
        html = f"<img src={endpoint.url}week><a href={endpoint.url}processes>look</a>"
        other, address = address_listener(
            "127.0.0.1", 0, {"/": lambda: Answer(html.encode(), "text/html")}
        )
        with closing(other):
            browser.open(f"http://{address}/", *DESK)
            until(lambda: endpoint.failures.get("page refused: 403"))
            assert not built
            browser.value("document.links[0].click()")
            until(lambda: built)


def test_pictures_are_drawn(browser: Browser, tmp_path: Path) -> None:
    """UPDATE_GOLDEN=1 renews the one in the docs."""
    config = Config(web=Web(listen="127.0.0.1:0"))
    calm = structs.replace(view().agent, troubles=(), blind_spots=())
    with closing(WebEndpoint(config, lambda _: view(agent=calm), lambda _error: None)) as endpoint:
        for name, path, size, scheme in (
            ("web", "", (1280, 830), "light"),
            ("week-phone", "week", PHONE, "dark"),
        ):
            browser.open(endpoint.url + path, *size, scheme=scheme)
            (tmp_path / f"{name}.png").write_bytes(picture := browser.picture())
            assert struct.unpack(">II", picture[16:24]) == size
            assert len(picture) > 10_000, "an empty page is smaller"
            if os.environ.get("UPDATE_GOLDEN") and name == "web":
                _IN_THE_DOCS.write_bytes(picture)
