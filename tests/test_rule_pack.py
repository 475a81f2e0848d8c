"""What holds of every rule that is shipped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from minerwatch.authoring.lint import lint
from minerwatch.authoring.recordings import Recording, read_recordings, replayed
from minerwatch.authoring.rule_tests import failed_tests
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.facts import with_destination_count
from minerwatch.detection.judge import joined_score
from minerwatch.detection.sigma.rule import BEHAVIOUR_LIMIT, LEVEL_SCORES, Rule
from minerwatch.model import Abuse, FactValue, Level, Signal
from tests import shipped
from tests.shipped import matcher

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


def rules() -> tuple[Rule, ...]:
    """All of them, read when the first test asks: not by each worker that only collects."""
    return shipped.book().rules


def name_of(rule: Rule) -> str:
    return str(rule.path.relative_to(BUILT_IN_RULES))


def rules_unless(holds: Callable[[Rule], bool]) -> list[str]:
    return [name_of(rule) for rule in rules() if not holds(rule)]


def test_every_file_is_good_and_every_embedded_test_holds() -> None:
    ordinary = read_recordings(BUILT_IN_RULES / "tests" / "benign.jsonl")
    remarks = lint(shipped.book(), ordinary, datetime.now(UTC).date())
    assert [str(remark) for remark in remarks] == []
    assert [str(failure) for failure in failed_tests(rules(), matcher())] == []


def test_there_are_enough_over_all_signals() -> None:
    assert len(rules()) >= 120
    assert {rule.signal for rule in rules()} == set(Signal)


def test_a_rule_stands_in_the_folder_of_its_signal() -> None:
    assert rules_unless(lambda rule: rule.path.parent.name.split("_")[0] == rule.signal.value) == []


def test_no_rule_alone_confirms() -> None:
    assert rules_unless(lambda rule: Level.of(rule.score) < Level.CONFIRMED) == []
    of_behaviour = [each for each in rules() if each.signal is Signal.BEHAVIOUR]
    assert [name_of(each) for each in of_behaviour if each.score > BEHAVIOUR_LIMIT] == []


def test_a_rule_says_what_it_needs_to_be_trusted() -> None:
    assert rules_unless(lambda rule: bool(rule.description)) == []
    assert rules_unless(lambda rule: bool(rule.references)) == []
    assert rules_unless(lambda rule: bool(rule.falsepositives)) == []
    assert rules_unless(lambda rule: any(tag.startswith("attack.") for tag in rule.tags)) == []


def test_a_rule_is_tested_from_both_sides() -> None:
    def both_sides(rule: Rule) -> bool:
        sides = Counter(test.holds for test in rule.tests)
        return min(sides[True], sides[False]) >= 3

    assert rules_unless(both_sides) == []
    assert (
        rules_unless(lambda rule: len({str(e.facts) for e in rule.tests}) == len(rule.tests)) == []
    )


def test_the_header_is_in_the_form_that_others_read() -> None:
    assert rules_unless(lambda rule: rule.level in LEVEL_SCORES) == []
    assert rules_unless(lambda rule: bool(date.fromisoformat(rule.date))) == []
    assert rules_unless(lambda rule: bool(rule.author)) == []
    assert rules_unless(lambda rule: all(e.startswith("https://") for e in rule.references)) == []
    assert rules_unless(lambda rule: rule.logsource.product == "linux") == []


def test_scores_obey_the_design() -> None:
    highest = {
        signal: max((rule.score for rule in rules() if rule.signal is signal), default=0.0)
        for signal in Signal
    }
    assert Level.of(joined_score({Signal.BEHAVIOUR: highest[Signal.BEHAVIOUR]})) is Level.CLEAR
    for signal, score in highest.items():
        assert Level.of(joined_score({signal: score})) < Level.CONFIRMED
        if signal is not Signal.BEHAVIOUR:
            both = {signal: score, Signal.BEHAVIOUR: highest[Signal.BEHAVIOUR]}
            assert Level.of(joined_score(both)) is Level.of(score)
    assert Level.of(joined_score({Signal.IDENTITY: 88.0, Signal.COMPUTE: 60.0})) is Level.CONFIRMED


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


READERS_UNDER_NOT = re.compile(r"\(\?:grep\||yarac?\||/falco|%reader_names%|%randomx_node_names%")


def test_no_rule_leaves_anything_out_by_a_name_that_readers_have() -> None:
    """A tenant chooses names and paths: see docs/rules.md."""
    of_arguments = [rule for rule in rules() if rule.signal is not Signal.CONTENT]
    found = {
        rule.path.name
        for rule in of_arguments
        for line in rule.path.read_text(encoding="utf-8").splitlines()
        if line.lstrip().startswith("Image|") and READERS_UNDER_NOT.search(line)
    }
    assert found == set()


@pytest.mark.parametrize("facts", INNOCENT.values(), ids=INNOCENT.keys())
def test_innocents_are_clear_however_long_it_lasts(facts: dict[str, FactValue]) -> None:
    outcome = replayed(Recording(1, "", DAY_S, facts), matcher())
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
    outcome = replayed(Recording(1, "", DAY_S, facts), matcher())
    assert outcome.level == "clear", outcome.rules
    speaking = {rule.signal for rule in rules() if rule.id in outcome.rules and rule.score}
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
    outcome = replayed(Recording(1, "", 30 * DAY_S, facts), matcher())
    assert outcome.level == "clear", outcome.rules


TOOLS = (
    ("masscan 0.0.0.0/0 -p22 --rate 100000", "/usr/bin/masscan", Abuse.SCANNING, "suspicious"),
    ("nmap -sS -p- 198.51.100.0/24", "/usr/bin/nmap", Abuse.SCANNING, "suspicious"),
    ("zmap -p 6379", "/usr/sbin/zmap", Abuse.SCANNING, "suspicious"),
    (
        "hydra -l root -P w.txt ssh://198.51.100.7",
        "/usr/bin/hydra",
        Abuse.BRUTE_FORCE,
        "suspicious",
    ),
    ("medusa -h 198.51.100.7 -u a -P w -M ssh", "/usr/bin/medusa", Abuse.BRUTE_FORCE, "suspicious"),
    ("hashcat -m 1000 hashes.txt words.txt", "/usr/bin/hashcat", Abuse.CRACKING, "suspicious"),
    ("john --fork=8 hashes.txt", "/opt/john/run/john", Abuse.CRACKING, "suspicious"),
    ("honeygain -tou-accept -email a", "/app/honeygain", Abuse.PROXYWARE, "suspicious"),
    ("./Cli start accept --token AbC=", "/app/Cli", Abuse.PROXYWARE, "suspicious"),
    ("psclient", "/usr/local/bin/psclient", Abuse.PROXYWARE, "suspicious"),
    ("earnapp run", "/usr/bin/earnapp", Abuse.PROXYWARE, "suspicious"),
    ("python3 MHDDoS/start.py UDP 192.0.2.9:80", PYTHON, Abuse.FLOODING, "suspicious"),
    ("xray run -config /etc/xray.json", "/usr/local/bin/xray", Abuse.PROXYWARE, "clear"),
    ("v2ray run", "/usr/bin/v2ray", Abuse.PROXYWARE, "clear"),
    ("cloudflared tunnel run", "/usr/local/bin/cloudflared", Abuse.PROXYWARE, "clear"),
    ("tmate -F", "/usr/bin/tmate", Abuse.PROXYWARE, "clear"),
    ("tor -f torrc", "/usr/bin/tor", Abuse.PROXYWARE, "clear"),
    ("ngrok http 8888", "/usr/local/bin/ngrok", Abuse.PROXYWARE, "clear"),
    ("frpc -c frpc.toml", "/tmp/frpc", Abuse.PROXYWARE, "clear"),
    ("chisel client https://example.org R:1080:socks", "/tmp/chisel", Abuse.PROXYWARE, "clear"),
)


@pytest.mark.parametrize(("command_line", "image", "abuse", "level"), TOOLS)
def test_a_tool_is_named_by_its_abuse(
    command_line: str, image: str, abuse: Abuse, level: str
) -> None:
    arguments = tuple(command_line.split())
    facts = {**process_facts(command_line, image), "CpuSeconds": 120.0, "Arguments": arguments}
    outcome = replayed(Recording(1, "", DAY_S, facts), matcher())
    found = [rule for rule in rules() if rule.id in outcome.rules and rule.score]
    assert (outcome.level, {rule.abuse for rule in found}) == (level, {abuse})


MENTIONS = (
    "grep -r masscan /var/log", "vim nmap.md", "apt-get install hashcat john hydra",
    "git clone https://github.com/MatrixTM/MHDDoS", "less honeygain.txt", "tar xf masscan.tar",
    "ffmpeg -i masscan -metadata title=hydra -l ssh://a out.mp4", "curl -O https://a/earnapp",
    "python3 serve.py MHDDoS/start.py", "cat Cli start accept --token x",
)  # fmt: skip


@pytest.mark.parametrize("command_line", MENTIONS)
def test_a_tools_name_in_an_argument_says_nothing(command_line: str) -> None:
    image = f"/usr/bin/{command_line.split()[0]}"
    arguments = tuple(command_line.split())
    facts = {**process_facts(command_line, image), "CpuSeconds": 120.0, "Arguments": arguments}
    assert replayed(Recording(1, "", DAY_S, facts), matcher()).score == 0


MONERO = (
    "4ADT1BtbxqEWeMKp9GgPr2NeyJXXtNxvoDawpyA4WpzFcGcoHUv"
    "XeijE66DNfohE9r1bQYaBiQjEtKE7CtkTdLwiDznFzra"
)
MINERS = (
    (f"./xmrig -o pool.supportxmr.com:443 -u {MONERO} -p x -k", "/home/jovyan/xmrig", "likely"),
    (f"./python3 -o 192.0.2.1:80 -u {MONERO} -p w", "/home/jovyan/python3", "likely"),
    ("./x --donate-level=1 -o 192.0.2.1:3333", "/home/u/x", "likely"),
    ("./m -a yespower -o stratum+tcp://p:3333 -u a.b -p c=BTC", "/home/u/m", "likely"),
    ("./l --algo ETCHASH --pool etc.2miners.com:1010 --user 0x0.r", "/home/u/l", "likely"),
    ("python3 run.py --pool stratum+tcp://p:3333 --wallet abc", PYTHON, "likely"),
    (f"./n -algo randomx -wallet {MONERO}", "/root/n", "likely"),
    ("xmrig -c config.json", "/home/u/xmrig", "likely"),
    ("xmrig", "/home/u/xmrig", "likely"),
    ("./kinsing", "/tmp/kinsing", "likely"),
    ("/var/tmp/.systemd/journald", "/var/tmp/.systemd/journald", "suspicious"),
)


@pytest.mark.parametrize(("command_line", "image", "level"), MINERS)
def test_miners_reach_their_level(command_line: str, image: str, level: str) -> None:
    facts = {**process_facts(command_line, image), **BURNING}
    assert replayed(Recording(1, "", DAY_S, facts), matcher()).level == level
    idle = replayed(Recording(1, "", DAY_S, process_facts(command_line, image)), matcher())
    assert idle.level != "confirmed"


def test_a_plain_miner_is_confirmed_once_it_is_seen_what_it_computes() -> None:
    facts: dict[str, FactValue] = {
        "Comm": "xmrig", "Image": "/tmp/xmrig", "CpuCores": 3.9, "CpuFlatness": 0.99,
        "CommandLine": "./xmrig -o stratum+tcp://pool.supportxmr.com:3333 -u 4AdU --donate-level 1",
    }  # fmt: skip
    assert replayed(Recording(1, "", 0, facts), matcher()).level == "likely"
    seen: dict[str, FactValue] = {
        **facts, "RoundingModes": 4, "RoundingShare": 0.7, "FlushToZeroShare": 1.0,
    }  # fmt: skip
    assert replayed(Recording(1, "", 600, seen), matcher()).level == "confirmed"


NODE: dict[str, FactValue] = {
    "CommandLine": "monerod --non-interactive", "Comm": "monerod", "Image": "/usr/bin/monerod",
    "RoundingModes": 4, "RoundingShare": 0.5, "FlushToZeroShare": 1.0, "JitMiB": 0.1,
    "LargestAnonymousMiB": 256.0, **BURNING,
}  # fmt: skip
WHAT_A_NODE_DOES: dict[str, FactValue] = {
    "DestinationPort": ("18080",),
    "LargestFileMiB": 262144.0,
}


def test_a_node_is_known_by_what_it_does_and_not_by_its_name() -> None:
    named = replayed(Recording(1, "", 600, NODE), matcher())
    assert Level.of(named.score) >= Level.LIKELY
    for part in WHAT_A_NODE_DOES:
        facts = {**NODE, part: WHAT_A_NODE_DOES[part]}
        assert Level.of(replayed(Recording(1, "", 600, facts), matcher()).score) >= Level.LIKELY
    renamed = {**NODE, **WHAT_A_NODE_DOES, "Image": "/opt/a", "Comm": "a", "CommandLine": "./a"}
    assert Level.of(replayed(Recording(1, "", 600, renamed), matcher()).score) < Level.LIKELY
    later = replayed(Recording(1, "", 1801, renamed), matcher())
    assert Level.of(later.score) >= Level.LIKELY


@pytest.mark.parametrize("name", ["xmrig", "peakminer", "lpminer", "minerd"])
def test_a_miners_name_is_likely_once_it_has_computed(name: str) -> None:
    facts: dict[str, FactValue] = {"CommandLine": name, "Comm": name, "Image": f"/usr/bin/{name}"}
    for cpu_s, level in ((0.2, "suspicious"), (29.0, "suspicious"), (30.0, "likely")):
        used: dict[str, FactValue] = {**facts, "CpuSeconds": cpu_s, "CpuCores": 0.5}
        assert replayed(Recording(1, "", 60, used), matcher()).level == level


@pytest.mark.parametrize(
    "title",
    [
        *("postgres: analyst db SELECT", "nginx: worker process", "php-fpm: pool www"),
        *("[celeryd: celery@9f1c:ForkPoolWorker-3] -active-", "ray::train", "sshd: u@pts/0"),
    ],
)
def test_a_busy_program_with_a_title_is_clear(title: str) -> None:
    facts = {**process_facts(title, PYTHON), **BURNING, "CommandLineHidden": True}
    assert replayed(Recording(1, "", DAY_S, facts), matcher()).level == "clear"


def test_a_busy_program_without_arguments_is_suspicious() -> None:
    hidden: dict[str, FactValue] = {
        **BURNING, "Image": "/home/u/a", "Comm": "a", "CommandLineHidden": True,
    }  # fmt: skip
    assert replayed(Recording(1, "", 60, hidden), matcher()).level == "suspicious"


PLACES: tuple[tuple[dict[str, FactValue], float, str], ...] = (
    ({"Image": "/root/.gdm2_manual/.swapd/swapd"}, 600, "suspicious"),  # hidden in a hidden one
    ({"Image": "/home/u/.local/share/.k/a"}, 600, "suspicious"),
    ({"Image": "/.x86_64"}, 600, "suspicious"),  # a hidden file in /
    ({"Image": "/tmp/#4711", "ExeDeleted": True}, 600, "suspicious"),  # O_TMPFILE
    ({"Image": "/tmp/.zig/a"}, 600, "suspicious"),
    ({"Image": "/tmp/kernel"}, 3600, "suspicious"),
    ({"Image": "/dev/shm/0f3a.91bc/agent"}, 300, "clear"),  # unpacks itself, and is done soon
    ({"Image": "/dev/shm/0f3a.91bc/agent"}, 3600, "suspicious"),
    ({"Image": "/tmp/checkout-1/.zig-cache/o/5f3c9a/test"}, 3600, "clear"),
    ({"Image": "/tmp/repo/target/release/deps/sim-91ab"}, 3600, "clear"),
    ({"Image": "/tmp/appimage_extracted_0f3a7c6b/usr/bin/prusa-slicer"}, 3600, "clear"),
    ({"Image": "/home/u/app/node_modules/.bin/esbuild"}, 3600, "clear"),
    ({"Image": "/home/u/.claude/worktrees/a/.venv/bin/python3.11"}, 3600, "clear"),
    ({"Image": "/usr/bin/rootlessport", "Comm": "exe", "CommDiffers": True}, 3600, "clear"),
    (
        {
            "Image": "/usr/local/bin/runsc", "Comm": "exe", "CommandLineHidden": True,
            "ParentImage": "/usr/local/bin/runsc", "ParentCommandLine": "runsc-sandbox boot",
        },
        3600,
        "clear",
    ),
)  # fmt: skip


@pytest.mark.parametrize(("facts", "seconds", "level"), PLACES, ids=lambda each: str(each)[:60])
def test_where_a_busy_program_lies(facts: dict[str, FactValue], seconds: float, level: str) -> None:
    outcome = replayed(Recording(1, "", seconds, {**BURNING, **facts}), matcher())
    assert outcome.level == level, outcome.rules


def test_a_torrent_client_with_a_peer_on_a_pools_port_is_clear() -> None:
    ports = ("6881", "51413", "3333", "14444", "5555", "45700", "8080")
    peers: dict[str, FactValue] = {
        "CommandLine": "rtorrent -D", "Image": "/usr/bin/rtorrent", "Comm": "rtorrent",
        "DestinationPort": ports, "DestinationIp": tuple(f"198.51.100.{n}" for n in range(7)),
        "LongestConnection": 20000.0, **BURNING,
    }  # fmt: skip
    many = with_destination_count(peers)
    assert replayed(Recording(1, "", DAY_S, many), matcher()).level == "clear"
    one = {**peers, "DestinationPort": ("3333",), "DestinationIp": ("198.51.100.4",)}
    facts = with_destination_count(one)
    assert replayed(Recording(1, "", DAY_S, facts), matcher()).level == "suspicious"
