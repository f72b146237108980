"""Who may come in at this edge? Nobody whose signature or bearer does not prove who it is, with every single request.

Failures are counted by where they come from and by the key that was named there, as bearers are at the other edges, and with
them: somebody who guesses is stopped, and a good neighbour at the same address is not. Whoever is remembered is believed until
the vault says otherwise (`domain/standing.py`).

Trusts the door in front of it for the peer's address, and `inbound/` for everything about proofs.
"""

from __future__ import annotations

import logging
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

from mcp_identity.agentcore import errors
from mcp_identity.agentcore.answers import Answer, failure
from mcp_identity.agentcore.asker import EDGE, Counting, Identity, Room, Verifier, identity_of_bearer, identity_of_signer
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import (
    AccessDenied,
    CallerError,
    IdentityError,
    RateLimited,
    StorageError,
    TokenExpired,
    Unauthenticated,
)
from mcp_identity.inbound.sigv4 import SignatureRefused, SignedRequest, access_key_id_of

if TYPE_CHECKING:
    from starlette.types import Scope

    from mcp_identity.broker.limits import Refusals
    from mcp_identity.domain.access_key import Signer
    from mcp_identity.domain.identity import Principal
    from mcp_identity.domain.standing import Standing

log = logging.getLogger(__name__)
BEARER_BYTES = 16 * 1024
WORKLOAD_HEADER = b"mcp-identity-workload"
MOST_KNOWN = 10_000
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
_ALGORITHM = b"AWS4-"
_REFUSED = "the bearer proves nothing here: bring a workload key, or a service's own token of an issuer that this server trusts"
_NOTHING_CAME = (
    "sign the request with an access key (an operator makes one: mcp-identity access-keys create), or bring a bearer: "
    "a workload key, or a service's own token"
)


class Signatures(Protocol):
    """Believes signed requests, or does not."""

    async def verify(self, request: SignedRequest) -> Signer:
        """Who signed a request.

        Raises:
            Unauthenticated: If nobody whom we know did.
            StorageError: If that cannot be known now.
        """
        ...

    def recall(self, request: SignedRequest) -> tuple[Signer, Standing] | None:
        """Who signed it, by what was known a moment ago; to be confirmed before anything leaves.

        Raises:
            Unauthenticated: If it is not signed as clients of this service sign.
        """
        ...


class Buckets(Protocol):
    """So many a second for each key."""

    def take(self, key: Any) -> float:
        """Take one; 0, or the seconds until there is one."""
        ...

    def is_empty(self, key: Any) -> bool:
        """Whether there is none to take."""
        ...


class Limits(Counting, Protocol):
    """What is counted, together with the other edges."""

    @property
    def requests(self) -> Buckets:
        """Requests of a caller."""
        ...

    @property
    def failures(self) -> Buckets:
        """Proofs that proved nothing."""
        ...

    @property
    def answering(self) -> Room:
        """Requests that are being answered."""
        ...

    @property
    def refused(self) -> Callable[[str, str, Principal | None, str], None]:
        """Told of every refusal at the door."""
        ...


@dataclass(frozen=True, slots=True)
class Proof:
    """What a request brings to prove who asks.

    Attributes:
        signed: The request, where it is signed.
        bearer: Its bearer, where it brings one.
        digest: Of the bearer.
        hint: Which of several workloads that share their tokens.
        source: The address.
    """

    signed: SignedRequest | None
    bearer: Secret
    digest: bytes
    hint: str
    source: str

    @property
    def failing(self) -> tuple[Any, ...]:
        """What a failure is counted by, beside the address: the key as it was named from there, or the bearer."""
        if self.signed is None:
            return "bearer", self.digest
        return "access key", access_key_id_of(self.signed.headers), self.source


