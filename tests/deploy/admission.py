"""A ValidatingAdmissionPolicy evaluated as the Kubernetes documentation has it.

With the CEL of cel-expr-python, which wraps Google's C++ implementation; the API server has the Go
one, with more functions, none of which the policy uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

Json = Mapping[str, Any]


@dataclass(frozen=True)
class AdmissionRequest:
    """What an API server asks of a policy."""

    operation: str  # CREATE, UPDATE, DELETE
    resource: str  # pods, pods/eviction
    username: str
    extra: Mapping[str, list[str]] | None = None
    object: Json | None = None
    old_object: Json | None = None
    group: str = ""
    version: str = "v1"

    @property
    def variables(self) -> dict[str, Any]:
        user: dict[str, Any] = {"username": self.username, "groups": ["system:serviceaccounts"]}
        if self.extra is not None:
            user["extra"] = {key: list(values) for key, values in self.extra.items()}
        request = {"operation": self.operation, "userInfo": user}
        return {"request": request, "object": self.object, "oldObject": self.old_object}


@dataclass
class Policy:
    """One policy whose binding denies."""

    spec: Json
    environment: Any = field(init=False)

    def __post_init__(self) -> None:
        cel = pytest.importorskip(
            "cel_expr_python.cel", reason="evaluates CEL: pip install -e '.[dev]', on Linux"
        )
        names = ("request", "object", "oldObject", "variables")
        self.environment = cel.NewEnv(variables=dict.fromkeys(names, cel.Type.DYN))

    def refusal(self, request: AdmissionRequest) -> str | None:
        """The message of the refusal; None where the request passes."""
        try:
            return self._message(request)
        except ArithmeticError as error:
            return str(error) if self.spec["failurePolicy"] == "Fail" else None

    def _message(self, request: AdmissionRequest) -> str | None:
        if not any(
            _covers(rule, request) for rule in self.spec["matchConstraints"]["resourceRules"]
        ):
            return None
        known: dict[str, Any] = {**request.variables, "variables": {}}
        if not all(self._value(each, known) for each in self.spec.get("matchConditions", ())):
            return None
        for each in self.spec.get("variables", ()):
            known["variables"] = {**known["variables"], each["name"]: self._value(each, known)}
        for each in self.spec["validations"]:
            if self._value(each, known) is not True:
                return str(self._value({"expression": each["messageExpression"]}, known))
        return None

    def _value(self, what: Json, known: Mapping[str, Any]) -> Any:
        value = self.environment.compile(what["expression"]).eval(data=known)
        if str(value.type()) == "ERROR":
            raise ArithmeticError(f"{what['expression']}: {value.value()}")
        return value.plain_value()


def _covers(rule: Json, request: AdmissionRequest) -> bool:
    return (
        request.group in rule["apiGroups"]
        and request.version in rule["apiVersions"]
        and request.operation in rule["operations"]
        and request.resource in rule["resources"]
    )
