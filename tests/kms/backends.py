"""How does a test get a backend of each kind, and a second one with another key?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcp_identity.settings import key_reference, read_secret
from mcp_identity.vault.kms.aws import AwsKmsKey, parse_aws_key
from mcp_identity.vault.kms.backend import KeyBackend
from mcp_identity.vault.kms.choosing import KeySource
from mcp_identity.vault.kms.keyring import KeyringEntry
from mcp_identity.vault.kms.local import LocalKey, new_key_text, parse_key_text
from mcp_identity.vault.kms.pkcs11 import Pkcs11Key, parse_pkcs11
from mcp_identity.vault.kms.transit import TransitKey, parse_transit
from tests.fakes.clock import SystemEntropy
from tests.kms.peers import Bao, Kms, Token

KINDS = ("file", "env", "keyring", "aws-kms", "transit", "transit over a socket", "pkcs11")
Maker = Callable[[str], KeyBackend]
"""Makes the backend of a key: ``vault`` or ``other``."""


class FakeKeyring:
    """A keyring in memory.

    Attributes:
        locked: Raise as a locked one does.
        forgets: Keep nothing, as keyring's own null backend does.
    """

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], str] = {}
        self.locked = False
        self.forgets = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise RuntimeError("a collection of the user alice is locked")
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.locked:
            raise RuntimeError("a collection of the user alice is locked")
        if not self.forgets:
            self.entries[service, username] = password


def source(reference: str) -> KeySource:
    """A reference, as the product reads it."""
    return KeySource(*key_reference(reference))


def maker(kind: str, request: pytest.FixtureRequest) -> Maker:
    """What makes the backends of a kind; starts the peer that it needs."""
    entropy = SystemEntropy()
    match kind:
        case "file" | "env" | "keyring":
            texts = {name: new_key_text(entropy) for name in ("vault", "other")}
            return _local(kind, texts, request)
        case "aws-kms":
            aws: Kms = request.getfixturevalue("aws")
            request.getfixturevalue("aws_credentials")
            arns = {"vault": aws.arn, "other": aws.other_arn}
            return lambda name: AwsKmsKey(parse_aws_key(arns[name]), endpoint=aws.endpoint)
        case "transit":
            openbao: Bao = request.getfixturevalue("openbao")
            return lambda name: TransitKey(parse_transit(openbao.reference(name)), read_secret)
        case "transit over a socket":
            server: Bao = request.getfixturevalue("openbao")
            return lambda name: TransitKey(
                parse_transit(f"unix:{server.socket}?mount=transit&key={name}&token_file={server.token_file}"), read_secret
            )
        case _:
            token: Token = request.getfixturevalue("token")
            return lambda name: Pkcs11Key(parse_pkcs11(token.reference(name)), read_secret, entropy)


def _local(kind: str, texts: dict[str, str], request: pytest.FixtureRequest) -> Maker:
    entropy = SystemEntropy()
    if kind == "keyring":
        keyring = FakeKeyring()
        keyring.entries = {("mcp-identity", name): text for name, text in texts.items()}

        def of_keyring(name: str) -> KeyBackend:
            text = KeyringEntry(f"mcp-identity/{name}", keyring).read_text()
            return LocalKey(parse_key_text(text or "", "keyring"), entropy)

        return of_keyring
    if kind == "env":
        monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        for name, text in texts.items():
            monkeypatch.setenv(f"KEY_{name}", text)
        return lambda name: source(f"env:KEY_{name}").open(entropy)
    folder = request.getfixturevalue("tmp_path")
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    return lambda name: source(f"file:{folder / name}").open(entropy)