class Refused(Exception):
    """Not let in; what is told."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Gate:
    """What requests are let in by.

    Attributes:
        signatures: Verifies signed requests.
        verifier: Verifies bearers.
        limits: What is counted.
        refusals: Writes down who proved nobody, and why: what the caller is told is the same for every reason.
        source_of: Where a request comes from, for counting.
        is_ending: Whether nothing new is begun any more.
        known: What proved somebody lately: a bad neighbour at the same address does not lock them out.
    """

    signatures: Signatures
    verifier: Verifier
    limits: Limits
    refusals: Refusals
    source_of: Callable[[Scope], str]
    is_ending: Callable[[], bool]
    known: OrderedDict[Any, None] = field(default_factory=OrderedDict[Any, None])

    def proof(self, scope: Scope, body: bytes) -> Proof:
        """What a request brings.

        Raises:
            Refused: If it brings nothing that could prove anybody.
        """
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        given = [value for name, value in headers if name == b"authorization"]
        source = self.source_of(scope)
        if not given:
            raise Refused(failure(errors.problem(errors.UNAUTHORIZED, _NOTHING_CAME), challenge=True))
        if len(given) > 1 or given[0].startswith(_ALGORITHM):
            signed = SignedRequest(scope["method"], _raw_path(scope), scope["query_string"], tuple(headers), body)
            return Proof(signed, Secret(""), b"", "", source)
        found = _BEARER.fullmatch(given[0].decode("latin-1"))
        if found is None or len(found[1]) > BEARER_BYTES:
            raise Refused(failure(errors.problem(errors.UNAUTHORIZED, _REFUSED), challenge=True))
        hint = next((value.decode("latin-1") for name, value in headers if name == WORKLOAD_HEADER), "")
        return Proof(None, Secret(found[1]), sha256(found[1].encode()).digest(), hint, source)

    async def identify(self, proof: Proof) -> tuple[Identity, Standing | None]:
        """Who asks, and how far they are to be believed: None for somebody who was verified with this very request.

        Raises:
            Refused: If nobody whom we know, or somebody who has no business here.
        """
        try:
            if proof.signed is not None:
                signer = self.signatures.recall(proof.signed)
                known = (identity_of_signer(signer[0]), signer[1]) if signer else None
            else:
                principal = self.verifier.recall(proof.bearer, edge=EDGE, workload_hint=proof.hint)
                known = (identity_of_bearer(principal[0]), principal[1]) if principal else None
        except CallerError as error:
            self._require_patience(proof)
            raise self._failed(proof, error) from None
        except AccessDenied as error:
            raise self._turned_away(proof, error) from None
        return known or (await self.verify(proof), None)

    async def verify(self, proof: Proof) -> Identity:
        """Who asks, by what the vault says now.

        Raises:
            Refused: As `identify`; or it cannot be known now, or they have failed too often.
        """
        self._require_patience(proof)
        try:
            if proof.signed is not None:
                found = identity_of_signer(await self.signatures.verify(proof.signed))
            else:
                verifier = self.verifier
                found = identity_of_bearer(await verifier.authenticate(proof.bearer, edge=EDGE, workload_hint=proof.hint))
        except CallerError as error:
            raise self._failed(proof, error) from None
        except (AccessDenied, StorageError) as error:
            raise self._turned_away(proof, error) from None
        except RateLimited as error:
            raise self.too_many(error.retry_after_seconds or 1, None, proof.source) from None
        self._remember(proof.failing)
        return found

    def _require_patience(self, proof: Proof) -> None:
        """Stop whoever has failed too often."""
        failures, failing = self.limits.failures, proof.failing
        tried = (failing,) if failing in self.known else (failing, ("source", proof.source))
        if any(failures.is_empty(key) for key in tried):
            raise self.too_many(60, None, proof.source)

    def _turned_away(self, proof: Proof, error: IdentityError) -> Refused:
        """Write down who proved somebody, but has no business here, or could not be looked up."""
        self.limits.refused(error.code, EDGE, None, proof.source)
        return Refused(failure(errors.problem_of(error, "data")))

    def _failed(self, proof: Proof, error: CallerError) -> Refused:
        """Write down and count what proves nobody."""
        limits = self.limits
        reason = error.reason.value if isinstance(error, SignatureRefused) else ""
        self.refusals.note(error.code, edge=EDGE, source=proof.source, reason=reason)
        if reason:
            log.info("a signed request was refused: %s", reason)  # for the operator; the caller is told one text
        self.known.pop(proof.failing, None)
        limits.failures.take(proof.failing)
        if not isinstance(error, TokenExpired):  # who brings one that was good has guessed nothing
            limits.failures.take(("source", proof.source))
        if proof.signed is not None:
            return Refused(failure(errors.problem(errors.ACCESS_DENIED, error.message)))
        message = _REFUSED if isinstance(error, Unauthenticated) else error.message
        return Refused(failure(errors.problem(errors.UNAUTHORIZED, message), challenge=True))

    def admit(self, identity: Identity, source: str) -> tuple[str, str, str]:
        """Count a request of somebody who proved who they are.

        Returns:
            Whose requests are counted together: a key's, or a workload's.

        Raises:
            Refused: If they come too often.
        """
        principal = identity.principal
        place = principal.tenant, identity.signed_by or principal.workload.id, principal.user_key
        wait = self.limits.requests.take(place)
        if wait:
            raise self.too_many(wait, principal, source)
        return place

    def too_many(self, seconds: float, principal: Principal | None, source: str) -> Refused:
        """The answer to whoever comes too often, written down in aggregate."""
        self.limits.refused(RateLimited.code, EDGE, principal, "" if principal else source)
        told = RateLimited("too many requests", retry_after_seconds=max(1, math.ceil(seconds)))
        return Refused(failure(errors.problem_of(told, "data")))

    def _remember(self, name: tuple[Any, ...]) -> None:
        self.known[name] = None
        self.known.move_to_end(name)
        if len(self.known) > MOST_KNOWN:
            self.known.popitem(last=False)


def _raw_path(scope: Scope) -> bytes:
    """The path as it came over the wire."""
    return scope.get("raw_path") or scope["path"].encode()
