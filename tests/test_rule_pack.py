"""What holds of every rule that is shipped."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path

import pytest
import yaml

from minerwatch.config import BUILT_IN_RULES
from minerwatch.detection import rulebook
from minerwatch.detection.check import Recording, failed_tests, replayed
from minerwatch.detection.judge import joined_score
from minerwatch.detection.lint import lint
from minerwatch.detection.match import Matcher
from minerwatch.detection.rule import BEHAVIOUR_LIMIT, LEVEL_SCORES, Rule
from minerwatch.model import FactValue, Level, Signal

BOOK = rulebook.load((BUILT_IN_RULES,))
MATCHER = Matcher(BOOK.rules)
DAY_S = 86_400.0

INNOCENT: dict[str, dict[str, FactValue]] = {
    "a simulation on all cores": {
        "Comm": "python3", "CommandLine": "python3 train.py", "Image": "/usr/bin/python3.11",
        "CpuCores": 15.9, "CpuFlatness": 0.999, "Threads": 16, "SaturatedThreads": 16,
        "CpuSeconds": 5e6, "Age": 4e5, "RssMiB": 2500.0, "HugepagesMiB": 2048.0,
        "ContainerCpuCores": 15.9, "ContainerCpuLimit": 16.0, "ContainerCpuHours": 900.0,
        "HiddenCpuShare": 0.9,
    },
    "grep for pools": {
        "Comm": "grep", "CommandLine": "grep -r stratum+tcp:// .", "Image": "/usr/bin/grep",
    },
    "vim on a rule": {
        "Comm": "vim", "CommandLine": "vim rules/xmrig.yml", "Image": "/usr/bin/vim.basic",
    },
    "git log of a miner": {
        "Comm": "git", "CommandLine": "git log --grep=--donate-level", "Image": "/usr/bin/git",
    },
    "apt of a miner": {
        "Comm": "apt-get", "CommandLine": "apt-get install xmrig", "Image": "/usr/bin/apt-get",
    },
    "a kernel thread's name in an argument": {
        "Comm": "ps", "CommandLine": "ps -C kworker/0:1", "Image": "/usr/bin/ps",
        "KernelThreadName": False,
    },
}  # fmt: skip


def ids(rule: Rule) -> str:
    return str(rule.path.relative_to(BUILT_IN_RULES))


def test_every_file_is_good_and_every_embedded_test_holds() -> None:
    assert [str(remark) for remark in lint(BOOK)] == []
    assert [str(failure) for failure in failed_tests(BOOK.rules, MATCHER)] == []


def test_there_are_enough_over_all_signals() -> None:
    assert len(BOOK.rules) >= 120
    assert {rule.signal for rule in BOOK.rules} == set(Signal)


@pytest.mark.parametrize("rule", BOOK.rules, ids=ids)
def test_a_rule_stands_in_the_folder_of_its_signal(rule: Rule) -> None:
    assert rule.path.parent.name.split("_")[0] == rule.signal.value


@pytest.mark.parametrize("rule", BOOK.rules, ids=ids)
def test_no_rule_alone_confirms(rule: Rule) -> None:
    assert Level.of(rule.score) < Level.CONFIRMED
    if rule.signal is Signal.BEHAVIOUR:
        assert rule.score <= BEHAVIOUR_LIMIT


@pytest.mark.parametrize("rule", BOOK.rules, ids=ids)
def test_a_rule_says_what_it_needs_to_be_trusted(rule: Rule) -> None:
    assert rule.description
    assert rule.references
    assert rule.falsepositives
    assert any(tag.startswith("attack.") for tag in rule.tags)


@pytest.mark.parametrize("rule", BOOK.rules, ids=ids)
def test_a_rule_is_tested_from_both_sides(rule: Rule) -> None:
    sides = Counter(test.holds for test in rule.tests)
    assert min(sides[True], sides[False]) >= 3
    assert len({str(test.facts) for test in rule.tests}) == len(rule.tests)


@pytest.mark.parametrize("rule", BOOK.rules, ids=ids)
def test_the_header_is_in_the_form_that_others_read(rule: Rule) -> None:
    assert rule.level in LEVEL_SCORES
    assert date.fromisoformat(rule.date)
    assert rule.author
    assert all(reference.startswith("https://") for reference in rule.references)
    assert rule.logsource.product == "linux"


def test_scores_obey_the_design() -> None:
    highest = {
        signal: max((rule.score for rule in BOOK.rules if rule.signal is signal), default=0.0)
        for signal in Signal
    }
    assert Level.of(joined_score({Signal.BEHAVIOUR: highest[Signal.BEHAVIOUR]})) is Level.CLEAR
    for signal, score in highest.items():
        assert Level.of(joined_score({signal: score})) < Level.CONFIRMED
        if signal is not Signal.BEHAVIOUR and score >= LEVEL_SCORES["critical"]:
            both = {signal: score, Signal.BEHAVIOUR: highest[Signal.BEHAVIOUR]}
            assert Level.of(joined_score(both)) is Level.CONFIRMED


@pytest.mark.parametrize("path", sorted(BUILT_IN_RULES.glob("lists/*.txt")), ids=lambda p: p.name)
def test_lists_are_sorted_and_say_where_they_are_from(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line for line in lines if line.startswith("#")]
    entries = [line for line in lines if not line.startswith("#")]
    assert lines == comments + entries
    assert entries == sorted(dict.fromkeys(entry.strip().lower() for entry in entries), key=order)
    assert any("Source:" in comment for comment in comments)
    assert any("Date:" in comment for comment in comments)


def order(entry: str) -> tuple[int, str]:
    return (int(entry), "") if entry.isdecimal() else (0, entry)


READER_BLOCK = (
    *("tool", "interpreter", "inline_or_tool_script", "scratch_folder"),
    *("executable_known", "first_word"),
)


def test_the_block_that_leaves_readers_out_is_the_same_in_all_rules() -> None:
    blocks: dict[str, list[str]] = {}
    for rule in BOOK.rules:
        detection = yaml.safe_load(rule.path.read_text(encoding="utf-8"))["detection"]
        if "tool" in detection:
            block = repr({name: detection.get(name) for name in READER_BLOCK})
            blocks.setdefault(block, []).append(rule.title)
    assert len(blocks) == 1, list(blocks.values())
    assert len(next(iter(blocks.values()))) >= 10


@pytest.mark.parametrize("facts", INNOCENT.values(), ids=INNOCENT.keys())
def test_innocents_are_clear_however_long_it_lasts(facts: dict[str, FactValue]) -> None:
    outcome = replayed(Recording(1, "", DAY_S, facts), MATCHER)
    assert outcome.level == "clear", outcome.rules


BURNING: dict[str, FactValue] = {
    "CpuCores": 4.0, "CpuFlatness": 0.99, "SaturatedThreads": 4, "Threads": 9, "CpuSeconds": 3e5,
    "ContainerCpuCores": 4.0, "ContainerCpuLimit": 4.0, "ContainerCpuHours": 90.0,
}  # fmt: skip
PYTHON = "/opt/conda/bin/python3.11"
BUSY_INNOCENTS = (
    ("python -m ipykernel_launcher -f /home/jovyan/.local/share/jupyter/kernel-1a2b.json", PYTHON),
    ("python /opt/conda/bin/jupyterhub-singleuser --ip=0.0.0.0 --port=8888", PYTHON),
    ("python train.py --algo ppo --server localhost:8080 --pool 8", PYTHON),
    ("celery -A proj worker --pool=prefork -c 8", PYTHON),
    ("dask-worker tcp://scheduler:8786 --nthreads 4", PYTHON),
    ("gunicorn app:app -b 0.0.0.0:3333 -w 4 -u www -k gevent", PYTHON),
    ("python price.py --coins xmr,eth --wallet 0x1234567890ABCDEF1234567890abcdef12345678", PYTHON),
    ("python -m pytest tests -k xmrig", PYTHON),
    ("pip install randomx", "/opt/conda/bin/pip"),
    ("mpirun -np 8 ./lammps -in in.melt", "/usr/bin/mpirun"),
    ("gmx mdrun -nt 8 -s md.tpr -o traj.trr", "/usr/local/gromacs/bin/gmx"),
    ("./a.out", "/home/jovyan/a.out"),
    ("Rscript cryptocurrency.R", "/usr/lib/R/bin/exec/R"),
    ("java -Xmx4g -jar /opt/spark/x.jar --master spark://m:7077", "/usr/lib/jvm/bin/java"),
    ("node /srv/app/server.js --port 3333", "/usr/bin/node"),
    ("ffmpeg -i in.mp4 -c:v libx264 -threads 8 out.mp4", "/usr/bin/ffmpeg"),
    ("hashcat -a 0 -m 1000 -o cracked.txt hashes.txt words.txt", "/usr/bin/hashcat"),
    ("openssl speed -multi 8", "/usr/bin/openssl"),
    ("stress-ng --cpu 4 --cpu-method fft", "/usr/bin/stress-ng"),
    ("cc1plus -quiet -I /src/xmrig/src randomx.cpp", "/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus"),
    ("rustc --crate-name randomx src/lib.rs", "/root/.rustup/toolchains/stable/bin/rustc"),
    ("make -C xmrig -j8", "/usr/bin/make"),
    ("docker build -t xmrig .", "/usr/bin/docker"),
    ("bash -c while true; do pgrep xmrig && pkill xmrig; sleep 1; done", "/usr/bin/bash"),
    ("yara -r rules/miner.yar /home", "/usr/bin/yara"),
    ("tail -f /var/log/xmrig.log", "/usr/bin/tail"),
    ("monerod --non-interactive --rpc-bind-port 18081", "/usr/bin/monerod"),
    ("geth --http --http.port 8545 --syncmode snap", "/usr/bin/geth"),
    ("bitcoind -server -rpcuser=u -rpcpassword=x -port=8333", "/usr/bin/bitcoind"),
    ("prometheus-xmrig-exporter --xmrig.url http://x:8080", "/usr/bin/exporter"),
    ("pgbench -c 10 -h db -p 5432 -U u", "/usr/bin/pgbench"),
    ("nats pub -s nats://nats:4222 --user u --password p subj hi", "/usr/local/bin/nats"),
    ("k6 run -u 10 -d 30s -o influxdb=http://h:8086 script.js", "/usr/bin/k6"),
    ("kubelet --config=/var/lib/kubelet/config.yaml --node-ip=10.0.0.3", "/usr/bin/kubelet"),
    ("nginx: worker process", "/usr/sbin/nginx"),
    ("postgres: walwriter ", "/usr/lib/postgresql/15/bin/postgres"),
    ("qemu-system-x86_64 -m 4096 -smp 4", "/usr/bin/qemu-system-x86_64"),
)


HAVE_ONE_THREAD = {"/usr/bin/bash", "/usr/bin/tail"}


def process_facts(command_line: str, image: str) -> dict[str, FactValue]:
    return {"CommandLine": command_line, "Image": image, "Comm": image.rpartition("/")[2][:15]}


@pytest.mark.parametrize(("command_line", "image"), BUSY_INNOCENTS)
def test_whatever_burns_cpu_is_clear_while_nothing_else_speaks(
    command_line: str, image: str
) -> None:
    facts = {**process_facts(command_line, image), **BURNING}
    if image in HAVE_ONE_THREAD:
        facts |= {"Threads": 1, "SaturatedThreads": 1, "CpuCores": 1.0}
    outcome = replayed(Recording(1, "", DAY_S, facts), MATCHER)
    assert outcome.level == "clear", outcome.rules
    speaking = {rule.signal for rule in BOOK.rules if rule.id in outcome.rules and rule.score}
    assert speaking == {Signal.BEHAVIOUR}


@pytest.mark.parametrize(
    "further",
    [
        {"ExeDeleted": True},  # upgraded or built anew under way
        {"LongestConnection": 1e5, "DestinationPort": ("8786",), "DestinationIp": ("10.0.0.4",)},
        {"DestinationPort": ("9000", "443", "8888", "2222", "5432"), "LongestConnection": 60.0},
        {"HugepagesMiB": 2200.0, "RssMiB": 3000.0},
        {"HiddenCpuShare": 0.9},
    ],
    ids=lambda further: ",".join(further),
)
def test_a_long_simulation_is_clear_whatever_else_is_usual(further: dict[str, FactValue]) -> None:
    facts = {**process_facts("python sim.py", PYTHON), **BURNING, **further}
    outcome = replayed(Recording(1, "", 30 * DAY_S, facts), MATCHER)
    assert outcome.level == "clear", outcome.rules


MONERO = (
    "4ADT1BtbxqEWeMKp9GgPr2NeyJXXtNxvoDawpyA4WpzFcGcoHUv"
    "XeijE66DNfohE9r1bQYaBiQjEtKE7CtkTdLwiDznFzra"
)
MINERS = (
    (f"./xmrig -o pool.supportxmr.com:443 -u {MONERO} -p x -k", "/home/jovyan/xmrig", "confirmed"),
    (f"./python3 -o 192.0.2.1:80 -u {MONERO} -p w", "/home/jovyan/python3", "confirmed"),
    ("./x --donate-level=1 -o 192.0.2.1:3333", "/home/u/x", "confirmed"),
    ("./m -a yespower -o stratum+tcp://p:3333 -u a.b -p c=BTC", "/home/u/m", "confirmed"),
    ("./l --algo ETCHASH --pool etc.2miners.com:1010 --user 0x0.r", "/home/u/l", "confirmed"),
    ("python3 run.py --pool stratum+tcp://p:3333 --wallet abc", PYTHON, "confirmed"),
    (f"./n -algo randomx -wallet {MONERO}", "/root/n", "confirmed"),
    ("xmrig -c config.json", "/home/u/xmrig", "likely"),
    ("./kinsing", "/tmp/kinsing", "likely"),
    ("/var/tmp/.systemd/journald", "/var/tmp/.systemd/journald", "suspicious"),
)


@pytest.mark.parametrize(("command_line", "image", "level"), MINERS)
def test_miners_reach_their_level(command_line: str, image: str, level: str) -> None:
    facts = {**process_facts(command_line, image), **BURNING}
    assert replayed(Recording(1, "", DAY_S, facts), MATCHER).level == level
    idle = replayed(Recording(1, "", DAY_S, process_facts(command_line, image)), MATCHER)
    assert idle.level != "confirmed"


def test_a_plain_miner_is_confirmed_once_it_has_burnt_cpu_for_some_time() -> None:
    facts: dict[str, FactValue] = {
        "Comm": "xmrig", "Image": "/tmp/xmrig", "CpuCores": 3.9, "CpuFlatness": 0.99,
        "CommandLine": "./xmrig -o stratum+tcp://pool.supportxmr.com:3333 -u 4AdU --donate-level 1",
    }  # fmt: skip
    assert replayed(Recording(1, "", 0, facts), MATCHER).level == "likely"
    assert replayed(Recording(1, "", 600, facts), MATCHER).level == "confirmed"
