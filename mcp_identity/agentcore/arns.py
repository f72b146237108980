"""What are things called at this edge? Names in the form of ARNs, which say nothing that the name alone does not.

Clients of the service keep ARNs and show them; so everything has one, of the region that the client signs for and of an account
that nobody has. Where one is read, region and account say nothing: the signature has said whose tenant it is.
"""

from __future__ import annotations

import re
from enum import StrEnum

from mcp_identity.domain.identity import is_resource_name

SERVICE = "bedrock-agentcore"
DEFAULT_REGION = "us-east-1"
ACCOUNT = "000000000000"
DEFAULT = "default"
"""The name of the one directory and the one vault of a tenant."""
LONGEST_ARN = 1024
_ARN = re.compile(r"arn:[a-z0-9-]*:bedrock-agentcore:[a-z0-9-]+:[0-9]{12}:([A-Za-z0-9._/-]+)")


class Kind(StrEnum):
    """What an ARN can name; the value is what stands before the name."""

    DIRECTORY = "workload-identity-directory"
    WORKLOAD = "workload-identity-directory/default/workload-identity"
    VAULT = "token-vault"
    OAUTH2 = "token-vault/default/oauth2credentialprovider"
    API_KEY = "token-vault/default/apikeycredentialprovider"


_SECRETS = {Kind.OAUTH2: "oauth2", Kind.API_KEY: "apikey"}


def arn(kind: Kind, region: str, name: str = DEFAULT) -> str:
    """The ARN of something."""
    return f"arn:aws:{SERVICE}:{region}:{ACCOUNT}:{kind.value}/{name}"


def secret_arn(kind: Kind, region: str, name: str) -> str:
    """The ARN by which the secret of a provider is spoken of; it can be read nowhere."""
    place = f"{_SECRETS[kind]}/{name}"
    return f"arn:aws:secretsmanager:{region}:{ACCOUNT}:secret:bedrock-agentcore-identity!default/{place}"


def read_arn(text: str) -> tuple[Kind, str] | None:
    """What an ARN names, or None for one that names nothing of ours."""
    found = _ARN.fullmatch(text) if len(text) <= LONGEST_ARN else None
    if found is None:
        return None
    place, _, name = found[1].rpartition("/")
    kind = next((kind for kind in Kind if kind.value == place), None)
    if kind is None or not is_resource_name(name):
        return None
    if kind in (Kind.DIRECTORY, Kind.VAULT) and name != DEFAULT:
        return None
    return kind, name
