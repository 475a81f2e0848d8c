"""All faults of a configuration file, each with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minerwatch.config.reader import checked, load
from minerwatch.config.schema import Config
from minerwatch.config.values import Duration, duration_s, duration_text
from minerwatch.errors import ConfigError, ConfigFileError
from tests.examples import examples

MODE = "invalid mode 'enforced': use off, dry-run or enforce"
EVERY_KIND = """\
intervall: 10s
listen: here
interval: soon
probes:
  exec: true
  content: 3
  content: true
  ptrace: true
culling:
  mode: enforced
  ladder:
    - actions: [evic, label]
      namespaces: ['']
    - score: 70
  exemptions: [{owner: [a], until: 2026-02-30}]
rules: /etc/rules
tls: {client_ca: /x}
? [a]
: b
"""


def faults(folder: Path, text: str) -> list[str]:
    path = folder / "agent.yaml"
    path.write_text(text)
    return [f"{fault.line}: {fault}" for fault in checked(path).faults]


def test_every_fault_has_line_key_and_reason(tmp_path: Path) -> None:
    assert faults(tmp_path, EVERY_KIND) == [
        "1: intervall: unknown key; did you mean interval?",
        "2: listen: invalid address 'here': use ADDRESS:PORT",
        "3: interval: invalid duration 'soon': use 30s, 5m or 1h",
        "5: probes.exec: unknown key; did you mean execs?",
        "6: probes.content: expected true or false, got a whole number",
        "7: probes.content: duplicate key, also on line 6: keep one",
        "8: probes.ptrace: removed; minerwatch no longer stops threads. Delete this key",
        f"10: culling.mode: {MODE}; did you mean enforce?",
        "12: culling.ladder[0].actions[0]: invalid enum value 'evic'; did you mean evict?",
        "13: culling.ladder[0].namespaces[0]: must not be empty",
        "14: culling.ladder[1].score: expected a number >= 90.0",
        "14: culling.ladder[1]: actions is missing",
        "15: culling.exemptions[0].owner: unknown key; did you mean owners?",
        "15: culling.exemptions[0].until: not a value: day is out of range for month",
        "15: culling.exemptions[0]: reason is missing",
        "16: rules: expected a list, got text: write [/etc/rules]",
        "17: tls: certificate is missing: key and client_ca have no effect without it",
        "18: ?: unknown key",
    ]


def test_what_is_meant_is_written_out(tmp_path: Path) -> None:
    text = """\
listen: 9797
node: {name: 12}
culling: {namespaces: binder, protected_namespaces: "a: b"}
notify: [{url: /run/chat, name: chat, url_file: /run/chat}]
"""
    assert faults(tmp_path, text) == [
        "1: listen: invalid address '9797': use ADDRESS:PORT",
        "2: node.name: expected text, got a whole number: write '12'",
        "3: culling.namespaces: expected a list, got text: write [binder]",
        "3: culling.protected_namespaces: expected a list, got text",
        "4: notify[0].url: unknown key; did you mean url_file?",
    ]
    path = tmp_path / "tab.yaml"
    path.write_text("node:\n\tname: a\n")
    with pytest.raises(ConfigError, match=r"tab.yaml:2: a tab stands here: use spaces"):
        checked(path)


def test_all_faults_are_raised_together(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("a: 1\nb: 2\n")
    with pytest.raises(ConfigFileError) as raised:
        load(path)
    assert raised.value.lines == (f"{path}:1: a: unknown key", f"{path}:2: b: unknown key")
    assert "\n" not in str(raised.value), "the log has it in one line"


def test_a_message_is_bounded_however_many_faults(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("".join(f"k{number}: 1\n" for number in range(1000)))
    with pytest.raises(ConfigFileError) as raised:
        load(path)
    assert len(raised.value.lines) == 51
    assert raised.value.lines[-1] == "and 950 more faults"


def test_types_are_named_in_plain_words(tmp_path: Path) -> None:
    text = """\
kubernetes: {enabled: maybe}
report: {max_container_series: many}
culling: {exemptions: [{reason: x, owners: [a], until: soon}], budget: {per_node: 1.5}}
rules: {}
node: 3
"""
    assert faults(tmp_path, text) == [
        "1: kubernetes.enabled: expected true or false or null, got text",
        "2: report.max_container_series: expected a whole number, got text",
        "3: culling.exemptions[0].until: expected a date such as 2027-01-31",
        "3: culling.budget.per_node: expected a whole number, got a number",
        "4: rules: expected a list, got a mapping",
        "5: node: expected a mapping, got a whole number",
    ]


def test_an_enum_without_a_near_value_lists_all(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "culling: {ladder: [{actions: [zzz]}]}")
    assert fault.endswith(
        "'zzz': use observe, label, stop, pause, kill, stop-container, stop-server, evict, delete"
    )


def test_anchors_and_merges_are_values_like_others(tmp_path: Path) -> None:
    merged = "examination: &e {window: 2m}\nculling: {hold: &h 1m, pause: *h}\n"
    assert faults(tmp_path, merged) == []
    path = tmp_path / "merge.yaml"
    path.write_text(
        "culling:\n  exemptions:\n    - &x {reason: a, owners: [o]}\n    - {<<: *x, reason: b}\n"
    )
    assert [each.reason for each in load(path).culling.exemptions] == ["a", "b"]
    assert faults(tmp_path, "culling: &c {exemptions: [{<<: *c}]}")
    assert faults(tmp_path, "rules: &r [*r]")


def test_further_checks_are_of_single_values(tmp_path: Path) -> None:
    def refuse(value: str) -> None:
        raise ConfigError(f"{value} is not wanted")

    path = tmp_path / "agent.yaml"
    path.write_text("rules:\n  - a\n  - b\nlisten: x\n")
    found = checked(path, {"rules[]": refuse}).faults
    assert [str(fault) for fault in found] == [
        "rules[0]: a is not wanted",
        "rules[1]: b is not wanted",
        "listen: invalid address 'x': use ADDRESS:PORT",
    ]


def test_the_lines_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("\ninterval: 5s\nculling:\n  hold: 1m\n")
    assert checked(path).lines == {"": 2, "interval": 2, "culling": 3, "culling.hold": 4}


@given(st.text(st.sampled_from("culing: {}[]-&*x<rules\n  !12"), max_size=60))
@settings(max_examples=examples(200))
def test_no_text_does_anything_but_load_or_raise_our_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("faults", numbered=True) / "agent.yaml"
    path.write_text(text)
    said = str(path)
    try:
        assert isinstance(load(path), Config)
    except ConfigError as error:
        said = str(error)
    assert said.startswith(str(path))


@pytest.mark.parametrize("seconds", [0.05, 0.0005, 1.5, 60, 90, 5400, 86400, 100_000])
def test_a_duration_is_written_as_it_is_read(seconds: float) -> None:
    assert duration_s(duration_text(Duration(seconds))) == seconds
