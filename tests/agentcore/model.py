"""What does the service model ask of requests, which requests break one rule of it each, and is an answer what it says?

Everything is read from the model that botocore ships; only a string for each pattern is ours, and checked against it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, cast
from urllib.parse import quote, urlencode

from tests.inbound.signing import PLANES, client_model, operations

Path = tuple[str | int, ...]
"""Where something stands in a request: names of members, keys, and places in lists."""
ARN = "arn:aws:bedrock-agentcore:eu-central-1:000000000000:token-vault/default/apikeycredentialprovider/weather"
SAMPLES = {
    "UserTokenType": "aGVh.cGF5.c2ln",
    "RequestUri": "urn:ietf:params:oauth:request_uri:abc",
    "ResourceOauth2ReturnUrlType": "https://app.example.com/cb",
    "DiscoveryUrlType": "https://as.example.com/.well-known/openid-configuration",
    "TokenAuthMethod": "client_secret_post",
    "KmsKeyArn": "arn:aws:kms:eu-central-1:000000000000:key/00000000-0000-0000-0000-000000000000",
    "ResourceConfigurationIdentifier": "rcfg-00000000000000000",
    "VpcIdentifier": "vpc-00000000",
    "SubnetId": "subnet-00000000",
    "SecurityGroupIdentifier": "sg-00000000",
    "CertificateS3Uri": "s3://bucket/key",
    "CertificateBucketOwnerAccountId": "000000000000",
    "CertificateSecretArn": "arn:aws:secretsmanager:eu-central-1:000000000000:secret:name",
    "TaggableResourcesArn": ARN,
    "IssuerUrlType": "https://as.example.com",
    "AuthorizationEndpointType": "https://as.example.com/authorize",
    "TokenEndpointType": "https://as.example.com/token",
}
"""By the name of the shape; every other string is letters."""
_JUNK = ("\u00e9 \u00e9", "a b", "?", " ", "a\nb", "x" * 12, "a b" * 12)
_OTHER_TYPES: dict[str, Any] = {
    "string": 7, "integer": "seven", "boolean": "yes", "list": "text", "map": "text", "structure": "text",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Violation:
    """A request that breaks one rule.

    Attributes:
        rule: Which: `required`, `min`, `max`, `pattern`, `enum`, `union` or `type`.
        path: Where.
        members: The whole request.
    """

    rule: str
    path: Path
    members: dict[str, Any]

    @property
    def name(self) -> str:
        """Which rule, and where, for people."""
        return f"{self.rule} {'.'.join(map(str, self.path))}"


@cache
def all_operations() -> dict[str, Any]:
    """Every identity operation of both planes, by its name."""
    return {operation.name: operation for plane in PLANES for operation in operations(plane)}


def plane_of(operation: str) -> str:
    """The plane of an operation."""
    return next(plane for plane in PLANES if operation in client_model(plane).operation_names)


def wire(operation: Any, members: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Method, path with query, and the members of the body; as the model places them."""
    path, body, query = str(operation.http["requestUri"]), dict(members), list[tuple[str, str]]()
    for name, shape in operation.input_shape.members.items():
        where = shape.serialization.get("location")
        if where is None or name not in body:
            continue
        value = body.pop(name)
        if where == "uri":
            path = path.replace(f"{{{shape.serialization['name']}}}", quote(str(value), safe=""))
        else:
            query += [(shape.serialization["name"], str(each)) for each in value]
    return operation.http["method"], f"{path}?{urlencode(query)}" if query else path, body


def sample(shape: Any, name: str = "", *, whole: bool = False) -> Any:
    """A value that the model allows: required members alone, or with `whole` every member that may stand together.

    Raises:
        AssertionError: If the model would not allow it.
    """
    made = _sample(shape, name, whole=whole)
    problems = list(check(shape, made, ()))
    assert problems == [], problems
    return made


