"""What is written by `make generate` is as it would be written now."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from generate.chart_readme import README, readme
from generate.configuration_page import PAGE, page
from generate.man_pages import MAN, pages
from generate.names import ROOT
from generate.settings import Setting, settings, written
from generate.values_schema import SCHEMA, schema
from minerwatch.cli.main import cli
from minerwatch.config.schema import Config
from minerwatch.config.values import Duration, duration_s
from tests.builders import config_of

_RENEW = "run: make generate"


def test_the_page_has_the_settings_as_they_are() -> None:
    assert page() == PAGE.read_text(encoding="utf-8"), _RENEW


def test_the_chart_knows_the_settings_as_they_are() -> None:
    assert schema() == SCHEMA.read_text(encoding="utf-8"), _RENEW


def test_the_chart_readme_has_the_values_as_they_are() -> None:
    written = README.read_text(encoding="utf-8")
    assert readme() == written, _RENEW
    assert '| `image.tag` | `""` |' in written
    assert "| `nodeSelector.kubernetes.io/os` | `linux` |" in written
    assert "| `prometheusRule` |  | needs the Prometheus operator |" in written


def test_every_example_of_the_page_is_a_configuration() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert config_of(yaml.safe_load(blocks[0])) == Config()
    examples = [block for block in blocks[1:] if not block.startswith("kind: ")]  # a cluster's
    assert examples
    for block in examples:
        config_of(yaml.safe_load(block))


def test_every_setting_says_what_it_is() -> None:
    silent = [name for name, setting in _all(settings(Config()), "") if not setting.comment]
    assert set(silent) <= {"node.proc", "node.sys"}


@pytest.mark.parametrize("value", [0.05, 1.0, 10.0, 90.0, 300.0, 3600.0, 86400.0, 5400.0])
def test_a_duration_is_written_as_it_is_read(value: float) -> None:
    assert duration_s(written(Duration(value))) == value


@pytest.mark.parametrize("value", ["", "*", "a", "/proc", None, True, False, 3, 0.2, ("a", "*")])
def test_a_value_is_written_as_it_is_read(value: object) -> None:
    read = yaml.safe_load(written(value))
    assert read == (list(value) if isinstance(value, tuple) else value)


# Man pages.


def test_man_pages_are_the_same_whoever_writes_them() -> None:
    for name, text in pages().items():
        assert (MAN / f"{name}.1").read_text(encoding="utf-8") == text, _RENEW
    assert {path.stem for path in MAN.iterdir()} == set(pages())
    script = "import os; os.geteuid = lambda: 1000; from generate.man_pages import pages;"
    done = subprocess.run(
        [sys.executable, "-c", f"{script} print(pages()['minerwatch-top'], end='')"],
        env={**os.environ, "HOME": "/home/somebody"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == pages()["minerwatch-top"]


def test_every_command_has_a_man_page() -> None:
    written = pages()
    context = click.Context(cli, info_name="minerwatch")
    for name in cli.list_commands(context):
        text = written[f"minerwatch-{name}"]
        for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"):
            assert f".SH {section}\n" in text or (name, section) == ("version", "EXIT STATUS"), name
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            assert {f"minerwatch-{name}-{inner}" for inner in command.commands} <= set(written)
    assert not any("snapshot" in name or "order" in name for name in written)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff reads them: apt install groff")
@pytest.mark.parametrize("name", ["minerwatch", "minerwatch-top", "minerwatch-rules-replay"])
def test_man_pages_are_read_without_a_warning(name: str, tmp_path: Path) -> None:
    page = tmp_path / f"{name}.1"
    page.write_text(pages()[name], encoding="utf-8")
    command = ["groff", "-man", "-ww", "-Kutf8", "-Tutf8", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert "SYNOPSIS" in re.sub(r".\x08", "", done.stdout)


def _all(found: tuple[Setting, ...], path: str) -> list[tuple[str, Setting]]:
    names: list[tuple[str, Setting]] = []
    for setting in found:
        if setting.inner:
            names += _all(setting.inner, f"{path}{setting.key}.")
        else:
            names.append((path + setting.key, setting))
    return names
