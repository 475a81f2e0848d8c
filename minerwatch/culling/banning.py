"""Ban by hand or after an action, lift bans, and leave notices for users; for the culling thread.

The line in the audit log is written first, then the ConfigMap is changed. A ban is refused for
every reason for which no action would be taken on the pod, and for those of ``culling.bans``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from minerwatch.api.orders import BanOrder, LiftOrder, SeenAnswer, SeenOrder
from minerwatch.api.types import BanAnswer, BanStatus, LiftAnswer
from minerwatch.config.hub import Bans
from minerwatch.culling.ban_store import BanStore
from minerwatch.culling.bans import (
    Ban,
    Candidate,
    HubBans,
    Notice,
    ban_text,
    budget_objection,
    candidates,
    proof_objections,
    with_claims,
)
from minerwatch.culling.context import Context
from minerwatch.culling.decision import Decision
from minerwatch.culling.evidence import EvidenceWriter
from minerwatch.culling.recorded_history import RecordedHistory
from minerwatch.culling.records import ActionRecord, Case
from minerwatch.culling.sightings import Sightings
from minerwatch.errors import MinerwatchError, OrderError
from minerwatch.format import rfc3339
from minerwatch.kube.client import one_line
from minerwatch.model import Abuse, Action, Attribution, BanKind, Finding, public_finding
from minerwatch.untrusted_text.display import printable, shown_name
from minerwatch.untrusted_text.redaction import redacted

_AGENT = "minerwatch"
_MAX_TITLES = 5
_MAX_REASON_CHARS = 300
_NO_STORE = "bans are not configured on this node (culling.bans.config_map)"


class OverBudgetError(MinerwatchError):
    """There are too many bans."""


@dataclass(slots=True)
class Banning:
    """Bans and notices of one agent. ``store``: None on a host."""

    context: Context
    history: RecordedHistory
    evidence: EvidenceWriter
    store: BanStore | None
    sightings: Sightings

    @property
    def is_configured(self) -> bool:
        """Return True if there is a ConfigMap for bans."""
        return self.store is not None and bool(self._settings.config_map)

    # After an action.

    def follow_up(self, case: Case, decision: Decision, record: ActionRecord) -> None:
        """Leave a notice for the user of a stopped server, and ban what is configured.

        Never raises: the action is done.
        """
        if not self.is_configured:
            return
        for step in (self._leave_notice, self._ban_after):
            try:
                step(case, decision, record)
            except MinerwatchError as error:
                self.context.callbacks.on_error("bans", error)

    def _leave_notice(self, case: Case, decision: Decision, record: ActionRecord) -> None:
        if decision.action is not Action.STOP_SERVER or decision.server is None:
            return
        now_s, text = self._now_s, self._notice_text(case.verdict.findings, record)
        server = decision.server
        notice = Notice(server.user, server.name, now_s, text, decision.pod_uid)
        self._required_store().update(lambda hub_bans: hub_bans.kept(now_s).with_notice(notice))

    def _ban_after(self, case: Case, decision: Decision, record: ActionRecord) -> None:
        if not self._settings.after_cull or decision.action is Action.LABEL:
            return
        found = self._candidates(case, self._settings.kinds, {}, by_hand=False)
        reason = _reason(case.verdict.findings)
        added = [
            self._entry(each, case, record.id, _AGENT, reason, self._settings.duration)
            for each in found
            if not each.objections
        ]
        for each in found:
            if each.objections:
                name = shown_name(redacted(each.attribution.name))
                self.context.log.info("not banned", name=name, reasons=list(each.objections))
        self._add(added, dry_run=False)

    # Orders.

    def ban(self, case: Case, decision: Decision, order: BanOrder) -> BanAnswer:
        """Ban the names of a pod, as far as nothing speaks against it. Raises OrderError."""
        self._required_store()
        reasons = [str(each) for each in proof_objections(decision)]
        found = self._candidates(case, order.kinds, order.unflagged, by_hand=True)
        evidence_id = uuid.uuid4().hex
        reason = order.reason or _reason(case.verdict.findings)
        until = order.duration_s or self._settings.duration
        entries = [self._entry(each, case, evidence_id, order.by, reason, until) for each in found]
        added = [entry for entry, each in zip(entries, found, strict=True) if not each.objections]
        dry_run = order.dry_run or self.context.dry_run
        trouble = ""
        if added and not reasons:
            try:
                evidence = None if dry_run else self._evidence(case, decision)
                self._add(added, dry_run=dry_run, evidence=evidence)
            except MinerwatchError as error:
                trouble = one_line(error)
        return BanAnswer(
            node=self.context.agent.node,
            namespace=decision.namespace,
            pod=decision.pod,
            dry_run=dry_run,
            reasons=tuple(printable(each, 512) for each in reasons),
            bans=tuple(
                ban_status(entry, each.objections, each.unflagged)
                for entry, each in zip(entries, found, strict=True)
            ),
            trouble=trouble,
        )

    def lift(self, order: LiftOrder) -> LiftAnswer:
        """Lift the bans of a name. Raises OrderError, ApiError."""
        store = self._required_store()
        before = store.read()
        lifted = [each for each in before.bans if each.name == order.name]
        self._write("ban-lifted", lifted, order.by)
        if not self.context.dry_run:
            store.update(lambda hub_bans: hub_bans.without(name=order.name))
        return LiftAnswer(
            self.context.agent.node,
            tuple(ban_status(each) for each in lifted),
            self.context.dry_run,
        )

    def lift_of_pod(self, pod_uid: str) -> int:
        """Lift the bans of a pod that is released, and its notices; return how many bans.

        Raises ApiError.
        """
        if self.store is None or not self._settings.config_map or not pod_uid:
            return 0
        before = self.store.read()
        lifted = [each for each in before.bans if each.pod_uid == pod_uid]
        if lifted:
            self._write("ban-lifted", lifted, "release")
        if before != before.without(pod_uid=pod_uid):
            self.store.update(lambda hub_bans: hub_bans.without(pod_uid=pod_uid))
        return len(lifted)

    def listed(self) -> tuple[BanStatus, ...]:
        """Return all bans in force. Raises OrderError, ApiError."""
        hub_bans = self._required_store().read().current(self._now_s)
        return tuple(ban_status(each) for each in hub_bans.bans)

    def seen(self, order: SeenOrder) -> SeenAnswer:
        """Return how many other pods of each name this node has seen, not flagged."""
        now_s = self._now_s
        return SeenAnswer(
            {
                each.name: self.sightings.unflagged(
                    Attribution(each.kind, each.name, ""), order.pod_uid, now_s
                )
                for each in order.names
            }
        )

    # Parts.

    @property
    def _settings(self) -> Bans:
        return self.context.culling.bans

    @property
    def _now_s(self) -> int:
        return round(self.context.clock.now().unix_s)

    def _evidence(self, case: Case, decision: Decision) -> bytes:
        evidence = self.evidence.encoded(case, decision)
        if evidence is None:
            raise OrderError("the container is gone: there is no evidence to keep")
        return evidence

    def _required_store(self) -> BanStore:
        if self.store is None or not self._settings.config_map:
            raise OrderError(_NO_STORE)
        return self.store

    def _candidates(
        self,
        case: Case,
        kinds: Iterable[BanKind],
        elsewhere: dict[str, int | None],
        *,
        by_hand: bool,
    ) -> list[Candidate]:
        """Return the names to ban; ``elsewhere``: unflagged pods on other nodes, by name."""
        pod_uid = case.pod.uid if case.pod else ""
        owners = with_claims(case.owners, case.pod, self.context.culling)
        seen: dict[Attribution, int | None] = {}
        for each in owners:
            here = self.sightings.unflagged(each, pod_uid, self._now_s)
            there = elsewhere.get(each.name)
            known = here is not None and there is not None
            seen[each] = (here or 0) + (there or 0) if known else None
        return [*candidates(owners, seen, kinds, by_hand=by_hand)]

    def _entry(
        self, each: Candidate, case: Case, evidence: str, by: str, reason: str, duration_s: float
    ) -> Ban:
        now_s = self._now_s
        return Ban(
            kind=each.kind,
            name=each.attribution.name,
            values=each.values,
            reason=printable(reason, _MAX_REASON_CHARS),
            evidence=evidence,
            node=self.context.agent.node,
            by=shown_name(by),
            at_unix_s=now_s,
            until_unix_s=now_s + round(duration_s),
            source=each.attribution.source,
            namespace=case.pod.namespace if case.pod else "",
            pod=case.pod.name if case.pod else "",
            pod_uid=case.pod.uid if case.pod else "",
        )

    def _add(self, added: Sequence[Ban], *, dry_run: bool, evidence: bytes | None = None) -> None:
        """Write ``added`` if the budget allows it; in a dry run only check. Raises."""
        store = self._required_store()
        if not added:
            return

        def with_added(hub_bans: HubBans) -> HubBans:
            if why := budget_objection(hub_bans, added, self._settings, self._now_s):
                raise OverBudgetError(why)
            return hub_bans.kept(self._now_s).with_bans(added)

        if dry_run:
            with_added(store.read())
            return
        if not self._write("ban", added, added[0].by, evidence):
            raise OrderError(f"no evidence could be kept: {self.history.trouble}")
        try:
            store.update(with_added)
        except MinerwatchError as error:
            self._write("ban-failed", added, added[0].by, why=one_line(error))
            raise

    def _write(
        self, kind: str, bans: Sequence[Ban], by: str, evidence: bytes | None = None, why: str = ""
    ) -> bool:
        raw = msgspec.Raw(evidence or b"null")
        for each in bans:
            self.context.log.info(kind, what=ban_text(each), by=by, evidence=each.evidence)
        return self.history.write(
            kind,
            message=f"by {by}: {why}" if why else f"by {by}",
            bans=msgspec.to_builtins(bans),
            evidence=raw,
        )

    def _notice_text(self, findings: Iterable[Finding], record: ActionRecord) -> str:
        contact = one_line(self.context.config.kubernetes.contact)
        at = rfc3339(record.unix_s)
        why = _reason(findings)
        return f"Your server was stopped at {at}: {why}. Reference {record.id}. {contact}".strip()


def ban_status(ban: Ban, objections: Iterable[str] = (), unflagged: int | None = None) -> BanStatus:
    """Return a ban as it is shown."""
    return BanStatus(
        kind=ban.kind.value,
        name=ban.name,
        values=ban.values,
        reason=ban.reason,
        evidence=ban.evidence,
        node=ban.node,
        by=ban.by,
        at=rfc3339(ban.at_unix_s),
        until=rfc3339(ban.until_unix_s),
        source=ban.source,
        objections=tuple(objections),
        unflagged=unflagged,
    )


def _reason(findings: Iterable[Finding]) -> str:
    """Return the titles of the strongest rules; private ones stay unnamed."""
    ranked = sorted(findings, key=lambda each: -each.score)
    titles = dict.fromkeys(one_line(public_finding(each).title) for each in ranked)
    shown = "; ".join([*titles][:_MAX_TITLES])
    abuse = ranked[0].abuse if ranked else Abuse.MINING
    what = "it mines cryptocurrency" if abuse is Abuse.MINING else f"abuse: {abuse}"
    return f"{what} ({shown})"[:_MAX_REASON_CHARS]
