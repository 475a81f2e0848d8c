"""What the key ``k`` asks for: what the policy would do about a container, and doing it.

The screen knows no action. Who can ask for one implements ``Proposer``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from minerwatch.errors import MinerwatchError
from minerwatch.model import AgentStatus, ContainerStatus
from minerwatch.report.agents import mode


class ProposalError(MinerwatchError):
    """Nothing can be proposed, or carried out; ``str()`` says why."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the policy says of one container, and what would be asked of whom."""

    status: ContainerStatus
    decision: str  # the action, or every reason against it; may have several lines
    request: str  # exact, as it would be sent; "": nothing would be
    mode: str  # dry-run: the request is made but changes nothing; enforce
    is_permitted: bool

    @property
    def confirmation(self) -> str:
        """What a person has to type: the pod's name, or where there is none the container's."""
        return self.status.pod or self.status.container


class Proposer(Protocol):
    """Asks the policy, and carries out what it permits. Called from a thread that may wait."""

    def propose(self, status: ContainerStatus, agent: AgentStatus | None) -> Proposal:
        """What would be done about ``status``; ``agent`` is its node's. Raises MinerwatchError."""

    def carry_out(self, proposal: Proposal) -> str:
        """What came of it, in words. Raises MinerwatchError."""


class NoProposer:
    """Where no action can be asked for."""

    def propose(self, status: ContainerStatus, agent: AgentStatus | None) -> Proposal:
        """Raises ProposalError: what this node's agent says of its mode."""
        del status
        if agent is None:
            raise ProposalError("no agent on this node says that it can act: it only observes")
        how_far = mode(agent)
        if how_far == "observe":
            raise ProposalError("culling is off on this node (culling.mode): it only observes")
        raise ProposalError(
            f"culling is in mode {how_far} on this node, but its agent takes no action by hand"
        )

    def carry_out(self, proposal: Proposal) -> str:
        """Raises ProposalError."""
        raise ProposalError(f"nothing was proposed about {proposal.confirmation}")
