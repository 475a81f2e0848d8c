"""dcgm-exporter as a source: its text, and servers that hang, flood or lie."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minerwatch.node.children import dcgm_reader
from minerwatch.node.children.dcgm_reader import MAX_BYTES, MAX_DEVICES, MAX_PODS, parsed
from minerwatch.node.gpu_use import Answer, ExporterSampler, GpuGrant, GpuReader, GpuSample
from minerwatch.node.guarded_child import MAX_LINE_BYTES
from tests.waiting import until

A100 = 'UUID="GPU-a",device="nvidia0",modelName="NVIDIA A100",DCGM_FI_DRIVER_VERSION="535.183"'
EVE = 'container="notebook",namespace="hub",pod="jupyter-eve"'
SCRAPE = f"""\
# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{{gpu="0",{A100},{EVE}}} 98
DCGM_FI_DEV_GPU_UTIL{{gpu="1",UUID="GPU-b",modelName="NVIDIA A100"}} 0
DCGM_FI_DEV_SM_CLOCK{{gpu="0",{A100},{EVE}}} 1410
DCGM_FI_PROF_GR_ENGINE_ACTIVE{{gpu="0",{A100},{EVE}}} 0.97
DCGM_FI_DEV_POWER_USAGE{{gpu="0",{A100},{EVE}}} 301.5
DCGM_FI_DEV_FB_USED{{gpu="0",{A100},{EVE}}} 4096
"""


def sample(text: str) -> GpuSample:
    return msgspec.convert({"at_s": 1.0, **parsed(text)}, Answer).sample()


def test_a_device_and_the_pod_that_was_given_it() -> None:
    found = sample(SCRAPE)
    assert found.sources == ("dcgm 535.183",)
    first, second = found.devices
    assert (first.id, first.busy, first.watts, first.is_split) == ("GPU-a", 0.98, 301.5, False)
    assert (second.id, second.busy, second.watts) == ("GPU-b", 0.0, None)
    assert found.grants == (GpuGrant(0, "hub", "jupyter-eve", "notebook", 4 << 30),)
    assert found.uses == ()


def test_instances_have_their_own_rate_and_no_power() -> None:
    own, driver = A100.rsplit(",", 1)
    mig = f'{own},GPU_I_PROFILE="3g.40gb",GPU_I_ID="1",Hostname="n",{driver},{EVE}'
    whole, part = sample(
        f"DCGM_FI_DEV_POWER_USAGE{{{A100}}} 300\n"
        f"DCGM_FI_DEV_POWER_USAGE{{{mig}}} 300\nDCGM_FI_DEV_GPU_UTIL{{{mig}}} 90\n"
        f"DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{mig}}} 0.4\n"
    ).devices
    assert (whole.watts, whole.is_split) == (300.0, True)
    assert (part.id, part.busy, part.watts, part.is_split) == ("GPU-a/1", 0.4, None, False)


def test_a_device_of_several_pods_has_all_and_its_memory_is_of_none() -> None:
    other = EVE.replace("eve", "bob")
    found = sample("".join(f"DCGM_FI_DEV_FB_USED{{{A100},{each}}} 7\n" for each in (EVE, other)))
    assert [(each.pod, each.memory_bytes) for each in found.grants] == [
        ("jupyter-eve", None),
        ("jupyter-bob", None),
    ]


def test_labels_of_a_pod_move_it_to_no_other_device_and_name_no_other_pod() -> None:
    """Where the exporter copies pods' labels, a tenant chooses names and values of some."""
    planted = 'GPU_I_ID="7",GPU_I_PROFILE="1g.5gb",UUID="GPU-b",modelName="x",pod="jupyter-bob"'
    own, driver = A100.rsplit(",", 1)
    long = ",".join(f'l{number}="{"v" * 63}"' for number in range(999))
    for labels in (f"{own},{planted},{driver}", f"{A100},{planted},{long}"):
        found = sample(f'DCGM_FI_DEV_GPU_UTIL{{gpu="0",{labels},{EVE}}} 98\n')
        assert [(each.id, each.busy, each.name) for each in found.devices] == [
            ("GPU-a", 0.98, "NVIDIA A100")
        ]
        assert [each.pod for each in found.grants] == ["jupyter-eve"]