def anything(shape: Any) -> Any:
    """A value of the right structure, for operations of which nothing is read."""
    return _sample(shape, "", whole=False)


def _sample(shape: Any, name: str, *, whole: bool) -> Any:  # noqa: PLR0911 - a kind of shape, a line
    match shape.type_name:
        case "structure":
            if is_union(shape):
                first = next(iter(shape.members))
                return {first: _sample(shape.members[first], first, whole=whole)}
            members = shape.members if whole else shape.required_members
            return {member: _sample(shape.members[member], member, whole=whole) for member in members}
        case "list":
            return [_sample(shape.member, name, whole=whole)]
        case "map":
            return {_text(shape.key): _sample(shape.value, name, whole=whole)}
        case "boolean":
            return False
        case "integer" | "long":
            return int(shape.metadata.get("min", 1))
        case _:
            return _text(shape)


def _text(shape: Any) -> str:
    if shape.enum:
        return str(shape.enum[0])
    return SAMPLES.get(shape.name, "abc".ljust(int(shape.metadata.get("min", 0)), "x"))


def is_union(shape: Any) -> bool:
    """Whether exactly one member is given."""
    return bool(getattr(shape, "is_tagged_union", False))


# --- Requests that break a rule ------------------------------------------------------------------------------------------


def violations(operation: Any) -> Iterator[Violation]:
    """Each rule of an operation's input, broken once."""
    base = sample(operation.input_shape)
    yield from _within(operation.input_shape, base, (), lambda value: value)


def _within(shape: Any, value: Any, path: Path, put: Callable[[Any], dict[str, Any]]) -> Iterator[Violation]:
    """The rules of a shape and of everything below; `put` makes the request that has another value here."""
    if path:
        yield Violation("type", path, put(_OTHER_TYPES.get(shape.type_name, {})))
    match shape.type_name:
        case "structure":
            yield from _of_structure(shape, value, path, put)
        case "list":
            yield from _of_sizes(shape, path, put, lambda count: [_sample(shape.member, "", whole=False)] * count)
            place = (*path, 0)
            yield from _within(shape.member, _sample(shape.member, "", whole=False), place, lambda each: put([each]))
        case "map":
            yield from _of_sizes(shape, path, put, lambda count: {f"k{n}": _text(shape.value) for n in range(count)})
            key = _text(shape.key)
            yield from _within(shape.value, _text(shape.value), (*path, key), lambda each: put({key: each}))
            for violation in _of_text(shape.key, (*path, "key"), lambda each: put({each: _text(shape.value)})):
                yield Violation(f"{violation.rule} of a key", path, violation.members)
        case "string":
            yield from _of_text(shape, path, put)
        case "integer":
            for rule, step in (("min", -1), ("max", 1)):
                if rule in shape.metadata:
                    yield Violation(rule, path, put(shape.metadata[rule] + step))
        case _:
            return


def _of_structure(shape: Any, value: Any, path: Path, put: Callable[[Any], dict[str, Any]]) -> Iterator[Violation]:
    if is_union(shape):
        yield Violation("union", path, put({}))
        two = [(name, _sample(member, name, whole=False)) for name, member in list(shape.members.items())[:2]]
        if len(two) > 1:
            yield Violation("union", path, put(dict(two)))
    for name in shape.required_members:
        if shape.members[name].serialization.get("location") != "uri":
            yield Violation("required", (*path, name), put({other: deepcopy(value[other]) for other in value if other != name}))
    for name, member in shape.members.items():
        beside = {} if is_union(shape) else {other: value[other] for other in value if other != name}
        given = value[name] if name in value else _sample(member, name, whole=False)

        def put_member(each: Any, name: str = name, beside: dict[str, Any] = beside) -> dict[str, Any]:
            return put({**deepcopy(beside), name: each})

        yield from _within(member, given, (*path, name), put_member)


