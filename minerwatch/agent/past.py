"""Answers `minerwatch report`: the node's incidents, by its journal and its audit log."""

from __future__ import annotations

import time
from http import HTTPStatus

import msgspec

from minerwatch.agent.parts import Parts
from minerwatch.api import orders
from minerwatch.api.history import NodeHistory, configured_prices
from minerwatch.culling.records import HOUR_S, action_line
from minerwatch.errors import MinerwatchError, OrderError
from minerwatch.report.http_server import Answer
from minerwatch.report.pacing import Turns

_NO_JOURNAL = (
    "it keeps no journal, so nothing is known of the past: set report.journal, or start the agent"
    " with --journal FOLDER"
)


class PastIncidents:
    """Handles orders for the node's history, one after the other: each reads all files."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._turns = Turns()

    def __call__(self, body: bytes) -> Answer:
        """Return the history, or the reason why there is none."""
        try:
            order = orders.decode(body, orders.HoursOrder)
            with self._turns.turn():
                return Answer(orders.encode(self._history(order.hours)), "application/json")
        except MinerwatchError as error:
            return Answer(f"{error}\n".encode(), status=HTTPStatus.CONFLICT)

    def _history(self, hours: float) -> NodeHistory:
        journal = self._parts.recorder.journal
        if journal is None:
            raise OrderError(_NO_JOURNAL)
        from minerwatch.culling.audit_log import AuditError
        from minerwatch.report.incidents import node_history

        try:
            lines, trouble = self._parts.culling.audit_lines(hours), ""
        except AuditError as error:
            lines, trouble = (), str(error)
        actions = filter(None, map(action_line, lines))
        now_s = time.time()
        past = node_history(journal.files.read(), now_s - hours * HOUR_S, now_s, actions)
        return msgspec.structs.replace(
            past,
            node=self._parts.node.name,
            lost=journal.failures,
            audit=trouble,
            prices=configured_prices(self._parts.state.config.report),
        )
