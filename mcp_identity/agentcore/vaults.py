"""The token vault of a tenant, as far as a client may see and change it: under which kind of key it is.

The key-encryption key is chosen where the server is started, and moved with the server's own command line, since whoever moves
it must be able to reach both keys. So a client is told which one it is, and may ask for the one that it is already.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from mcp_identity.agentcore.answers import Moment
from mcp_identity.agentcore.arns import DEFAULT
from mcp_identity.agentcore.errors import Fields, NotServed
from mcp_identity.agentcore.operations import control
from mcp_identity.agentcore.shapes import KeyArn, Shape, VaultId
from mcp_identity.domain.errors import NotFound

if TYPE_CHECKING:
    from mcp_identity.agentcore.asker import Asker
    from mcp_identity.agentcore.operations import Edge
    from mcp_identity.broker.storage import VaultStanding

_KMS = re.compile(r"aws-kms:(arn:aws[^:]*:kms:[^:]*:[0-9]{12}:key/.+)")
_CUSTOMER = "CustomerManagedKey"
_OTHER_KEY = (
    "the vault is under another key than was asked for: its key is chosen where this server is started, by the setting "
    "MCP_IDENTITY_KEY, and an operator of the server moves the vault with: mcp-identity keys move"
)
_NOT_LOST = "the key of the vault is there, so there is nothing to reset"


class KeyConfiguration(Shape):
    """Under which kind of key a vault is."""

    key_type: Literal["CustomerManagedKey", "ServiceManagedKey"]
    kms_key_arn: KeyArn | None = None


class Shown(Shape):
    """A vault as it stands."""

    token_vault_id: str = DEFAULT
    kms_configuration: KeyConfiguration
    last_modified_date: Moment


class Named(Shape):
    """A vault by its id; the only one where none is given."""

    token_vault_id: VaultId = DEFAULT


class KeyChoice(Named):
    """Under which key a vault shall be."""

    kms_configuration: KeyConfiguration


class Reset(Shape):
    """A vault whose key is lost."""

    token_vault_id: VaultId


async def get(edge: Edge, asker: Asker, given: Named) -> Shown:
    """Show the vault."""
    call = asker.call("get_token_vault")
    _require(given.token_vault_id)
    return _shown(await edge.broker.vault_standing(call))


async def set_key(edge: Edge, asker: Asker, given: KeyChoice) -> Shown:
    """Say that the vault is under a key, if it is."""
    call = asker.call("set_token_vault_key")
    _require(given.token_vault_id)
    asked = given.kms_configuration
    if (asked.key_type == _CUSTOMER) != (asked.kms_key_arn is not None):
        raise Fields(("kmsConfiguration.kmsKeyArn", f"is given for a {_CUSTOMER}, and for no other"))

    def check(standing: VaultStanding) -> None:
        if _shown(standing).kms_configuration != asked:
            raise NotServed(_OTHER_KEY)

    return _shown(await edge.broker.vault_standing(call, check))


async def reset(edge: Edge, asker: Asker, given: Reset) -> Shown:
    """Refuse: a vault whose key is gone does not serve, and this one does."""
    call = asker.call("reset_token_vault_key")
    _require(given.token_vault_id)

    def refuse(_standing: VaultStanding) -> None:
        raise NotServed(_NOT_LOST)

    return _shown(await edge.broker.vault_standing(call, refuse))


def _require(vault_id: str) -> None:
    if vault_id != DEFAULT:
        raise NotFound(f"there is no token vault of this id; it is called {DEFAULT}")


def _shown(standing: VaultStanding) -> Shown:
    customer = _KMS.fullmatch(standing.key_id)
    configuration = KeyConfiguration(key_type="ServiceManagedKey")
    if customer:
        configuration = KeyConfiguration(key_type="CustomerManagedKey", kms_key_arn=customer[1])
    return Shown(kms_configuration=configuration, last_modified_date=standing.changed_at)


OPERATIONS = (
    control("GetTokenVault", "get_token_vault", Named, get, path="/identities/get-token-vault"),
    control("SetTokenVaultCMK", "set_token_vault_key", KeyChoice, set_key, path="/identities/set-token-vault-cmk"),
    control(
        "ResetTokenVaultKeyMaterial",
        "reset_token_vault_key",
        Reset,
        reset,
        path="/identities/reset-token-vault-key-material",
    ),
)
