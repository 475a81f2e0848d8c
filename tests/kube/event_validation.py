"""What an API server asks of an Event of events.k8s.io/v1.

``ValidateEventCreate`` and ``ValidateEventUpdate`` in pkg/apis/core/validation/events.go of
Kubernetes, as of 1.27 and later, and the kinds of fields from the API reference.
"""

from __future__ import annotations

import re
from typing import Any

Json = dict[str, Any]

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_STRINGS = ("reportingController", "reportingInstance", "action", "reason", "type", "note")
_OBJECT_STRINGS = frozenset(
    {"apiVersion", "kind", "namespace", "name", "uid", "resourceVersion", "fieldPath"}
)
_FIELDS = frozenset(
    {"apiVersion", "kind", "metadata", "eventTime", "series", "regarding", "related", *_STRINGS}
)


def on_create(event: Json) -> list[str]:
    """What is wrong with a new event; nothing, for one that is stored."""
    wrong = [*_legacy(event), *_metadata(event), *_series(event)]
    if event.get("type") not in ("Normal", "Warning"):
        wrong.append("type: has invalid value")
    wrong += [f"{name}: unknown, or needs to be unset" for name in event if name not in _FIELDS]
    return wrong


def on_update(event: Json, before: Json) -> list[str]:
    """What is wrong with changing ``before`` into ``event``."""
    wrong = [*_legacy(event), *_metadata(event)]
    if event.get("series") != before.get("series"):
        wrong += _series(event)
    wrong += [
        f"{name}: field is immutable"
        for name in _FIELDS - {"metadata", "series"}
        if event.get(name) != before.get(name)
    ]
    return wrong


def _metadata(event: Json) -> list[str]:
    name = str(event["metadata"].get("name", ""))
    is_valid = len(name) <= 253 and _SUBDOMAIN.fullmatch(name)
    return [] if is_valid else [f"metadata.name: {name!r} is no DNS subdomain"]


def _legacy(event: Json) -> list[str]:
    wrong = [
        f"{name}: required, as a string"
        for name in _STRINGS
        if not isinstance(event.get(name), str) or not event[name]
    ]
    if wrong:
        return wrong
    namespace = event["metadata"].get("namespace", "")
    if not _MICRO_TIME.fullmatch(str(event.get("eventTime"))):
        wrong.append("eventTime: required")
    if not _is_qualified(event["reportingController"]):
        wrong.append("reportingController: not a qualified name")
    wrong += [
        f"{name}: can have at most {limit} characters"
        for name, limit in (("reportingInstance", 128), ("action", 128), ("reason", 128))
        if len(event[name].encode()) > limit
    ]
    if len(event["note"].encode()) > 1024:
        wrong.append("note: can have at most 1024 characters")
    wrong += _regarding(event.get("regarding") or {}, namespace)
    return wrong


def _regarding(regarding: Json, namespace: str) -> list[str]:
    if not regarding.get("namespace") and namespace not in ("default", "kube-system"):
        return ["regarding.namespace: does not match event.namespace"]
    return [
        f"regarding.{name}: unknown, or no string"
        for name, value in regarding.items()
        if name not in _OBJECT_STRINGS or not isinstance(value, str)
    ]


def _series(event: Json) -> list[str]:
    series = event.get("series")
    if series is None:
        return []
    wrong = []
    if not isinstance(series.get("count"), int) or series["count"] < 2:
        wrong.append("series.count: should be at least 2")
    if not _MICRO_TIME.fullmatch(str(series.get("lastObservedTime"))):
        wrong.append("series.lastObservedTime: required")
    return wrong


def _is_qualified(text: str) -> bool:
    prefix, slash, name = text.rpartition("/")
    is_prefix = not slash or (len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix) is not None)
    return is_prefix and _LABEL_NAME.fullmatch(name) is not None
