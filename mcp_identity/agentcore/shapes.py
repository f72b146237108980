"""What may a request hold, and what does an answer look like?

The members, lengths, patterns and enums of the service model, checked here since no client checks them all. Unknown members are
ignored, as the protocol (rest-json) does; absent and null are the same. A secret becomes a `Secret` as it is read, and no error
repeats what was given. Who may ask, and what comes of it, is decided elsewhere.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StringConstraints, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from mcp_identity.domain.credentials import Secret


class Shape(BaseModel):
    """A structure on the wire."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
        extra="ignore",
        strict=True,
        frozen=True,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
        defer_build=True,  # most servers are asked for few of these, and start-up is on the person's clock
    )


class OneOf(Shape):
    """A structure of which exactly one member is given."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            members = ", ".join(str(field.alias) for field in type(self).model_fields.values())
            raise PydanticCustomError("one_of", "Give exactly one of: {members}", {"members": members})
        return self


class Nothing(Shape):
    """An input of which nothing is read."""


def text(minimum: int = 0, maximum: int | None = None, pattern: str = "") -> StringConstraints:
    """The constraints of a string; a pattern is of the whole of it."""
    return StringConstraints(min_length=minimum or None, max_length=maximum, pattern=f"^(?:{pattern})$" if pattern else None)


def sensitive(maximum: int, minimum: int = 0, pattern: str = "") -> PlainValidator:
    """Read a string into a `Secret`; an error says which rule it broke, and nothing of it."""
    whole = re.compile(pattern) if pattern else None

    def read(value: object) -> Secret:
        if isinstance(value, Secret):
            return value
        if not isinstance(value, str):
            raise PydanticCustomError("string_type", "Input should be a valid string")
        if not minimum <= len(value) <= maximum:
            raise PydanticCustomError(
                "length",
                "String should have {minimum} to {maximum} characters",
                {"minimum": minimum, "maximum": maximum},
            )
        if whole and not whole.fullmatch(value):
            raise PydanticCustomError("pattern", "String should match the pattern of the model")
        return Secret(value)

    return PlainValidator(read)


WorkloadName = Annotated[str, text(3, 255, "[A-Za-z0-9_.-]+")]
ProviderName = Annotated[str, text(1, 128, r"[a-zA-Z0-9\-_]+")]
VaultId = Annotated[str, text(1, 64, r"[a-zA-Z0-9\-_]+")]
ReturnUrl = Annotated[str, text(1, 2048, r"[A-Za-z0-9_]+:(?:/?/?)[^\s]+")]
ResourceArn = Annotated[
    str, text(20, 1011, r"arn:(?:[^:]+)?:bedrock-agentcore:[a-z0-9-]+:[0-9]{12}:(?:[a-z0-9-]+/[^/]+)(?:/[a-z0-9-]+/[^/]+)*")
]
"""The model lets no digit stand in a kind of resource, and names one ``oauth2credentialprovider``."""
KeyArn = Annotated[str, text(1, 2048, r"arn:aws(?:|-cn|-us-gov):kms:[a-zA-Z0-9-]*:[0-9]{12}:key/[a-zA-Z0-9-]{36}")]
_TAG = r"[a-zA-Z0-9\s._:/=+@-]*"
TagKey = Annotated[str, text(1, 128, _TAG)]
Tags = Annotated[dict[TagKey, Annotated[str, text(0, 256, _TAG)]], Field(max_length=50)]
ShortPage = Annotated[int, Field(ge=1, le=20)]
LongPage = Annotated[int, Field(ge=1, le=100)]
Scope = Annotated[str, text(1, 128)]
SecretSource = Literal["MANAGED", "EXTERNAL"]


class SecretReference(Shape):
    """Where a secret is read, instead of being given."""

    secret_id: Annotated[str, text(1, 2048)]
    json_key: Annotated[str, text(1, 128)]


class SecretArn(Shape):
    """Names a secret, and never holds it."""

    secret_arn: str
