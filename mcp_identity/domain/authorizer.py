"""Which tokens speak for a workload identity: the rule, and when two rules could take the same token.

Everything that is configured must hold. A rule that names neither an audience, nor a client, nor a claim accepts nobody:
an issuer alone would make every user of a company the user of every agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class ClaimOperator(StrEnum):
    """How a claim is compared; always as exact strings."""

    EQUALS = "equals"
    CONTAINS = "contains"
    CONTAINS_ANY = "contains_any"


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """One required claim.

    Attributes:
        claim: The claim's name, at the top level of the token.
        operator: `EQUALS`: the claim is this very string. `CONTAINS`: a list (or string of words) that holds every one of
            the values. `CONTAINS_ANY`: one that holds at least one of them.
        values: What to compare with; one for `EQUALS`.
    """

    claim: str
    operator: ClaimOperator
    values: tuple[str, ...]

    def holds(self, claims: Mapping[str, Any]) -> bool:
        """Whether the token's claims satisfy it; an absent claim, or one of another type, never does."""
        value = claims.get(self.claim)
        if self.operator is ClaimOperator.EQUALS:
            return isinstance(value, str) and (value,) == self.values
        held = _words(value)
        wanted = frozenset(self.values)
        return bool(wanted) and (wanted <= held if self.operator is ClaimOperator.CONTAINS else bool(wanted & held))


@dataclass(frozen=True, slots=True)
class Authorizer:
    """Which JWTs speak for a workload.

    Attributes:
        issuer_id: The row id of the issuer; empty for none.
        audiences: One of these must be among the token's audiences; empty for any that the issuer accepts.
        clients: The token's client must be one of these; empty for any.
        scopes: The token must hold all of these.
        claims: All of these must hold.
    """

    issuer_id: str = ""
    audiences: frozenset[str] = frozenset()
    clients: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    claims: tuple[ClaimRule, ...] = ()

    @property
    def is_decisive(self) -> bool:
        """Whether it names enough to accept anybody at all."""
        return bool(self.issuer_id and (self.audiences or self.clients or self.claims))

    def accepts(
        self, issuer_id: str, audiences: frozenset[str], client: str, scopes: frozenset[str], claims: Mapping[str, Any]
    ) -> bool:
        """Whether a verified token speaks for the workload.

        Args:
            issuer_id: The row id of the issuer that verified it.
            audiences: The token's audiences.
            client: The client that it was issued to, or empty.
            scopes: Its scopes.
            claims: All of its claims, verified.
        """
        return (
            self.is_decisive
            and issuer_id == self.issuer_id
            and (not self.audiences or bool(self.audiences & audiences))
            and (not self.clients or client in self.clients)
            and self.scopes <= scopes
            and all(rule.holds(claims) for rule in self.claims)
        )

    def overlaps(self, other: Authorizer) -> bool:
        """Whether one token could be accepted by both.

        A token has one client, and usually one audience. One that has the audiences of two workloads at once is refused when
        it comes, so disjoint audiences tell workloads apart as disjoint clients do.
        """
        if not (self.is_decisive and other.is_decisive) or self.issuer_id != other.issuer_id:
            return False
        for mine, theirs in ((self.audiences, other.audiences), (self.clients, other.clients)):
            if mine and theirs and not mine & theirs:
                return False
        exact = {rule.claim: rule.values for rule in self.claims if rule.operator is ClaimOperator.EQUALS}
        return not any(
            rule.operator is ClaimOperator.EQUALS and exact.get(rule.claim, rule.values) != rule.values for rule in other.claims
        )


NOBODY = Authorizer()
"""The authorizer that accepts no token."""


def _words(value: object) -> frozenset[str]:
    """A list of strings, or a string of words separated by spaces, as a set."""
    if isinstance(value, str):
        return frozenset(value.split(" ")) - {""}
    if isinstance(value, list):
        return frozenset(each for each in value if isinstance(each, str))  # pyright: ignore[reportUnknownVariableType]
    return frozenset()
