"""What the screen says of itself: its keys, its help, and what stands where no row can. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from minerwatch.cli.top_screen.look import Look
from minerwatch.cli.top_screen.proposal import Proposal
from minerwatch.cli.top_screen.rows import View
from minerwatch.format import counted
from minerwatch.untrusted_text.display import printable
from minerwatch.view.lines import cut, wrapped
from minerwatch.view.selection import place

_NAME_LENGTH = 256
_TEXT_LENGTH = 400
_GAP = 2
_RULE_END = 2

SORT_CHOICES = (
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
)
"""Key, as ``--sort`` takes it, and in words."""

COPY_CHOICES = (
    ("t", "text", "the explanation as text"),
    ("j", "json", "the same as JSON, with all processes"),
    ("s", "save", "both, into files here that only you can read"),
)

ACTION_QUESTION = "Which action? It is shown first; nothing is done before you type the name"

FILTER_HINT = "words that a name, image, owner, reason or argument holds"

TABLE_KEYS = (
    ("Enter", "why"),
    ("?", "help"),
    ("/", "filter"),
    ("s", "sort"),
    ("t", "tree"),
    ("e", "copy"),
    ("k", "act"),
    ("q", "quit"),
    ("space", "pause"),
    ("a", "idle too"),
    ("n", "nodes"),
    ("r", "now"),
)
"""What matters most comes first: that much of it is shown as fits."""

PAGE_KEYS = (
    ("Esc", "back"),
    ("↑↓", "scroll"),
    ("e", "copy"),
    ("k", "act"),
    ("space", "pause"),
    ("?", "help"),
)

_TO_BE_TYPED = "To be typed below, so that it is done to no other"

TEXT_KEYS = (("Esc", "back"), ("↑↓", "scroll"))


def keys_line(keys: Sequence[tuple[str, str]], width: int) -> Text:
    """As many of ``keys`` as fit, with what they do."""
    line = Text()
    for key, word in keys:
        shown = f" {key} {word}"
        if line.cell_len + cell_len(shown) + _GAP > width:
            break
        line.append(f" {key}", "bold")
        line.append(f" {word}" + " " * (_GAP - 1))
    return line


def span_line(first: int, last: int, count: int, width: int) -> Text:
    """A rule that says which of many rows or lines are in sight, if not all are."""
    said = f" {first:,}–{last:,} of {count:,} " if count > last - first + 1 else ""
    room = max(0, width - len(said) - _RULE_END)
    return Text(cut("─" * room + said + "─" * _RULE_END, width), "dim")


def empty_lines(
    look: Look | None, view: View, hidden: int, waits_for: str, width: int
) -> list[Text]:
    """Why there is no row, and what to do about it."""
    said = _why_empty(look, view, hidden, waits_for)
    width = max(20, width - 4)
    return [Text(""), *(Text(f"  {piece}") for text in said for piece in wrapped(text, width))]


def _why_empty(look: Look | None, view: View, hidden: int, waits_for: str) -> list[str]:
    if look is None:
        return [f"{printable(waits_for, _TEXT_LENGTH)} …"]
    if look.failure and not look.statuses:
        return [printable(look.failure, _TEXT_LENGTH), "It is tried again; r tries now, q quits."]
    if look.progress is not None and not look.statuses:
        return ["waiting for the first answer …"]
    limits = look.coverage.limits if look.coverage is not None else ""
    if view.text:
        text = printable(view.text, _NAME_LENGTH)
        return [f"No container here holds “{text}”{limits}.", "Esc shows all again."]
    if hidden:
        idle = f"{counted(hidden, 'idle container')} {'is' if hidden == 1 else 'are'} not shown."
        if limits:
            return [f"Nothing is flagged and nothing is busy{limits}.", f"{idle} a shows them."]
        return [f"Nothing is flagged and nothing is busy: {idle}", "a shows them."]
    if look.coverage is not None and look.coverage.missing:
        return [f"No container to show{look.coverage.limits}.", "n lists the nodes."]
    where = f" in namespace {printable(view.namespace, _NAME_LENGTH)}" if view.namespace else ""
    return [
        f"No container here{where}.",
        "With node.units off only containers are watched: see docs/configuration.md.",
    ]


_HELP = (
    (
        "Keys",
        (
            ("↑ ↓ PgUp PgDn", "choose a row; End the last"),
            ("Home", "back to the worst: the first row stays chosen, whichever it is"),
            (
                "Enter",
                "why: findings with evidence, processes, connections, history; or open a group",
            ),
            ("← →", "close or open a group"),
            ("/", "show only what holds each word: names, images, owners, reasons, arguments"),
            ("s", "sort by …; or at once, the second time the other way round:"),
            ("S C H L T", "score, CPU now, CPU hours, share of the limit, throttling"),
            ("A N O I D", "age, name, owner, image, node"),
            ("t", "tree: by owner, by campaign, or none"),
            ("a", "idle containers too, or not"),
            ("n", "the nodes: which did not answer and why; version, rules, mode of each agent"),
            ("e", "copy the explanation (text, JSON), or save it"),
            ("k", "propose an action: shows what the policy says and what would be asked"),
            ("space", "pause, go on"),
            ("r", "look again now"),
            ("?", "this help"),
            ("q", "quit; on a page: back"),
        ),
    ),
    (
        "Columns",
        (
            ("SCORE", "0 to 100, joined from what independent signals say"),
            ("LEVEL", "clear below 30, suspicious, from 70 likely, from 90 confirmed"),
            ("SIGNALS", "id(entity) net(work) comp(ute) cont(ent) exec(ution) behav(iour)"),
            ("CPU", "cores in use now"),
            ("LAST", "cores lately: a full bar is the limit, else a core or the most of them"),
            ("%LIMIT", "of the CPU limit; ! the limit holds it back (throttled)"),
            ("CPU-H", "CPU hours in all"),
            ("SINCE", "how long the level has been what it is"),
            ("AGE", "of the pod"),
            ("[3m ago]", "the node no longer answers: so long ago it was like this"),
        ),
    ),
    (
        "Levels",
        (
            ("confirmed", "independent kinds of evidence agree: look at them, then act"),
            ("likely", "look now: the evidence is strong, but of one kind"),
            ("suspicious", "look when there is time"),
            ("clear", "nothing known of miners was found; that is no proof"),
        ),
    ),
)


def help_lines(width: int) -> list[Text]:
    """All keys, columns and levels."""
    lines: list[Text] = []
    for title, entries in _HELP:
        lines += [Text(""), Text(title, "bold")] if lines else [Text(title, "bold")]
        for word, meaning in entries:
            head = f"  {word:<14} "
            first, *rest = wrapped(meaning, max(20, width - len(head)))
            lines.append(Text.assemble((head, "bold"), first))
            lines += (Text(" " * len(head) + piece) for piece in rest)
    return lines


def proposal_lines(proposal: Proposal, width: int) -> list[Text]:
    """What the policy says, and the request as it would be made."""
    meaning = {
        True: f"{proposal.mode}: the request is made, and changes nothing.",
        False: f"{proposal.mode}: nothing is permitted, and nothing will be asked.",
    }[proposal.is_permitted]
    style = ""
    if proposal.is_permitted and proposal.mode == "enforce":
        meaning, style = "enforce: it is done in earnest.", "bold red"
    sections = (
        ("Action on", place(proposal.status), "bold"),
        ("What the policy says", proposal.decision, ""),
        ("What would be asked, word for word", proposal.request, ""),
        ("Mode", meaning, style),
        (_TO_BE_TYPED, proposal.confirmation if proposal.is_permitted else "", "bold"),
    )
    lines: list[Text] = []
    for title, told, style in sections:
        if told:
            lines += [*([Text("")] if lines else []), Text(title, "bold")]
        for line in told.splitlines():
            pieces = wrapped(printable(line), max(20, width - 2))
            lines += (Text(f"  {piece}", style) for piece in pieces)
    return lines


def told_lines(text: str, width: int) -> list[Text]:
    """Words from elsewhere, line by line."""
    lines = [""] if not text else text.splitlines()
    return [Text(piece) for line in lines for piece in wrapped(printable(line), max(20, width))]
