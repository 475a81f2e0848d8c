"""Text of the screen itself: choices, help, empty tables, proposals. Pure."""

from __future__ import annotations

from rich.text import Text

from minerwatch.format import counted
from minerwatch.untrusted_text.display import printable, shown_name
from minerwatch.view.lines import wrapped
from minerwatch.view.screen.containers import Kind, View
from minerwatch.view.screen.nodes import NodeRow, node_lines
from minerwatch.view.screen.page import Section
from minerwatch.view.screen.poll import Poll
from minerwatch.view.screen.presentation import Presentation

_TEXT_LENGTH = 400

COPY_CHOICES = (
    ("t", "text", "the explanation as text"),
    ("j", "json", "the same as JSON, with all processes"),
    ("s", "save", "both, into files here that only you can read"),
)

ACTION_QUESTION = "Which action? It is shown first; nothing is done before you type the name"
FILTER_HINT = "words of a name, image, owner, reason or argument"
GROUP = "A group cannot be acted upon: choose one container."
NO_ROW = "There is no container to choose."
NOT_ITS_NAME = "That is not its name: nothing was done."


def empty_text(poll: Poll | None, shown: Presentation | None, view: View, waits_for: str) -> str:
    """Return why there is no row, and what to do about it."""
    if poll is None:
        return f"{printable(waits_for, _TEXT_LENGTH)} …"
    if poll.failure and not poll.statuses:
        failure = printable(poll.failure, _TEXT_LENGTH)
        return f"{failure}\nIt is tried again; r tries now, q quits."
    if poll.progress is not None and not poll.statuses:
        return "waiting for the first answer …"
    limits = poll.coverage.limits if poll.coverage is not None else ""
    named = "container" if view.kind is Kind.CONTAINERS else view.kind.value.lower().rstrip("es")
    if view.text:
        text = shown_name(view.text)
        return f"No {named} here holds “{text}”{limits}.\nEsc shows all again."
    if view.kind is not Kind.CONTAINERS:
        return f"Nothing is flagged and nothing is busy{limits}.\na shows idle processes."
    hidden = len(shown.every) - shown.containers if shown else 0
    if hidden:
        idle = f"{counted(hidden, 'idle container')} {'is' if hidden == 1 else 'are'} not shown."
        return f"Nothing is flagged and nothing is busy{limits}.\n{idle} a shows them."
    if poll.coverage is not None and poll.coverage.missing:
        return f"No container to show{poll.coverage.limits}.\nn lists the nodes."
    where = f" in namespace {shown_name(view.namespace)}" if view.namespace else ""
    return (
        f"No container here{where}.\n"
        "With node.units off only containers are watched: see docs/configuration.md."
    )


SORTS = (
    ("S", "score", "score"),
    ("C", "cpu", "CPU now"),
    ("H", "hours", "CPU hours"),
    ("L", "limit", "share of the limit"),
    ("T", "throttled", "throttling"),
    ("A", "age", "age"),
    ("N", "name", "name"),
    ("O", "owner", "owner"),
    ("I", "image", "image"),
    ("D", "node", "node"),
    ("U", "gpu", "GPUs in use now"),
    ("M", "memory", "memory of processes"),
)
"""Key, as ``--sort`` takes it, and in words."""

HELP = {
    "Keys": (
        ("↑ ↓ K j", "a row up or down; PgUp and PgDn a page; also by the mouse"),
        ("Home g", "back to the worst: the first row stays selected, whichever it is"),
        ("End G", "the last row"),
        ("Enter", "why: findings with evidence, processes, connections, history; a group opens"),
        ("← →", "close or open a group"),
        ("/", "only rows with each word: names, images, owners, reasons, arguments; Esc: all"),
        ("s", "sort by …; or at once, the second time the other way round:"),
        *((letter, said) for letter, _, said in SORTS),
        ("t", "tree: by owner, by campaign, or none; processes: fold those that are alike"),
        ("a", "idle ones too, or not"),
        ("p", "processes by CPU, flagged or not"),
        ("n", "nodes: which did not answer and why; CPU, version, rules, mode"),
        ("Tab", "the next table; on a page the next section, shift+Tab the one before"),
        ("e", "copy the explanation (text, JSON), or save it"),
        ("k", "propose an action: what the policy says and what would be asked; needs culling"),
        ("space", "pause, go on"),
        ("r", "look again now"),
        ("^p", "find any command by its name, also colours (theme)"),
        ("?", "this help"),
        ("q", "quit; elsewhere, as Esc: back"),
        ("^c", "quit; or copy what the mouse selected (with shift the terminal selects)"),
    ),
    "On a page": (
        ("/ n N", "search; the next line that has it, the one before"),
        ("t", "processes as a tree, or by CPU"),
    ),
    "Columns": (
        ("SCORE", "0 to 100, joined from what independent signals say"),
        ("LEVEL", "clear below 30, suspicious, from 70 likely, from 90 confirmed"),
        ("ABUSE", "what it looks like: mining, scanning, flooding, proxyware, …"),
        ("SIGNALS", "id(entity) net(work) comp(ute) cont(ent) exec(ution) behav(iour)"),
        ("CPU", "cores in use now"),
        ("LAST", "recent cores: a full bar is the limit, else a core or the most of them"),
        ("%LIMIT", "of the CPU limit; ! the limit holds it back (throttled)"),
        ("CPU-H", "CPU hours in all"),
        ("GPU", "GPUs kept busy, of those requested; ! the pod requested none; GPU-H: hours"),
        ("SINCE", "how long the level has been what it is"),
        ("AGE", "of the pod"),
        ("[3m ago]", "the node no longer answers: so long ago it was like this"),
        ("FOUND", "signals of the findings on a process"),
        ("9 × name", "processes of one container that are alike, summed; t unfolds them"),
    ),
    "Levels": (
        ("confirmed", "independent kinds of evidence agree: look at them, then act"),
        ("likely", "look now: the evidence is strong, but of one kind"),
        ("suspicious", "look when there is time"),
        ("clear", "no known sign of abuse was found; that is no proof"),
    ),
}  # fmt: skip


def help_sections(width: int) -> list[Section]:
    """Return all keys, columns and levels."""
    return [
        (title, [line for word, meaning in entries for line in _entry(word, meaning, width)])
        for title, entries in HELP.items()
    ]


def node_sections(row: NodeRow, poll: Poll, width: int) -> list[Section]:
    """Return all that is known of a node, and of how the nodes were asked."""
    blind = (poll.coverage.blind_spot,) if poll.coverage else ()
    limits = [line for said in (*blind, *poll.notes) for line in text_lines(said, width)]
    lines = [
        Text(piece, line.style)
        for line in node_lines(row, poll)
        for piece in wrapped(line.plain, max(20, width))
    ]
    return [("", lines), *([("Limits", limits)] if limits else [])]


def text_lines(text: str, width: int, style: str = "", indent: str = "") -> list[Text]:
    """Return text from elsewhere, line by line, escaped."""
    return [
        Text(indent + piece, style)
        for line in text.splitlines()
        for piece in wrapped(printable(line), max(20, width - len(indent)))
    ]


def _entry(word: str, meaning: str, width: int) -> list[Text]:
    head = f"  {word:<14} "
    first, *rest = wrapped(meaning, max(20, width - len(head)))
    return [
        Text.assemble((head, "bold"), first),
        *(Text(" " * len(head) + piece) for piece in rest),
    ]
