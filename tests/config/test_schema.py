from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from minerwatch.config.reader import load
from minerwatch.config.schema import BUILT_IN_RULES, Config, Culling, default_socket
from minerwatch.config.values import (
    DRY_RUN,
    ENFORCE,
    OFF,
    Duration,
    Mode,
    duration_s,
    host_and_port,
)
from minerwatch.errors import ConfigError
from minerwatch.model import Action
from minerwatch.untrusted_text.display import printable
from tests.builders import config_of


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.yml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_without_a_file_everything_has_a_default() -> None:
    assert load(None) == Config()
    assert float(Config().interval) == 10
    assert Config().listen == "127.0.0.1:9797"


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load(written(tmp_path, "# nothing\n")) == Config()


def test_what_is_written_is_what_holds(tmp_path: Path) -> None:
    text = "interval: 1m\nnode: {units: false}\nexamination: {window: 2.5m}\nrules: [/etc/rules]\n"
    config = load(written(tmp_path, text))
    assert float(config.interval) == 60
    assert config.node.units is False
    assert float(config.examination.window) == 150
    assert config.rule_folders() == (BUILT_IN_RULES, Path("/etc/rules"))


def test_private_rules_stand_on_top_of_all_others() -> None:
    config = Config(rules=("/r",), private_rules=("/secret",))
    assert config.rule_folders() == (BUILT_IN_RULES, Path("/r"), Path("/secret"))
    assert config.private_rule_folders() == (Path("/secret"),)


def test_built_in_rules_can_be_left_out() -> None:
    assert Config(built_in_rules=False, rules=("/r",)).rule_folders() == (Path("/r"),)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("intervall: 1s", "intervall"),
        ("interval: soon", "interval"),
        ("interval: 0", "interval"),
        ("node: {prok: /proc}", "prok"),
        ("node: {units: 3}", "node.units"),
        ("probes: {execs_cpu_share: 2}", "probes.execs_cpu_share"),
        ("probes: {ptrace: true}", "probes.ptrace: removed; minerwatch no longer stops threads."),
        ("examination: {suspect_after: 1m}", "examination.suspect_after: removed; CPU time of the"),
        ("examination: {suspect_cpu_cores: 1}", "examination.suspect_cpu_cores: removed; CPU time"),
        ("probes: {resolve_pools: false}", "probes.resolve_pools: removed; minerwatch no longer"),
        ("judgement: {ticks_below: 0}", "judgement.ticks_below"),
        ("examination: {window: -1s}", "window"),
        ("rules: /etc/rules", "rules"),
        ("listen: here", "listen"),
        ("tls: {client_ca: /ca.pem}", "tls: certificate is missing"),
        ("- a", "the whole file"),
        ("a: [", ":1: "),
        (
            "a: 1\nculling: {exemptions: [{until: 2026-02-30}]}",
            ":2: culling.exemptions[0].until: not a",
        ),
        ("interval: " + "9" * 400, "interval: "),
        ("interval: 4000d", "interval: invalid duration '4000d': use at most ten years"),
        ("listen: ':" + "9" * 5000 + "'", "listen"),
        ("interval: !!int ''", ":1: interval: not a value"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_an_error_is_one_line_that_names_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert str(raised.value).startswith(str(path))
    assert key in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_text_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(written(tmp_path, b"interval: \xff"))
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.yml")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("250ms", 0.25), ("1.5m", 90), ("2h", 7200), ("1d", 86400), (7, 7), ("0.5", 0.5)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1w", "1 0s", "inf", "nan", "1e9", "0", "0s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="duration"):
        duration_s(text)


@pytest.mark.parametrize(
    ("listen", "parts"),
    [
        ("127.0.0.1:9797", ("127.0.0.1", 9797)),
        (":9797", ("", 9797)),
        ("[::1]:0", ("::1", 0)),
        ("node-1:80", ("node-1", 80)),
    ],
)
def test_addresses(listen: str, parts: tuple[str, int]) -> None:
    assert host_and_port(listen) == parts


@pytest.mark.parametrize("listen", ["", "9797", "a:b", "a:70000", "a:-1", "a:", "a:٣"])
def test_what_is_no_address(listen: str) -> None:
    with pytest.raises(ConfigError, match="ADDRESS:PORT"):
        host_and_port(listen)


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(Config.__struct_fields__), trees, max_size=4))
@example({"node": {"\n": None}})
def test_no_tree_does_anything_but_parse_or_raise_our_error(tree: dict[str, object]) -> None:
    said = ""
    try:
        config_of(tree)
    except ConfigError as error:
        said = str(error)
    assert not said or re.match(r"/\S+\.yml(:[0-9]+)?: ", said)
    assert "\n" not in printable(said), "as every command and log prints it"


