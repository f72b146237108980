"""How is one request at this edge served?

From the outside in: what is asked, whether the gate lets it in, whether what it gives is what the model says, and then the
operation. A signature is over the body, so that is read first, up to a size that every request of the model is below. Whoever
was remembered from an older configuration is verified anew, once; nothing was done before. A signed write has one effect.
What was refused stands in the trail. Nothing that was sent is repeated but the names of members.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from pydantic import ValidationError

from mcp_identity.agentcore import errors
from mcp_identity.agentcore.answers import Answer, failure, say, success, unpacked
from mcp_identity.agentcore.asker import Asker, Identity
from mcp_identity.agentcore.gate import Refused
from mcp_identity.domain.errors import AccessDenied, IdentityError, StorageError
from mcp_identity.domain.standing import Outdated, Standing, standing

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from mcp_identity.agentcore.gate import Gate
    from mcp_identity.agentcore.known import KnownWorkloads
    from mcp_identity.agentcore.operations import Edge, Operation
    from mcp_identity.domain.clock import Entropy

log = logging.getLogger(__name__)
MAXIMUM_BODY_BYTES = 256 * 1024
"""More than the model lets any request be that it lets anybody make here."""
_REQUEST_ID_BYTES = 8
_MEMBER = re.compile(r"[A-Za-z][A-Za-z0-9]{0,47}")
_UNKNOWN = "there is no such operation"
_ENDING = errors.Problem(503, "ServiceUnavailableException", "the server is ending; ask again", {}, 1)


class _Gone(Exception):
    """Whoever asked has hung up."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What came: the scope, and the whole body."""

    scope: Scope
    body: bytes
    id: str


