"""What is kept breaks nothing, and neither does some more of its kind; nothing is left out.

`make fuzz` does the same for minutes, guided by coverage.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

import minerwatch
from tests.examples import examples
from tests.fuzz import campaign, corpus, registry, worker
from tests.fuzz.mutation import mutated
from tests.fuzz.registry import Target, targets

_GIVE_UP_S = 60.0
_INPUTS = 64  # of the cheapest targets
_MIN_INPUTS = 6
_PACKAGE = Path(minerwatch.__file__).parent

NOT_FUZZED = {
    "minerwatch.cli.top_screen.opening": "opens the terminal to write to it",
    "minerwatch.cli.web_client": "passes bodies on as they are; see prometheus_answer",
    "minerwatch.culling.ban_store": "a library decodes the ConfigMap; damaged ones have tests",
    "minerwatch.culling.hub_api": "a library decodes the hub's answers; wrong ones have tests",
    "minerwatch.culling.sightings": "a library decodes its own file; damaged ones have tests",
    "minerwatch.report.connections": "the kernel's answer about its own socket",
    "minerwatch.culling.evidence": "reads what it has just written",
    "minerwatch.culling.service": "reads the kernel's boot id, whose characters do not matter",
    "minerwatch.node.children.cmdline_reader": "passes bytes on as they are; see reading_records",
    "minerwatch.node.bpf_iterator": "passes on records of minerwatch's own BPF programs",
    "minerwatch.node.kernel_entries": "numbers that minerwatch's own BPF program packs",
    "minerwatch.node.children.gpu_sampler": "the agent's own questions; see gpu_client",
    "minerwatch.node.children.hot_code_scanner": "libraries read the bytes; its bounds have tests",
    "minerwatch.node.children.overlay_reader": "the kernel's list of mounts; it has its own tests",
    "minerwatch.node.children.sampled_process": "numbers that the kernel writes; see mappings",
    "minerwatch.node.first_words": "passes packets on to packet_parser, and the kernel's counts",
    "minerwatch.node.network_links": "the kernel's answer about its own interfaces",
    "minerwatch.node.socket_iterator": "numbers that minerwatch's own BPF program packs",
    "minerwatch.node.confined": "reads what the kernel says of its own capabilities",
    "minerwatch.agent.rule_loader_child": "pickles between the agent and its own child",
    "minerwatch.agent.rule_loader": "pickles between the agent and its own child",
}
"""Modules that read bytes from outside themselves, and why there is no target for them."""

_READS = frozenset(
    (
        *("os.read", "os.pread", "os.readlink", "os.scandir", "os.listdir", "open"),
        *("yaml.load", "yaml.safe_load", "json.loads", "pickle.load", "pickle.loads"),
        *("msgspec.json.decode", "msgspec.json.Decoder", "socket.getaddrinfo"),
        *("urllib.request.urlopen", "datetime.fromisoformat"),
    )
)
_LAST_WORDS = frozenset(name.rpartition(".")[2] for name in _READS)
_READING_METHODS = frozenset(
    (
        *("read_bytes", "read_text", "read1", "readline", "recv", "recv_into", "recvfrom"),
        *("recvfrom_into", "recv_data_frame", "unpack", "unpack_from", "iter_unpack"),
    )
)


@pytest.fixture(autouse=True)
def _own_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a campaign on this machine has found is not to be lost, and not to be counted on."""
    monkeypatch.setattr(corpus, "BUILD", tmp_path)
    monkeypatch.setattr(campaign, "BUILD", tmp_path)


each_target = pytest.mark.parametrize("target", targets().values(), ids=lambda each: each.name)


@each_target
def test_what_is_kept_breaks_nothing_and_reaches_its_parsers(target: Target) -> None:
    kept = corpus.kept(target.name)
    assert kept, f"tests/fuzz/corpus/{target.name} holds no input"
    reached: set[str] = set()
    worker.within(_GIVE_UP_S, target, b"")  # what is read once is not to be measured
    for name, data in kept.items():
        assert len(data) <= max(target.max_bytes, 20_000), name
        reached |= _modules_of(target, data)
    missed = {_module_path(module) for module in target.parses} - reached
    assert not missed, "no input that is kept reaches these"


