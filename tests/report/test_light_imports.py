from __future__ import annotations

import subprocess
import sys

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.report.metrics import exposition

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.one_of(st.floats(min_value=0), st.integers(0, 2**60))


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_metrics_bring_no_servers_with_them() -> None:
    heavy = "{'http.server', 'http.client', 'ssl', 'email', 'urllib.request', 'wsgiref'}"
    script = f"import sys, minerwatch.report.metrics\nprint({heavy} & set(sys.modules) or '')"
    assert run(script) == ""


def test_the_whole_package_is_made_of_the_same_modules() -> None:
    script = (
        "import minerwatch.report.metrics as ours, prometheus_client\n"
        "assert prometheus_client.Counter is ours.Counter\n"
        "prometheus_client.generate_latest(ours.Metrics().registry)"
    )
    run(script)


def test_a_package_that_is_missing_says_so() -> None:
    script = (
        "from minerwatch.report.light_imports import parts_only\n"
        "import sys\n"
        "try:\n"
        "    with parts_only('no_such_package'): import no_such_package.part\n"
        "except ModuleNotFoundError: print('no_such_package' in sys.modules)"
    )
    assert run(script) == "False"


def test_a_module_is_loaded_when_it_is_used() -> None:
    script = (
        "import sys\n"
        "from minerwatch.report.light_imports import loaded_when_used\n"
        "with loaded_when_used('asyncio'):\n"
        "    import asyncio as later\n"
        "    assert not hasattr(later, 'run')\n"
        "assert 'asyncio' not in sys.modules\n"
        "later.run(later.sleep(0))\n"
        "import asyncio\n"
        "assert later.run is asyncio.run and later is not asyncio"
    )
    run(script)


def test_what_is_loaded_stays_as_it_is() -> None:
    script = (
        "import asyncio\n"
        "from minerwatch.report.light_imports import loaded_when_used\n"
        "with loaded_when_used('asyncio'):\n"
        "    import asyncio as same\n"
        "assert same is asyncio"
    )
    run(script)


def test_logs_bring_no_tls_and_no_event_loop_with_them() -> None:
    script = (
        "import sys\n"
        "from minerwatch.report.log import logger\n"
        "logger(as_json=True).info('said')\n"
        "print({'asyncio.events', 'ssl', 'concurrent.futures', 'rich'} & set(sys.modules) or '')"
    )
    assert run(script) == ""


@given(st.lists(st.tuples(TEXTS, TEXTS, NUMBERS), max_size=8), TEXTS)
def test_the_text_is_that_of_prometheus_client(
    counted: list[tuple[str, str, float]], documentation: str
) -> None:
    registry = prometheus_client.CollectorRegistry()
    counter = prometheus_client.Counter("c", documentation, ["b", "a"], registry=registry)
    gauge = prometheus_client.Gauge("g", documentation, ["a"], registry=registry)
    summary = prometheus_client.Summary("s", documentation, registry=registry)
    histogram = prometheus_client.Histogram("h", documentation, buckets=[1, 5], registry=registry)
    for first, second, number in counted:
        counter.labels(first, second).inc(number)
        gauge.labels(first).set(-number)
        summary.observe(number)
        histogram.observe(number)
    text = exposition(registry)
    assert text == prometheus_client.generate_latest(registry)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e21, 0.1])
def test_numbers_of_every_size(value: float) -> None:
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Gauge("g", "", registry=registry).set(value)
    assert exposition(registry) == prometheus_client.generate_latest(registry)
