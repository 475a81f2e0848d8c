"""``minerwatch version``."""

from __future__ import annotations

import platform

import click

from minerwatch import __version__


@click.command()
def version() -> None:
    """Print the version of minerwatch, and of what it runs on."""
    python, kernel = platform.python_version(), platform.release()
    click.echo(f"minerwatch {__version__} (Python {python}, Linux {kernel}, {platform.machine()})")