class Entry:
    """Serves the operations of one path, as an ASGI application."""

    def __init__(
        self,
        edge: Edge,
        gate: Gate,
        operations: Mapping[str, Operation],
        workloads: KnownWorkloads,
        entropy: Entropy,
        *,
        body_bytes: int,
    ) -> None:
        """Serve a path.

        Args:
            edge: What operations work with.
            gate: Lets requests in.
            operations: By HTTP method.
            workloads: By their names.
            entropy: For the ids of requests.
            body_bytes: The most of a body.
        """
        self._edge = edge
        self._gate = gate
        self._operations = operations
        self._workloads = workloads
        self._entropy = entropy
        self._body_bytes = min(body_bytes, MAXIMUM_BODY_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request_id = self._entropy.random_bytes(_REQUEST_ID_BYTES).hex()
        token = standing.set(None)
        try:
            answer = await self._answer(scope, receive, request_id)
        except _Gone:
            return
        except Refused as refused:
            answer = refused.answer
        finally:
            standing.reset(token)
        await say(answer, request_id, send)

    async def _answer(self, scope: Scope, receive: Receive, request_id: str) -> Answer:
        operation, gate = self._operations.get(scope["method"]), self._gate
        if operation is None:
            return failure(errors.problem(errors.UNKNOWN_OPERATION, _UNKNOWN))
        if gate.is_ending():
            return failure(_ENDING)
        request = _Request(scope, await self._read(receive), request_id)
        proof = gate.proof(scope, request.body)
        identity, remembered = await gate.identify(proof)
        place = gate.admit(identity, proof.source)
        # A key brings the users of an agent with it, so it has the places of a group; each user's calls are counted below.
        with gate.limits.answering.hold((place, request_id), place[:2]) as has_room:
            if not has_room:
                raise gate.too_many(1, identity.principal, proof.source)
            try:
                return await self._serve(operation, identity, remembered, request)
            except Outdated:  # somebody was remembered from an older configuration; nothing of this was done
                standing.set(None)
                identity = await gate.verify(proof)
                return await self._serve(operation, identity, None, request, fresh=True)

    async def _read(self, receive: Receive) -> bytes:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._body_bytes:
                told = errors.validation(f"the body is larger than {self._body_bytes} bytes", "CannotParse")
                raise Refused(failure(told))
        return bytes(body)

    async def _serve(
        self,
        operation: Operation,
        identity: Identity,
        remembered: Standing | None,
        request: _Request,
        *,
        fresh: bool = False,
    ) -> Answer:
        """Serve somebody who was let in."""
        standing.set(remembered)
        broker = self._edge.broker
        asker = Asker(identity, self._workloads, self._edge.verifier, self._gate.limits, request.id, fresh=fresh)

        async def work() -> bytes:
            return (await self._run(operation, asker, request)).packed()

        try:
            if operation.writes and identity.signature_hash:
                signature, call_name = identity.signature_hash, _call_name(request.scope)
                return unpacked(await broker.replays.once(asker.tenant, signature, work, call_name=call_name))
            if operation.writes:
                await broker.confirm()
            answer = await self._run(operation, asker, request)
            last = standing.get()
            if last is not None and not last.is_confirmed:  # nothing was asked of the vault that would have said it
                await broker.confirm()
        except IdentityError as error:
            return failure(errors.problem_of(await self._written_down(operation, asker, error), operation.plane))
        return answer

    async def _run(self, operation: Operation, asker: Asker, request: _Request) -> Answer:
        """Run an operation; a refusal is an answer, unless asking again may help."""
        try:
            _require_role(operation, asker)
            given = _given(operation, request)
            return success(operation.success, await operation.run(self._edge, asker, given))
        except IdentityError as error:
            told = await self._written_down(operation, asker, error)
        except Outdated:
            raise
        except Exception:  # whoever asks learns no more than that it failed
            log.exception("%s failed unexpectedly", operation.name)
            told = await self._written_down(operation, asker, IdentityError(errors.FAILED))
        finally:
            asker.leave()
        if told.retryable or isinstance(told, StorageError):
            raise told
        return failure(errors.problem_of(told, operation.plane))

    async def _written_down(self, operation: Operation, asker: Asker, error: IdentityError) -> IdentityError:
        """See to it that the trail has a refusal; what to tell, which is another error where the trail cannot have it."""
        if error.audited:
            return error
        try:
            await self._edge.broker.refuse(asker.stray(operation.action), error)
        except IdentityError as failed:
            failed.audited = True  # as far as it can be
            return failed
        return error


class UnknownOperation:
    """Answers everything below our places that is no operation, as an ASGI application."""

    def __init__(self, entropy: Entropy) -> None:
        """Take ids of requests from there."""
        self._entropy = entropy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        del scope, receive
        told = failure(errors.problem(errors.UNKNOWN_OPERATION, _UNKNOWN))
        await say(told, self._entropy.random_bytes(_REQUEST_ID_BYTES).hex(), send)


def _require_role(operation: Operation, asker: Asker) -> None:
    if operation.needs == "admin" and not asker.identity.is_admin:
        raise AccessDenied(
            f"{operation.name} is for operators: sign with an access key of role admin "
            "(mcp-identity access-keys create --role admin)"
        )


def _call_name(scope: Scope) -> bytes:
    """What the client calls the call that a request is of; no client signs it, so nothing but patience depends on it."""
    return next((value for name, value in scope["headers"] if name == b"amz-sdk-invocation-id"), b"")


def _given(operation: Operation, request: _Request) -> Any:
    """What an operation is given, checked.

    Raises:
        Unreadable: If it is not JSON.
        Fields: If a member breaks a rule of the model.
    """
    scope, body = request.scope, request.body or b"{}"
    try:
        if "{" not in operation.path:
            return operation.shape.model_validate_json(body)
        members: Any = json.loads(body)
        if not isinstance(members, dict):
            raise errors.Unreadable("the body is one JSON object")
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = {name: [value for key, value in query if key == name] for name in operation.query}
        lists = {name: values for name, values in given.items() if values}  # one that is not there is missing, not empty
        return operation.shape.model_validate({**members, **lists, **scope["path_params"]})
    except ValidationError as error:
        raise _refusal(error) from None
    except (ValueError, RecursionError):
        raise errors.Unreadable("the body is not JSON") from None


def _refusal(error: ValidationError) -> IdentityError:
    found = error.errors(include_input=False, include_url=False, include_context=False)
    if any(each["type"] == "json_invalid" for each in found):
        return errors.Unreadable("the body is not JSON")
    if any(not each["loc"] for each in found):
        return errors.Unreadable("the body is one JSON object")
    return errors.Fields(*[(_member(each["loc"]), each["msg"]) for each in found])


def _member(loc: tuple[int | str, ...]) -> str:
    """The name of a member, as far as it is one of the model's and not a key of the caller's."""
    names: list[str] = []
    for part in loc:
        if isinstance(part, str) and _MEMBER.fullmatch(part) is None:
            break
        names.append(str(part))
    return ".".join(names)
