"""The key ``k``: the decision of the policy about a container, and carrying it out.

The screen itself knows no action. It shows a ``Proposal``, and nothing is done before the pod's
name has been typed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from minerwatch.api import orders
from minerwatch.api.types import AgentStatus, ContainerStatus, CullAnswer
from minerwatch.errors import MinerwatchError
from minerwatch.kinds import Action
from minerwatch.view.agent_summary import mode
from minerwatch.view.culling_text import cull_text, decision_lines
from minerwatch.view.screen.page import Section
from minerwatch.view.screen.words import text_lines
from minerwatch.view.selection import full_name

_OFF = (
    "culling is off on this node (culling.mode): it only observes. For an action, set culling.mode"
    " to dry-run or enforce: docs/configuration.md"
)
DRY_RUN, ENFORCE = "dry-run", "enforce"


class ProposalError(MinerwatchError):
    """An action cannot be proposed or carried out; ``str()`` is the reason."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The policy's decision on one action on one container, and the request it would send."""

    status: ContainerStatus
    action: str
    decision: str  # what is permitted, or every reason against it; may have several lines
    request: str  # exact, as it would be sent; "": nothing would be
    mode: str  # dry-run: the request is made but changes nothing; enforce
    is_permitted: bool

    @property
    def confirmation(self) -> str:
        """The text to type: the pod's name, or where there is none the container's."""
        return self.status.pod or self.status.container


Choice = tuple[str, str, str]
"""A key, what it stands for, and that in words."""


class Proposer(Protocol):
    """Asks the policy, and carries out what it permits. May wait, so it has a thread."""

    def choices(self, status: ContainerStatus, agent: AgentStatus | None) -> Sequence[Choice]:
        """Return the actions to choose from; ``agent`` is the node's. Raises MinerwatchError."""

    def propose(self, status: ContainerStatus, action: str) -> Proposal:
        """Return what would be done about ``status``; nothing is. Raises MinerwatchError."""

    def carry_out(self, proposal: Proposal) -> str:
        """Return the result in words, line by line. Raises MinerwatchError."""


Ordered = Callable[[str, str, bytes], bytes]
"""The answer of a node's agent to an order: node, path, order. Raises MinerwatchError."""

_KEYS = {
    Action.LABEL: ("l", "label the pod, for a NetworkPolicy to cut it off"),
    Action.STOP: ("s", "stop its flagged processes; minerwatch release lets them go on"),
    Action.PAUSE: ("p", "pause a host's container; minerwatch release lets it go on"),
    Action.KILL: ("k", "kill its flagged processes"),
    Action.STOP_CONTAINER: ("c", "stop a host's container"),
    Action.STOP_SERVER: ("h", "have the hub stop the user's server"),
    Action.EVICT: ("e", "evict the pod, as far as PodDisruptionBudgets allow"),
    Action.DELETE: ("d", "delete the pod"),
}
_ENGINES = (Action.PAUSE, Action.STOP_CONTAINER)
_OF_HOSTS = (Action.STOP, Action.KILL, *_ENGINES)
"""Actions on what is in no pod."""


class ByHand:
    """Asks the agent of the container's node, as ``minerwatch cull`` does."""

    def __init__(self, ordered: Ordered) -> None:
        self._ordered = ordered

    def choices(self, status: ContainerStatus, agent: AgentStatus | None) -> Sequence[Choice]:
        """Return all actions; the policy's own choice is marked."""
        if agent is None:
            raise ProposalError("no agent says that it can act on this node: it only observes")
        if mode(agent) == "observe":
            raise ProposalError(_OFF)
        proposed = status.culling.proposed if status.culling else ""
        return [
            (key, action.value, words + (": the policy's own choice" * (action == proposed)))
            for action, (key, words) in _KEYS.items()
            if (action in _OF_HOSTS and not status.pod) or (action not in _ENGINES and status.pod)
        ]

    def propose(self, status: ContainerStatus, action: str) -> Proposal:
        """Return the agent's decision as of now."""
        order = orders.cull_order(status, Action(action), dry_run=False)
        answer = orders.answer_of(
            self._ordered(status.node, orders.PREVIEW, orders.encode(order)), CullAnswer
        )
        return Proposal(
            status,
            action,
            "\n".join(decision_lines(answer)),
            answer.request,
            DRY_RUN if answer.dry_run else ENFORCE,
            answer.acts,
        )

    def carry_out(self, proposal: Proposal) -> str:
        """Send it; one confirmed as a dry run stays one, whatever has been configured since."""
        is_dry = proposal.mode != ENFORCE
        order = orders.cull_order(proposal.status, Action(proposal.action), dry_run=is_dry)
        body = self._ordered(proposal.status.node, orders.CULL, orders.encode(order))
        return cull_text(orders.answer_of(body, CullAnswer))


def proposal_sections(proposal: Proposal, width: int) -> list[Section]:
    """Return the decision of the policy, and the request as it would be made."""
    meaning, style = f"{proposal.mode}: nothing is permitted, and nothing will be asked.", ""
    if proposal.is_permitted:
        meaning = f"{proposal.mode}: the request is made, and changes nothing."
    if proposal.is_permitted and proposal.mode == ENFORCE:
        meaning, style = "enforce: it is done in earnest.", "bold red"
    name = proposal.confirmation if proposal.is_permitted else ""
    sections = (
        ("Action on", full_name(proposal.status), "bold"),
        ("What the policy says", proposal.decision, ""),
        ("What would be asked, word for word", proposal.request, ""),
        ("Mode", meaning, style),
        ("To be typed below, so that it is done to no other", name, "bold"),
    )
    return [
        (title, text_lines(said, width, style, "  ")) for title, said, style in sections if said
    ]
