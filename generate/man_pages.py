"""A man page (man(7)) for each command; the wheel has them, from deploy/man."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from generate.names import ROOT
from minerwatch import __version__
from minerwatch.cli.main import cli
from minerwatch.config.schema import default_socket

MAN = ROOT / "deploy" / "man"
_NAME = "minerwatch"
_SOCKET = "/run/minerwatch/agent.sock, for root"
_EXIT_STATUS = re.compile(r"(?s)\n\n(?:\b\n)?Exit status: (.*)\Z")


def pages() -> dict[str, str]:
    """Return the page of each command that people type, by its name: minerwatch-rules-list."""
    settings = cli.context_settings
    return dict(_pages(cli, click.Context(cli, info_name=_NAME, **settings)))


def _pages(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    inner = [] if not isinstance(command, click.Group) else list(_inner(command, context))
    yield _page_name(context), "\n".join(_lines(command, context, inner)) + "\n"
    for _, each, below in inner:
        yield from _pages(each, below)


def _inner(
    group: click.Group, context: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            yield name, command, click.Context(command, parent=context, info_name=name)


def _page_name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _lines(
    command: click.Command,
    context: click.Context,
    inner: list[tuple[str, click.Command, click.Context]],
) -> Iterator[str]:
    text = inspect.cleandoc(command.help or "")
    exit_status = _EXIT_STATUS.search(text)
    summary, _, description = _EXIT_STATUS.sub("", text).partition("\n\n")
    yield f'.TH "{_page_name(context).upper()}" "1" "" "minerwatch {__version__}"'
    yield from (".nh", ".ad l")  # names and commands are copied from pages
    yield from (".SH NAME", f"{_escaped(_page_name(context))} \\- {_prose(summary.rstrip('.'))}")
    yield from (".SH SYNOPSIS", f".B {_escaped(context.command_path)}")
    yield _escaped(" ".join(command.collect_usage_pieces(context)))
    yield from (".SH DESCRIPTION", *_paragraphs(description or summary))
    records = (each.get_help_record(context) for each in command.get_params(context))
    options = [record for record in records if record is not None]
    yield from (".SH OPTIONS", *_described(options)) if options else ()
    commands = [(_page_name(below), each.get_short_help_str(200)) for _, each, below in inner]
    yield from (".SH COMMANDS", *_described(commands)) if commands else ()
    if exit_status:
        yield from (".SH EXIT STATUS", _prose(exit_status[1]))
    above = [context.parent] if context.parent else []
    others = [*above, *(below for _, _, below in inner)]
    yield ".SH SEE ALSO"
    yield " ,\n".join(f".BR {_escaped(_page_name(each))} (1)" for each in others)


def _paragraphs(text: str) -> Iterator[str]:
    """Yield paragraphs; click keeps the lines of those that begin with a backspace."""
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith("\b\n"):
            yield from (".nf", *map(_line, paragraph[2:].split("\n")), ".fi")
        else:
            yield _prose(paragraph)


def _described(items: list[tuple[str, str]]) -> Iterator[str]:
    for name, text in items:
        yield from (".TP", f".B {_escaped(name)}", _prose(text))


def _prose(text: str) -> str:
    return _line(" ".join(text.split()))


def _line(text: str) -> str:
    escaped = _escaped(text)
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def _escaped(text: str) -> str:
    text = text.replace(str(default_socket()), _SOCKET)  # which depends on the user
    return text.replace("\\", "\\e").replace("-", "\\-")
