"""Where does the secret of a provider come from: is it given, or is it named?

Given, it is kept here (MANAGED). Named, it is read from the places that an operator of this server listed for the tenant
(EXTERNAL); a client of a cloud's secret store finds here the environment and files instead, by ``env:`` and ``file:``. What is
told of a secret is a name in the form of an ARN, which opens nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mcp_identity.agentcore.arns import ACCOUNT, Kind, secret_arn
from mcp_identity.agentcore.errors import Fields
from mcp_identity.agentcore.shapes import SecretArn, SecretReference, SecretSource
from mcp_identity.domain import credentials
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.provider import CredentialProvider

MANAGED: SecretSource = "MANAGED"
EXTERNAL: SecretSource = "EXTERNAL"
_NO_ARN = re.compile(r"[^A-Za-z0-9_/+=.@!-]+")


@dataclass(frozen=True, slots=True)
class GivenSecret:
    """A secret as a request has it: one of the two, or neither.

    Attributes:
        value: The secret itself.
        reference: Where it is.
    """

    value: Secret | None = None
    reference: credentials.SecretReference | None = None

    @property
    def is_there(self) -> bool:
        """Whether there is one."""
        return self.value is not None or self.reference is not None


@dataclass(frozen=True, slots=True)
class Names:
    """What the members of a request are called that say where a secret is; with their place in it."""

    value: str
    reference: str
    source: str


def given_secret(
    names: Names, value: Secret | None, reference: SecretReference | None, source: SecretSource | None
) -> GivenSecret:
    """The secret that a request gives.

    Raises:
        Fields: If its members contradict one another.
    """
    if value == Secret(""):
        value = None
    if source == EXTERNAL:
        if reference is None:
            raise Fields((names.reference, f"is required where {names.source} is {EXTERNAL}"))
        if value is not None:
            raise Fields((names.value, f"is not given where {names.source} is {EXTERNAL}"))
        return GivenSecret(reference=credentials.SecretReference(reference.secret_id, reference.json_key))
    if reference is not None:
        raise Fields((names.reference, f"is given only where {names.source} is {EXTERNAL}"))
    return GivenSecret(value=value)


@dataclass(frozen=True, slots=True)
class ToldSecret:
    """What is told of a secret."""

    arn: SecretArn
    source: SecretSource
    json_key: str | None


def told_secret(kind: Kind, region: str, provider: CredentialProvider) -> ToldSecret:
    """What is told of a provider's secret."""
    reference = provider.secret_reference
    if reference is None:
        return ToldSecret(SecretArn(secret_arn=secret_arn(kind, region, provider.name)), MANAGED, None)
    place = _NO_ARN.sub("/", reference.reference)
    named = f"arn:aws:secretsmanager:{region}:{ACCOUNT}:secret:{place}"
    return ToldSecret(SecretArn(secret_arn=named), EXTERNAL, reference.json_key or None)