def _of_sizes(shape: Any, path: Path, put: Callable[[Any], dict[str, Any]], make: Callable[[int], Any]) -> Iterator[Violation]:
    if shape.metadata.get("min", 0) > 0:
        yield Violation("min", path, put(make(shape.metadata["min"] - 1)))
    if "max" in shape.metadata:
        yield Violation("max", path, put(make(shape.metadata["max"] + 1)))


def _of_text(shape: Any, path: Path, put: Callable[[Any], dict[str, Any]]) -> Iterator[Violation]:
    if shape.enum:
        yield Violation("enum", path, put("NoSuchValue"))
        return
    least, most = int(shape.metadata.get("min", 0)), int(shape.metadata.get("max", 0))
    pattern = shape.metadata.get("pattern")
    if least > 0:
        yield Violation("min", path, put("a" * (least - 1)))
    if most:
        yield Violation("max", path, put(_longer(shape, most)))
    if pattern:
        fitting = [text for text in _JUNK if least <= len(text) <= (most or 100) and not re.fullmatch(pattern, text)]
        yield Violation("pattern", path, put(fitting[0]))


def _longer(shape: Any, most: int) -> str:
    """One character too many; where the pattern lets it be, of such that it allows."""
    return (SAMPLES.get(shape.name, "a") + "a" * most)[: most + 1]


# --- Whether a value is what the model says ------------------------------------------------------------------------------


def check(  # noqa: C901 - a kind of shape, a branch
    shape: Any, value: Any, path: Path, *, of_output: bool = False
) -> Iterator[str]:
    """What of a value is not as the model says; an answer has no members that the model does not know.

    The patterns of ARNs in answers name another service than the documentation, the stock clients' own requests and the real
    service do, and no client checks them; so they are left out here.
    """
    where = ".".join(map(str, path)) or "it"
    match shape.type_name:
        case "structure":
            if not isinstance(value, dict):
                yield f"{where} is no structure"
                return
            found = cast("dict[str, Any]", value)
            yield from (f"{where} lacks {name}" for name in shape.required_members if name not in found)
            yield from (f"{where} has {name}, which the model does not know" for name in found if name not in shape.members)
            if is_union(shape) and len(found) != 1:
                yield f"{where} has {len(found)} members of a union"
            for name, member in shape.members.items():
                if name in found:
                    yield from check(member, found[name], (*path, name), of_output=of_output)
        case "list":
            yield from _check_size(shape, value, list, where)
            for place, each in enumerate(value):
                yield from check(shape.member, each, (*path, place), of_output=of_output)
        case "map":
            yield from _check_size(shape, value, dict, where)
            for key, each in value.items():
                yield from check(shape.key, key, (*path, "key"), of_output=of_output)
                yield from check(shape.value, each, (*path, key), of_output=of_output)
        case "string":
            yield from _check_text(shape, value, where, of_output=of_output)
        case kind:
            types = {"boolean": bool, "integer": int, "long": int, "timestamp": float}
            if type(value) not in (types[kind], int if kind == "timestamp" else types[kind]):
                yield f"{where} is no {kind}"


def _check_size(shape: Any, value: Any, kind: type[Any], where: str) -> Iterator[str]:
    if not isinstance(value, kind):
        yield f"{where} is no {kind.__name__}"
    elif not shape.metadata.get("min", 0) <= len(value) <= shape.metadata.get("max", len(value)):
        yield f"{where} has {len(value)} entries"


def _check_text(shape: Any, value: Any, where: str, *, of_output: bool) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{where} is no text"
        return
    if not shape.metadata.get("min", 0) <= len(value) <= shape.metadata.get("max", len(value)):
        yield f"{where} has {len(value)} characters"
    if shape.enum and value not in shape.enum:
        yield f"{where} is {value}, which is none of the model's"
    pattern = shape.metadata.get("pattern")
    is_arn = of_output and "arn:" in (pattern or "")
    if pattern and not is_arn and re.fullmatch(pattern, value) is None:
        yield f"{where} does not match {pattern}"