def test_the_socket_of_an_ordinary_user_is_in_their_own_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert default_socket() == Path("/run/user/1000/minerwatch/agent.sock")


# Culling.


def culling(text: str) -> Culling:
    return config_of({"culling": yaml.safe_load(text)}).culling


def test_culling_is_off_and_names_no_namespace_by_default() -> None:
    assert Culling().mode == OFF
    assert Culling().namespaces == ()
    assert [rungs.actions for rungs in Culling().ladder] == [(Action.LABEL,)]


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("mode: off", OFF),  # to YAML 1.1 that is false
        ("mode: 'off'", OFF),
        ("mode: dry-run", DRY_RUN),
        ("mode: enforce", ENFORCE),
    ],
)
def test_modes_of_culling(text: str, mode: Mode) -> None:
    assert culling(text).mode == mode


def test_what_is_written_about_culling_is_what_holds() -> None:
    settings = culling(
        "{selector: 'app in (a, b)', grace_period: 30s, active_hours: [mon-fri 09:00-17:00],"
        " ladder: [{namespaces: [x*], score: 95, actions: [evict, delete]}],"
        " exemptions: [{reason: thesis, until: 2027-01-31, owners: [ada]}]}"
    )
    assert settings.selector.matches({"app": "b"})
    assert settings.grace_period == Duration(30)
    assert settings.active_hours[0].include(1_800_007_200)
    assert settings.ladder[0].actions == (Action.EVICT, Action.DELETE)
    assert settings.exemptions[0].until == date(2027, 1, 31)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mode: on", "culling.mode: invalid mode True: use off, dry-run or enforce"),
        ("mode: enforced", "culling.mode: invalid mode 'enforced': use"),
        ("mode: [off]", "culling.mode"),
        ("selector: a b", "culling.selector: invalid label requirement 'a b'"),
        ("active_hours: [10:00]", r"culling.active_hours\[0\]: invalid hours 600"),
        ("ladder: [{actions: []}]", r"culling.ladder\[0\].actions"),
        ("ladder: [{actions: [delete, label]}]", "list milder ones first"),
        ("ladder: [{actions: [label, label]}]", "list milder ones first"),
        ("ladder: [{actions: [label], score: 70}]", r"culling.ladder\[0\].score"),
        ("exemptions: [{reason: all}]", r"culling.exemptions\[0\]: an exemption needs"),
        ("exemptions: [{owners: [ada]}]", r"culling.exemptions\[0\]: .*reason"),
        ("exemptions: [{reason: ' ', owners: [ada]}]", r"culling.exemptions\[0\].reason"),
        ("exemptions: [{reason: x, owners: [a], until: soon}]", r"culling.exemptions\[0\].until"),
        ("budget: {per_node: -1}", "culling.budget.per_node"),
        ("circuit_breaker: {share: 20}", "culling.circuit_breaker.share"),
        ("namespaces: ['']", r"culling.namespaces\[0\]"),
    ],
)
def test_wrong_settings_of_culling_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        culling(text)


@pytest.mark.parametrize(
    "address", ["https://node:9400/", "node:9400", "http://node:port/", "http://fd00::7:9400/"]
)
def test_an_exporter_that_could_not_be_read_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"node\.gpu_exporter: expected http://HOST:PORT/metrics"):
        config_of({"node": {"gpu_exporter": address}})


@pytest.mark.parametrize("pattern", ["*", "**", "?*"])
@pytest.mark.parametrize("setting", ["platform_namespaces", "hub_namespaces"])
def test_no_setting_takes_all_tenants_for_a_platform(setting: str, pattern: str) -> None:
    with pytest.raises(ConfigError, match=f"owners: .*{re.escape(pattern)}' is every namespace"):
        config_of({"owners": {setting: ["hub", pattern]}})


def test_the_documentation_shows_the_defaults() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    whole, *others = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert config_of(yaml.safe_load(whole)) == Config()
    examples = [part for part in others if not part.startswith("kind: ")]  # a cluster's objects
    assert examples
    for part in examples:
        config_of(yaml.safe_load(part))
