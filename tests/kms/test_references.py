"""Which references mean a key, which do not, and what is said of one that does not?"""

from __future__ import annotations

import builtins
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_identity.domain.errors import ConfigurationError, VaultUnavailable
from mcp_identity.settings import environment_for_clients, key_reference
from mcp_identity.vault.kms import keyring as keyring_module
from mcp_identity.vault.kms.aws import parse_aws_key
from mcp_identity.vault.kms.keyring import KeyringEntry, system_keyring
from mcp_identity.vault.kms.local import parse_key_text
from mcp_identity.vault.kms.pkcs11 import parse_pkcs11
from mcp_identity.vault.kms.transit import parse_transit
from tests.fakes.clock import SystemEntropy
from tests.kms.backends import FakeKeyring, source

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
PIN_FILE = "pin-source=file:/etc/pin"


@pytest.mark.parametrize("reference", ["", "file:", "vault:x", "aws-kms:", "gcp-kms:x", "/home/me/key", "FILE:/x"])
def test_a_reference_that_names_no_backend_is_refused(reference: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        key_reference(reference)
    assert caught.value.code == "configuration_error"
    assert "aws-kms:" in caught.value.message


@pytest.mark.parametrize(
    ("value", "name", "region"),
    [
        (ARN, ARN, "eu-west-1"),
        (f"{ARN}?region=eu-west-1", ARN, "eu-west-1"),
        ("alias/mcp-identity?region=us-gov-west-1", "alias/mcp-identity", "us-gov-west-1"),
        (
            "mrk-1234abcd12ab34cd56ef1234567890ab?region=ap-southeast-2",
            "mrk-1234abcd12ab34cd56ef1234567890ab",
            "ap-southeast-2",
        ),
        ("arn:aws-cn:kms:cn-north-1:111122223333:alias/x", "arn:aws-cn:kms:cn-north-1:111122223333:alias/x", "cn-north-1"),
    ],
)
def test_an_aws_key_says_which_key_and_where(value: str, name: str, region: str) -> None:
    parsed = parse_aws_key(value)
    assert (parsed.name, parsed.region) == (name, region)


@pytest.mark.parametrize(
    "value",
    [
        "alias/mcp-identity",
        f"{ARN}?region=eu-central-1",
        f"{ARN}?endpoint=http://evil.example",
        f"{ARN}?profile=x",
        "alias/x?region=eu-west-1.evil.example",
        "alias/x?region=",
        "alias/x?region",
        "https://kms.example/key?region=eu-west-1",
        "arn:aws:s3:::bucket/key/x",
        "alias/ü?region=eu-west-1",
    ],
)
def test_another_aws_key_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_aws_key(value)
    assert caught.value.code == "configuration_error"
    assert "evil" not in caught.value.message


def test_a_transit_key_says_where_it_is_and_who_we_are() -> None:
    parsed = parse_transit("https://bao.example:8200/team/transit/vault?token_file=/run/token&namespace=a/b")
    assert (parsed.url, parsed.mount, parsed.key) == ("https://bao.example:8200", "team/transit", "vault")
    parsed = parse_transit("https://[::1]/transit/vault?role_id=r&secret_id_file=/s")
    assert (parsed.url, parsed.socket) == ("https://[::1]", None)
    parsed = parse_transit("unix:/run/bao.sock?key=vault")
    assert (parsed.socket, parsed.mount, parsed.key) == (Path("/run/bao.sock"), "transit", "vault")


@pytest.mark.parametrize(
    "value",
    [
        "http://bao.example/transit/vault?token_file=/t",
        "http://127.0.0.1/transit/vault?token_file=/t",
        "https://bao.example/transit/vault",
        "https://bao.example/transit/vault?token=s.hunter2",
        "https://bao.example/transit/vault?token_file=/t&role_id=r&secret_id_file=/s",
        "https://bao.example/transit/vault?role_id=r",
        "https://bao.example/vault?token_file=/t",
        "https://bao.example/transit/va%2fult?token_file=/t",
        "https://bao.example/../vault?token_file=/t&namespace=../x",
        "https://user:hunter2@bao.example/transit/vault?token_file=/t",
        "https://bao.example/transit/vault?token_file=/t#x",
        "https://bao.example:port/transit/vault?token_file=/t",
        "https://bao.example/transit/vault?token_file=/t&verify=false",
        "unix:run/bao.sock?key=vault",
        "unix:/run/bao.sock",
        "ftp://bao.example/transit/vault?token_file=/t",
    ],
)
def test_another_transit_key_is_refused_and_nothing_of_it_is_repeated(value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_transit(value)
    assert caught.value.code == "configuration_error"
    assert "hunter2" not in caught.value.message


def test_a_pkcs11_key_is_read_as_rfc_7512_has_it() -> None:
    parsed = parse_pkcs11(f"token=My%20token;object=a%3Bb;id=%01%ff?module-path=/usr/lib/hsm.so&{PIN_FILE}")
    assert (parsed.token, parsed.label, parsed.object_id) == ("My token", "a;b", b"\x01\xff")
    assert (parsed.module, parsed.pin_source) == (Path("/usr/lib/hsm.so"), "file:/etc/pin")


@pytest.mark.parametrize(
    "value",
    [
        f"token=t?module-path=/m&{PIN_FILE}",
        f"object=o?module-path=/m&{PIN_FILE}",
        f"token=t;object=o?{PIN_FILE}",
        f"token=t;object=o?module-path=m.so&{PIN_FILE}",
        "token=t;object=o?module-path=/m&pin-value=hunter2",
        "token=t;object=o;pin-value=hunter2?module-path=/m",
        "token=t;object=o?module-path=/m&pin-source=hunter2",
        f"token=t;token=u;object=o?module-path=/m&{PIN_FILE}",
        f"token=t;object=o;slot=1?module-path=/m&{PIN_FILE}",
        "token=t;object=o?module-path=/m&pin-source=env:",
        "token;object=o?module-path=/m",
    ],
)
def test_another_pkcs11_key_is_refused_and_no_pin_is_repeated(value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_pkcs11(value)
    assert caught.value.code == "configuration_error"
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("reference", "library", "extra"),
    [
        (f"aws-kms:{ARN}", "botocore", "aws-kms"),
        ("transit:unix:/run/bao.sock?key=vault", "hvac", "transit"),
        (f"pkcs11:token=t;object=o?module-path=/m&{PIN_FILE}", "pkcs11", "pkcs11"),
        ("keyring:mcp-identity/default", "keyring", "keyring"),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, reference: str, library: str, extra: str
) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == library:
            raise ImportError(name)
        return real(name, *arguments)

    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError) as caught:
        source(reference).open(SystemEntropy())
    assert caught.value.message.endswith(f"pip install 'mcp-identity[{extra}]'")


@pytest.mark.parametrize("value", ["x", "/x", "x/", "a/b\nc"])
def test_an_entry_of_the_keyring_has_a_service_and_a_name(value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        KeyringEntry(value, FakeKeyring())
    assert caught.value.code == "configuration_error"


def test_a_key_is_made_in_the_keyring_and_read_again() -> None:
    keyring = FakeKeyring()
    entry = KeyringEntry("mcp-identity/default", keyring)
    assert entry.read_text() is None
    entry.create(SystemEntropy())
    text = KeyringEntry("mcp-identity/default", keyring).read_text()
    assert text is not None
    assert len(parse_key_text(text, entry.where)) == 32


def test_a_keyring_that_keeps_nothing_gets_no_key() -> None:
    keyring = FakeKeyring()
    keyring.forgets = True
    with pytest.raises(ConfigurationError) as caught:
        KeyringEntry("mcp-identity/default", keyring).create(SystemEntropy())
    assert caught.value.code == "configuration_error"


def test_a_locked_keyring_says_so_and_nothing_of_what_it_said() -> None:
    keyring = FakeKeyring()
    keyring.locked = True
    entry = KeyringEntry("mcp-identity/default", keyring)
    with pytest.raises(VaultUnavailable) as caught:
        entry.read_text()
    assert caught.value.retryable
    assert "alice" not in caught.value.message


def test_a_keyring_that_waits_for_a_person_who_is_not_there_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    class Waiting(FakeKeyring):
        def get_password(self, service: str, username: str) -> str | None:
            over.wait()
            return super().get_password(service, username)

    monkeypatch.setattr(keyring_module, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(VaultUnavailable) as caught:
        KeyringEntry("mcp-identity/default", Waiting()).read_text()
    over.set()
    assert caught.value.retryable


@pytest.mark.parametrize("chosen", ["keyring.backends.null.Keyring", "keyring.backends.fail.Keyring"])
def test_the_environment_chooses_no_keyring(monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    """Keyring itself would take what PYTHON_KEYRING_BACKEND names, one that keeps nothing too."""
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", chosen)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere")
    with pytest.raises(ConfigurationError) as caught:
        system_keyring()
    assert "no keyring" in caught.value.message


def test_a_reference_that_needs_a_variable_is_not_handed_to_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    for reference, told in (
        ("env:KEY", False),
        ("keyring:mcp-identity/default", True),
        (f"aws-kms:{ARN}", True),
        ("pkcs11:token=t;object=o?module-path=/m&pin-source=env:PIN", False),
    ):
        monkeypatch.setenv("MCP_IDENTITY_KEY", reference)
        assert ("MCP_IDENTITY_KEY" in environment_for_clients()) == told, reference


@pytest.mark.parametrize(
    "reference",
    [
        "pkcs11:token=t;object=o?module-path=/m&pin-value=hunter2",
        "transit:https://user:hunter2@bao.example/transit/vault?token_file=/t",
        "transit:https://bao.example/transit/vault?token=hunter2",
        "aws-kms:hunter2",
    ],
)
def test_a_reference_that_does_not_stand_is_refused_before_anybody_is_told_of_it(reference: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        source(reference)
    assert caught.value.code == "configuration_error"
    assert "hunter2" not in caught.value.message