@each_target
def test_more_of_its_kind_breaks_nothing(target: Target) -> None:
    kept = list(corpus.kept(target.name).values())

    @settings(
        max_examples=examples(max(_MIN_INPUTS, _INPUTS // target.cost)),
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.sampled_from(kept), seed=st.integers(0, 1 << 32))
    def try_some(data: bytes, seed: int) -> None:
        tried = mutated(data, kept, Random(seed), target.max_bytes)
        note(f"{target.name}: {tried!r}")
        worker.within(_GIVE_UP_S, target, tried)

    try_some()


def test_every_module_that_reads_bytes_is_fuzzed_or_says_why_not() -> None:
    reading = set(_reading_modules())
    fuzzed = {module for target in targets().values() for module in target.parses}
    assert not reading - fuzzed - NOT_FUZZED.keys(), "write a target, or a reason"
    assert NOT_FUZZED.keys() <= reading - fuzzed, "these reasons are needed no more"
    assert {_module_path(module) for module in fuzzed} <= {str(path) for path in _files()}


def test_every_folder_of_inputs_has_a_target() -> None:
    assert {path.name for path in corpus.FOLDER.iterdir()} == targets().keys()


def _reading_modules() -> Iterator[str]:
    for path in _files():
        calls = [
            each for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.Call)
        ]
        if any(_reads(call.func) for call in calls):
            yield ".".join(("minerwatch", *path.relative_to(_PACKAGE).with_suffix("").parts))


def _reads(called: ast.expr) -> bool:
    if isinstance(called, ast.Attribute):
        return called.attr in _READING_METHODS or (
            called.attr in _LAST_WORDS and ast.unparse(called) in _READS
        )
    return isinstance(called, ast.Name) and called.id in _READS


def _files() -> Iterator[Path]:
    return _PACKAGE.rglob("*.py")


def _module_path(module: str) -> str:
    return str(_PACKAGE.parent / (module.replace(".", "/") + ".py"))


def _modules_of(target: Target, data: bytes) -> set[str]:
    """Files of minerwatch whose functions are called for ``data``."""
    reached: set[str] = set()

    def at_call(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call":
            reached.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(at_call)
    try:
        worker.within(_GIVE_UP_S, target, data)
    finally:
        sys.setprofile(before)
    return reached


# The campaign itself.


def _breaks_at_a_brace(data: bytes) -> None:
    if b"{" in data:
        raise KeyError(data)


BREAKING = Target("breaking", _breaks_at_a_brace, ())


def test_the_same_seed_makes_the_same_inputs_and_none_is_too_long() -> None:
    seeds = [b"a 1\nb 2\n", b"c"]
    made = [mutated(seeds[0], seeds, Random(n), 50) for n in range(200)]
    assert made == [mutated(seeds[0], seeds, Random(n), 50) for n in range(200)]
    assert max(map(len, made)) <= 50
    assert len(set(made)) > 100


def test_what_breaks_is_kept_once_with_its_traceback(tmp_path: Path) -> None:
    finds = worker.Finds(tmp_path)
    for data in (b"x", b"a{", b"b{"):
        worker.guarded(BREAKING, data, finds)
    (find,) = (path for path in tmp_path.iterdir() if path.suffix != ".txt")
    assert find.read_bytes() == b"a{"
    assert find.name.startswith("KeyError-test_fuzz._breaks_at_a_brace.")
    assert "KeyError" in find.with_name(find.name + ".txt").read_text()


def test_what_breaks_is_made_small() -> None:
    assert campaign.minimised(BREAKING, b"some {text} and more" * 20) == b"{"


def test_what_hangs_is_given_up_even_where_errors_are_suppressed() -> None:
    def hang(_data: bytes) -> None:
        while True:
            try:
                while True:
                    pass
            except Exception:  # noqa: BLE001 - as a careless parser would
                continue

    with pytest.raises(worker.HungError):
        worker.within(0.1, Target("hanging", hang, ()), b"")


def test_a_worker_fuzzes_and_says_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    target = registry.named("cpu_quantity")
    worker.fuzz_with_mutation(target, 0.1, worker.Finds(corpus.BUILD / "crashes" / target.name))
    runs, coverage, added = campaign.figures(capsys.readouterr().out)
    assert runs > 0
    assert coverage[1] >= coverage[0] > 0
    assert len(corpus.found(target.name)) == added


def test_what_libfuzzer_says_is_understood() -> None:
    said = (
        "#3\tINITED cov: 37 ft: 40 corp: 2/7b exec/s: 0 rss: 60Mb\n"
        "#9\tNEW    cov: 41 ft: 44 corp: 3/9b\n#20\tDONE   cov: 42 ft: 45\n"
        "stat::number_of_executed_units: 20\nstat::new_units_added:          5\n"
    )
    assert campaign.figures(said) == (20, (37, 42), 5)
