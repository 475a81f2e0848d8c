"""Nobody innocent can be framed: arguments chosen by an outsider make no honest program `likely`.

Every string is one argument of a busy program, where that program takes a file name, a title, an
address or a prompt: the rules' own examples, whole and word for word, and the words that they look
for.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from minerwatch.config import BUILT_IN_RULES
from minerwatch.detection import rulebook
from minerwatch.detection.check import Recording, replayed
from minerwatch.detection.condition import All, Any, Condition, Not, Text
from minerwatch.detection.match import Matcher
from minerwatch.detection.rule import Rule
from minerwatch.detection.words import with_arguments
from minerwatch.model import Facts, FactValue, Level, Signal

BOOK = rulebook.load((BUILT_IN_RULES,))
MATCHER = Matcher(BOOK.rules)
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
}


def with_words(image: str, arguments: tuple[str, ...], words: str) -> dict[str, FactValue]:
    line = tuple(argument.replace("{}", words) for argument in arguments)
    name = image.rpartition("/")[2]
    use = {**BUSY, **ONE_THREAD} if name in HAVE_ONE_THREAD else BUSY
    return {"Image": image, "Comm": name[:15], "Arguments": line, **use}


def accused(facts: Facts) -> str:
    outcome = replayed(Recording(1, "", HOUR_S, with_arguments(facts)), MATCHER)
    if Level.of(outcome.score) <= Level.SUSPICIOUS and not outcome.cullable:
        return ""
    titles = [rule.title for rule in BOOK.rules if rule.id in outcome.rules and rule.score >= 30]
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


OF_ARGUMENTS = [rule for rule in BOOK.rules if rule.signal in (Signal.IDENTITY, Signal.EXECUTION)]
WORDS = {rule.title: tuple(dict.fromkeys(filter(None, own_words(rule)))) for rule in OF_ARGUMENTS}


@pytest.mark.parametrize("title", [title for title, words in WORDS.items() if words])
def test_a_rules_own_words_as_one_argument_accuse_no_busy_program(title: str) -> None:
    found = {
        (victim, words): text
        for victim, (image, arguments) in VICTIMS.items()
        for words in WORDS[title]
        if (text := accused(with_words(image, arguments, words)))
    }
    assert found == {}
