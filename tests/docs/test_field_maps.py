"""The tables that map fields to ECS and OCSF: each field exists, and none is left out."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stderr
from typing import Any

import pytest

from minerwatch.report.log import logger, verdict_line
from minerwatch.report.messages import Notice
from tests.report.samples import MINER
from tests.test_documents import FOLDER

_PAGE = (FOLDER / "docs" / "notify.md").read_text(encoding="utf-8")
_CODE = re.compile(r"`([^`]+)`")
_ECS = {  # looked up in the field reference of ECS 8.17
    *("@timestamp", "log.level", "event.action", "event.kind", "event.outcome", "event.reason"),
    *("event.risk_score", "event.severity", "event.start", "host.name", "user.name"),
    *("orchestrator.namespace", "orchestrator.resource.name", "related.user"),
    *("container.id", "container.image.name", "container.name", "process.command_line"),
    *("process.pid", "rule.category", "rule.id", "rule.name"),
}
_OCSF = {  # looked up in ocsf-schema: detection_finding, finding and their objects, 1.4 and later
    *("activity_id", "class_uid", "confidence_id", "device.hostname", "risk_score", "severity_id"),
    *("status_id", "time", "remediation.desc", "finding_info.desc", "finding_info.types[]"),
    *("finding_info.first_seen_time", "resources[].namespace", "resources[].name"),
    *("resources[].owner.name", "resources[].labels[]", "evidences[].data"),
    *("evidences[].container.name", "evidences[].container.image.name"),
    *("evidences[].process.cmd_line", "evidences[].process.pid", "evidences[].container.uid"),
    *(f"finding_info.related_analytics[].{each}" for each in ("category", "name", "uid")),
}


def _rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    below = _PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def _fields(heading: str) -> list[str]:
    return [name for row in _rows(heading) for name in _CODE.findall(row[0])]


def _logged() -> dict[str, Any]:
    line = verdict_line(MINER, "clear")
    with redirect_stderr(io.StringIO()) as written:
        logger(as_json=True).info("verdict", **line, left_out=1)
    found: dict[str, Any] = json.loads(written.getvalue())
    return found


def test_each_field_of_the_log_is_mapped_and_none_is_invented() -> None:
    line = _logged()
    keys = {key for key in line if key != "findings"}
    keys |= {f"findings[].{key}" for key in line["findings"][0]}
    assert sorted(_fields("The JSON log")) == sorted(keys)


def test_each_field_of_a_notice_is_mapped_and_none_is_invented() -> None:
    assert sorted(_fields("Fields of the JSON format")) == sorted(Notice.__struct_fields__)


@pytest.mark.parametrize("heading", ["The JSON log", "Fields of the JSON format"])
def test_the_names_are_those_of_the_public_schemas(heading: str) -> None:
    rows = _rows(heading)
    assert len(rows) > 10
    for _, _, ecs, ocsf in rows:
        names = _names(ecs)
        assert all(name in _ECS or name.startswith("labels.") for name in names), ecs
        names = _names(ocsf)
        assert all(name in _OCSF or name.startswith("unmapped.") for name in names), ocsf


def _names(cell: str) -> list[str]:
    """The fields that a cell names: not its values, such as a level or ``alert``."""
    return [
        f"evidences[].container{name}" if name.startswith(".") else name
        for name in _CODE.findall(cell)
        if "." in name or "_" in name or name in ("time", "@timestamp")
    ]
