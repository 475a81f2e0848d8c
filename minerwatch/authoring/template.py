"""The text of a new rule, with TODO where the author writes, and of a filter with its id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from minerwatch.detection.sigma.yaml_document import read_document
from minerwatch.model import FactValue, Signal

TO_DO = "TODO"
"""Marks what the author fills in; lint warns of each."""

_Examples = tuple[Mapping[str, FactValue], ...]


@dataclass(frozen=True, slots=True)
class _Example:
    """A typical condition for a signal, with facts that match it and facts that do not."""

    selection: str
    match: _Examples
    no_match: _Examples
    category: str = "process_creation"
    hold: str = ""


_GREP = {"CommandLine": "grep -r -- --some-option .", "Image": "/usr/bin/grep"}
_PYTHON = {"CommandLine": "python3 simulate.py", "Image": "/usr/bin/python3.11"}
_EXAMPLES: Mapping[Signal, _Example] = {
    Signal.IDENTITY: _Example(
        "CommandLine|re: '^\\S+(?:\\s+\\S+)*\\s+--some-option[=\\s][0-9]'",
        (
            {"CommandLine": "./a --some-option 1", "Image": "/home/jovyan/a"},
            {"CommandLine": "./a --some-option=1", "Image": "/home/jovyan/a"},
            {"CommandLine": "/opt/b -x --some-option 2 -y", "Image": "/opt/b"},
        ),
        (_GREP, {"CommandLine": "./a --some-options"}, _PYTHON),
    ),
    Signal.NETWORK: _Example(
        "DestinationHostname|endswith: '.pool.example.org'",
        (
            {"DestinationHostname": ("eu.pool.example.org",)},
            {"DestinationHostname": ("us.pool.example.org",), "DestinationPort": ("443",)},
            {"DestinationHostname": ("db.internal", "eu.pool.example.org")},
        ),
        ({"DestinationHostname": ("whirlpool.example.org",)}, {"DestinationPort": ("443",)}, _GREP),
        category="network_connection",
    ),
    Signal.COMPUTE: _Example(
        "RoundingModes|gte: 4",
        (
            {"RoundingModes": 4, "RoundingShare": 0.7},
            {"RoundingModes": 4, "RoundingShare": 0.5, "Image": "/home/jovyan/a"},
            {"RoundingModes": 4, "RoundingShare": 0.7, "FlushToZeroShare": 1.0},
        ),
        ({"RoundingModes": 3, "RoundingShare": 0.6}, {"RoundingModes": 1}, _PYTHON),
    ),
    Signal.CONTENT: _Example(
        "ContentMatches: name_of_a_yara_rule",
        (
            {"ContentMatches": ("name_of_a_yara_rule",)},
            {"ContentMatches": ("another", "name_of_a_yara_rule")},
            {"ContentMatches": ("name_of_a_yara_rule",), "Image": "/home/jovyan/a"},
        ),
        ({"ContentMatches": ("another",)}, {"ContentMatches": ()}, _PYTHON),
    ),
    Signal.EXECUTION: _Example(
        "Image|startswith: '/run/user/1000/.'\n    CpuCores|gte: 0.5",
        (
            {"Image": "/run/user/1000/.x/a", "CpuCores": 1.0},
            {"Image": "/run/user/1000/.a", "CpuCores": 3.9},
            {"Image": "/run/user/1000/.x/python3", "CpuCores": 0.5, "CommandLine": "python3"},
        ),
        (
            {"Image": "/run/user/1000/.x/a", "CpuCores": 0.1},
            {"Image": "/run/user/1000/build/a", "CpuCores": 1.0},
            _PYTHON,
        ),
        hold="2m",
    ),
    Signal.BEHAVIOUR: _Example(
        "CpuCores|gte: 0.9\n    CpuFlatness|gte: 0.98",
        (
            {"CpuCores": 1.0, "CpuFlatness": 0.99},
            {"CpuCores": 0.9, "CpuFlatness": 0.98},
            {"CpuCores": 16.0, "CpuFlatness": 1.0},
        ),
        (
            {"CpuCores": 1.0, "CpuFlatness": 0.9},
            {"CpuCores": 0.5, "CpuFlatness": 0.99},
            {"CpuCores": 1.0},
        ),
        hold="10m",
    ),
}


def new_rule(title: str, identifier: str, day: date, signal: Signal, level: str) -> str:
    """Return a rule that loads and passes its tests, with an example for a condition."""
    example = _EXAMPLES[signal]
    hold = f"  for: {example.hold}\n" if example.hold else ""
    return f"""\
title: {_quoted(title)}
id: {identifier}
status: experimental
description: |
  {TO_DO} what miners do, and why other programs do not.
references:
  - https://example.org/{TO_DO}
author: {TO_DO}
date: {day.isoformat()}
tags: [attack.impact, attack.t1496.001]
logsource: {{product: linux, category: {example.category}}}
detection:
  # {TO_DO} your condition, as narrow as possible. `minerwatch rules fields` lists the fields.
  selection:
    {example.selection}
  condition: selection
falsepositives:
  - {TO_DO} programs that match without mining
level: {level}
minerwatch:
  signal: {signal.value}
{hold}  tests:
    # {TO_DO} what the rule is for, and the most similar ordinary programs first.
    match:
{_facts(example.match)}
    no_match:
{_facts(example.no_match)}
"""


def _quoted(text: str) -> str:
    """Return a YAML scalar: JSON strings are valid YAML."""
    return json.dumps(text, ensure_ascii=False)


def _facts(examples: _Examples) -> str:
    return "\n".join(f"      - {json.dumps(facts, ensure_ascii=False)}" for facts in examples)


def with_rule(path: Path, text: str, identifier: str, comment: str) -> str:
    """Return the text of a Sigma filter with one more id, in the order of the ids.

    Raises ``RuleError`` if the text is not a filter with one id a line.
    """
    document, at = read_document(path, text), ("filter", "rules")
    block = document.content.get("filter")
    ids = block.get("rules") if isinstance(block, dict) else None
    if not isinstance(ids, list) or not ids:
        raise document.error("not a Sigma filter: no list filter.rules", *at)
    lines = text.splitlines(keepends=True)
    indexes = [document.line(*at, index) - 1 for index in range(len(ids))]
    if not all(lines[index].lstrip().startswith("- ") for index in indexes):
        raise document.error(f"write one id a line, then add {identifier}", *at)
    following = (index for index, each in zip(indexes, ids, strict=True) if str(each) > identifier)
    index = next(following, indexes[-1] + 1)
    indent = lines[indexes[0]].partition("-")[0]
    lines.insert(index, f"{indent}- {identifier}  # {comment}\n")
    return "".join(lines)