def test_a_series_without_a_device_is_no_device() -> None:
    old = 'gpu="0",uuid="GPU-a",UUID="GPU-b",pod_name="jupyter-eve",pod="jupyter-bob"'
    assert sample(f"DCGM_FI_DEV_GPU_UTIL{{{old}}} 98\n").devices == ()


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "1e400", "x"])
def test_no_figure_is_made_of_what_is_none(value: str) -> None:
    found = sample(f"DCGM_FI_DEV_GPU_UTIL{{{A100},{EVE}}} {value}\n")
    assert [each.busy for each in found.devices] in ([], [None])


def test_an_exporter_that_names_thousands_is_bounded() -> None:
    lines = (
        f'DCGM_FI_DEV_FB_USED{{UUID="{"G" * 200}{number % 100}",modelName="{chr(233) * 200}",'
        f'container="c",namespace="{"n" * 63}",pod="{"p" * 240}{number}"}} 7\n'
        for number in range(9000)
    )
    found = parsed("".join(lines))
    assert (len(found["devices"]), len(found["pods"])) == (MAX_DEVICES, MAX_PODS)
    assert len({number for number, *_ in found["pods"]}) == MAX_DEVICES, "each has some"
    assert all(each["left_out"] > 0 for each in found["devices"]), "so that none is of one alone"
    assert len(msgspec.json.encode(found)) < MAX_LINE_BYTES - 2000


labels = st.lists(
    st.tuples(
        st.sampled_from(("UUID", "pod", "namespace", "container", "GPU_I_ID", "modelName")),
        st.text(max_size=20) | st.sampled_from(("a", "b", "jupyter-eve")),
    ),
    max_size=8,
)
series = st.tuples(
    st.sampled_from(("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_POWER_USAGE")),
    labels,
    st.floats().map(str) | st.text(max_size=9),
)


@given(st.lists(series, max_size=8))
def test_whatever_an_exporter_says_is_an_answer(every: list[tuple[str, Any, str]]) -> None:
    lines = []
    for name, pairs, number in every:
        shown = ",".join(f'{key}="{value}"' for key, value in pairs)
        lines.append(f"{name}{{{shown}}} {number}")
    text = "\n".join(lines)
    found = sample(text)
    for grant in found.grants:
        assert grant.device < len(found.devices)
        assert grant.namespace.isascii()


# By HTTP.

Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def start(answer: Callable[[BaseHTTPRequestHandler], None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/metrics"

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


def reply(body: bytes, status: int = 200) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_the_agent_reads_it_by_a_child(serve: Serve) -> None:
    reader = GpuReader([ExporterSampler(serve(reply(SCRAPE.encode())))])
    with closing(reader):
        ((_, found),) = until(lambda: reader.exchange(()))
    assert [each.pod for each in found.grants] == ["jupyter-eve"]
    assert not any(reader.failures.values())


def test_an_exporter_that_is_missing_is_counted_and_asked_again() -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        reader = GpuReader([ExporterSampler(f"http://127.0.0.1:{unused.getsockname()[1]}/")])
        with closing(reader):
            until(lambda: reader.exchange(()) != [] and reader.failures["exporter"] >= 2)


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"no", status=500),
        reply(b"", status=302),
        reply(b"x" * (MAX_BYTES + 1)),
    ],
    ids=["error", "elsewhere", "flood"],
)
def test_other_answers_are_refused(
    serve: Serve, answer: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    with pytest.raises(OSError, match="refused, or too large"):
        dcgm_reader.fetched(serve(answer))


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"#\n")
            time.sleep(0.01)
    except OSError:
        pass


def test_an_answer_that_never_ends_has_a_deadline(serve: Serve) -> None:
    """In a process of its own: the deadline is a signal, as in the agent's child."""
    program = (
        "import sys; from minerwatch.node.children import dcgm_reader as d; d.MAX_S = 0.2\n"
        "d.serve(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, serve(drip)],
        input="{}\n", capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert msgspec.json.decode(done.stdout)["failures"] == {"exporter": 1}
