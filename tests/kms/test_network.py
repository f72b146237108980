"""What do the backends on the network do when it fails, when they are refused, and when the environment lies?"""

from __future__ import annotations

import json
import logging
import socket
import threading
from base64 import b64encode
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from mcp_identity.cli.logs import configure_logging
from mcp_identity.domain.errors import ConfigurationError, VaultCorrupt, VaultUnavailable
from mcp_identity.settings import read_secret
from mcp_identity.vault.kms import aws as aws_module
from mcp_identity.vault.kms.aws import AwsKmsKey, parse_aws_key
from mcp_identity.vault.kms.pkcs11 import Pkcs11Key, parse_pkcs11
from mcp_identity.vault.kms.transit import TransitKey, parse_transit
from tests.fakes.clock import SystemEntropy
from tests.fakes.home import free_port
from tests.kms.peers import REGION, Bao, Kms, Token
from tests.kms.test_contract import CONTEXT, KEY


class Trap:
    """A server that nobody should come to.

    Attributes:
        port: Where it listens.
        visits: How often somebody came.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.visits = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self._listener.accept()
            except OSError:
                return
            self.visits += 1
            visitor.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def trap() -> Generator[Trap]:
    made = Trap()
    yield made
    made.close()


@pytest.fixture
def lying_environment(monkeypatch: pytest.MonkeyPatch, trap: Trap, tmp_path: Path) -> Trap:
    """Whatever a variable can say to lead somebody astray."""
    there = f"http://127.0.0.1:{trap.port}"
    config = tmp_path / "aws-config"
    config.write_text(f"[default]\nendpoint_url = {there}\n[profile evil]\nendpoint_url = {there}\n")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "VAULT_ADDR"):
        monkeypatch.setenv(name, there)
        monkeypatch.setenv(name.lower(), there)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    for name, value in (
        ("AWS_PROFILE", "evil"), ("AWS_CONFIG_FILE", str(config)), ("AWS_REGION", "us-east-1"),
        ("AWS_DATA_PATH", str(tmp_path)),
        ("AWS_CA_BUNDLE", str(config)), ("REQUESTS_CA_BUNDLE", str(config)), ("CURL_CA_BUNDLE", str(config)),
        ("VAULT_TOKEN", "stolen"), ("VAULT_NAMESPACE", "evil"), ("VAULT_CACERT", str(config)),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    return trap


@pytest.mark.usefixtures("aws_credentials")
def test_the_environment_leads_kms_nowhere(aws: Kms, lying_environment: Trap) -> None:
    key = AwsKmsKey(parse_aws_key(aws.arn), endpoint=aws.endpoint)
    assert key.unwrap(key.wrap(KEY, CONTEXT), CONTEXT) == KEY
    assert lying_environment.visits == 0


@pytest.mark.usefixtures("aws_credentials", "lying_environment")
def test_without_an_endpoint_given_in_code_kms_is_amazons_own(aws: Kms) -> None:
    client = AwsKmsKey(parse_aws_key(aws.arn))._connected()  # pyright: ignore[reportPrivateUsage]
    assert client.meta.endpoint_url == f"https://kms.{REGION}.amazonaws.com"
    assert client.meta.config.proxies == {}


@pytest.mark.usefixtures("aws_credentials")
def test_no_description_of_kms_in_the_home_leads_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kms = tmp_path / "kms" / "2014-11-01"
    kms.mkdir(parents=True)
    given = {
        name: {"builtIn": meaning, "type": kind, "required": False}
        for name, meaning, kind in (
            ("Region", "AWS::Region", "String"), ("Endpoint", "SDK::Endpoint", "String"),
            ("UseDualStack", "AWS::UseDualStack", "Boolean"), ("UseFIPS", "AWS::UseFIPS", "Boolean"),
        )
    }  # fmt: skip
    rule: dict[str, Any] = {"conditions": [], "type": "endpoint", "endpoint": {"url": "https://kms.evil.example"}}
    rules = {"version": "1.0", "parameters": given, "rules": [rule]}
    (kms / "endpoint-rule-set-1.json").write_text(json.dumps(rules))
    monkeypatch.setattr("botocore.loaders.Loader.CUSTOMER_DATA_PATH", str(tmp_path))
    client = AwsKmsKey(parse_aws_key(f"arn:aws:kms:{REGION}:123456789012:key/x"))._connected()  # pyright: ignore[reportPrivateUsage]
    asked: list[str] = []

    def note(request: Any, **_: object) -> None:
        asked.append(request.url)
        raise OSError("no further")

    client.meta.events.register("before-send.kms.Encrypt", note)
    with pytest.raises(OSError, match="no further"):
        client.encrypt(KeyId="x", Plaintext=KEY)
    assert asked == [f"https://kms.{REGION}.amazonaws.com/"]


@pytest.mark.usefixtures("aws_credentials")
def test_whatever_the_log_level_no_key_stands_in_the_log(aws: Kms, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configure_logging("DEBUG", "human")
    try:
        key = AwsKmsKey(parse_aws_key(aws.arn), endpoint=aws.endpoint)
        assert key.unwrap(key.wrap(KEY, CONTEXT), CONTEXT) == KEY
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert b64encode(KEY).decode() not in capsys.readouterr().err


def test_the_environment_leads_transit_nowhere(openbao: Bao, lying_environment: Trap) -> None:
    key = TransitKey(parse_transit(openbao.reference()), read_secret)
    assert key.unwrap(key.wrap(KEY, CONTEXT), CONTEXT) == KEY
    assert lying_environment.visits == 0


@pytest.mark.usefixtures("aws_credentials")
def test_an_alias_is_the_key_that_it_meant_when_the_vault_was_opened(aws: Kms) -> None:
    aws.call("CreateAlias", AliasName="alias/moving", TargetKeyId=aws.arn)
    key = AwsKmsKey(parse_aws_key(f"alias/moving?region={REGION}"), endpoint=aws.endpoint)
    assert key.key_id == f"aws-kms:{aws.arn}"
    wrapped = key.wrap(KEY, CONTEXT)
    aws.call("UpdateAlias", AliasName="alias/moving", TargetKeyId=aws.other_arn)
    assert key.unwrap(wrapped, CONTEXT) == KEY
    moved = AwsKmsKey(parse_aws_key(f"alias/moving?region={REGION}"), endpoint=aws.endpoint)
    assert moved.key_id == f"aws-kms:{aws.other_arn}"
    with pytest.raises(VaultCorrupt):
        moved.unwrap(wrapped, CONTEXT)


@pytest.mark.usefixtures("aws_credentials")
def test_a_key_that_is_not_there_is_the_operators_to_mend(aws: Kms) -> None:
    missing = aws.arn[:-12] + "000000000000"
    key = AwsKmsKey(parse_aws_key(missing), endpoint=aws.endpoint)
    with pytest.raises(ConfigurationError) as caught:
        key.wrap(KEY, CONTEXT)
    assert "NotFoundException" in caught.value.message
    with pytest.raises(ConfigurationError):
        AwsKmsKey(parse_aws_key(f"alias/missing?region={REGION}"), endpoint=aws.endpoint)


def test_without_credentials_it_is_said_where_they_could_be(aws: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(aws_module, "_IMDS", f"http://127.0.0.1:{free_port()}/")
    key = AwsKmsKey(parse_aws_key(aws.arn), endpoint=aws.endpoint)
    with pytest.raises(ConfigurationError) as caught:
        key.wrap(KEY, CONTEXT)
    assert "no AWS credentials" in caught.value.message


@pytest.mark.usefixtures("aws_credentials")
def test_a_backend_that_cannot_be_reached_is_unavailable_and_may_be_tried_again(openbao: Bao, aws: Kms) -> None:
    port = free_port()
    keys = (
        AwsKmsKey(parse_aws_key(aws.arn), endpoint=f"http://127.0.0.1:{port}"),
        TransitKey(parse_transit(openbao.reference().replace(f":{openbao.port}/", f":{port}/")), read_secret),
        TransitKey(parse_transit(f"unix:{openbao.folder}/none.sock?key=vault"), read_secret),
    )
    for key in keys:
        with pytest.raises(VaultUnavailable) as caught:
            key.unwrap(b"vault:v1:AAAA", CONTEXT)
        assert (caught.value.code, caught.value.retryable) == ("vault_unavailable", True)
        assert str(port) not in caught.value.message


def test_transit_is_believed_only_with_a_certificate_that_stands(openbao: Bao) -> None:
    reference = openbao.reference().replace(f"ca_file={openbao.ca_file}&", "")
    with pytest.raises(VaultUnavailable) as caught:
        TransitKey(parse_transit(reference), read_secret).wrap(KEY, CONTEXT)
    assert caught.value.code == "vault_unavailable"


def test_transit_by_a_role_logs_in_and_logs_in_again(openbao: Bao, tmp_path: Path) -> None:
    openbao.call("sys/auth/approle", type="approle")
    openbao.call("auth/approle/role/identity", token_policies=["use-vault"], token_num_uses=2)
    role = openbao_role(openbao)
    secret_id = openbao.call("auth/approle/role/identity/secret-id")["data"]["secret_id"]
    (tmp_path / "secret-id").write_text(f"{secret_id}\n")
    key = TransitKey(parse_transit(openbao.reference(role_id=role, secret_id_file=str(tmp_path / "secret-id"))), read_secret)
    for _ in range(4):  # each token does twice and then is none any more
        assert key.unwrap(key.wrap(KEY, CONTEXT), CONTEXT) == KEY
    (tmp_path / "wrong").write_text("hunter2")
    wrong = TransitKey(parse_transit(openbao.reference(role_id=role, secret_id_file=str(tmp_path / "wrong"))), read_secret)
    with pytest.raises(ConfigurationError) as caught:
        wrong.wrap(KEY, CONTEXT)
    assert "hunter2" not in caught.value.message


def openbao_role(openbao: Bao) -> str:
    openbao.call("auth/approle/role/identity/role-id", role_id="the-role-of-the-tests")
    return "the-role-of-the-tests"


def test_a_token_file_that_is_renewed_is_read_again(openbao: Bao, tmp_path: Path) -> None:
    file = tmp_path / "token"
    first = openbao.token("use-vault")
    file.write_text(first)
    key = TransitKey(parse_transit(openbao.reference(token_file=str(file))), read_secret)
    wrapped = key.wrap(KEY, CONTEXT)
    openbao.call("auth/token/revoke", token=first)
    with pytest.raises(ConfigurationError) as caught:
        key.unwrap(wrapped, CONTEXT)
    assert first not in caught.value.message
    file.write_text(openbao.token("use-vault"))
    assert key.unwrap(wrapped, CONTEXT) == KEY


def test_a_key_that_transit_does_not_have_is_not_made_by_using_it(openbao: Bao, tmp_path: Path) -> None:
    (tmp_path / "root").write_text("root-token-of-the-tests")
    key = TransitKey(parse_transit(openbao.reference("typo", token_file=str(tmp_path / "root"))), read_secret)
    with pytest.raises(ConfigurationError) as caught:
        key.wrap(KEY, CONTEXT)
    assert "transit/typo" in caught.value.message
    with pytest.raises(RuntimeError):
        openbao.call("transit/keys/typo/config", deletion_allowed=True)


def test_what_transit_does_not_let_us_do_is_the_operators_to_mend(openbao: Bao, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(openbao.token("use-other"))
    given = {"token_file": str(tmp_path / "token")}
    for key in ("vault", "missing"):
        with pytest.raises(ConfigurationError) as caught:
            TransitKey(parse_transit(openbao.reference(key, **given)), read_secret).wrap(KEY, CONTEXT)
        assert caught.value.code == "configuration_error"
    with pytest.raises(ConfigurationError):
        TransitKey(parse_transit(openbao.reference().replace("/transit/", "/nothing/")), read_secret).wrap(KEY, CONTEXT)


def test_rewrap_brings_a_key_to_transits_newest_version(openbao: Bao) -> None:
    openbao.call("transit/keys/turning", type="aes256-gcm96")
    openbao.policy("use-turning", "turning")
    (openbao.folder / "turning").write_text(openbao.token("use-turning"))
    key = TransitKey(parse_transit(openbao.reference("turning", token_file=str(openbao.folder / "turning"))), read_secret)
    first = key.wrap(KEY, CONTEXT)
    openbao.call("transit/keys/turning/rotate")
    again = key.rewrap(first, CONTEXT)
    assert (first[:9], again[:9]) == (b"vault:v1:", b"vault:v2:")
    openbao.call("transit/keys/turning/config", min_decryption_version=2)
    assert key.unwrap(again, CONTEXT) == KEY
    with pytest.raises(ConfigurationError) as caught:
        key.unwrap(first, CONTEXT)
    assert "min_decryption_version" in caught.value.message


def test_the_servers_own_rewrap_cannot_open_what_has_associated_data(openbao: Bao) -> None:
    """Why `rewrap` unwraps and wraps: once this is no longer so, it can be left to the server."""
    key = TransitKey(parse_transit(openbao.reference()), read_secret)
    data = b64encode(CONTEXT.associated_data()).decode()
    with pytest.raises(RuntimeError) as caught:
        openbao.call("transit/rewrap/vault", ciphertext=key.wrap(KEY, CONTEXT).decode(), associated_data=data)
    assert "message authentication failed" in str(caught.value)


def test_a_key_of_another_kind_is_refused(openbao: Bao, tmp_path: Path) -> None:
    (tmp_path / "root").write_text("root-token-of-the-tests")
    openbao.call("transit/keys/rsa", type="rsa-2048")
    openbao.call("transit/keys/derived", type="aes256-gcm96", derived=True)
    for name in ("rsa", "derived"):
        key = TransitKey(parse_transit(openbao.reference(name, token_file=str(tmp_path / "root"))), read_secret)
        with pytest.raises(ConfigurationError) as caught:
            key.wrap(KEY, CONTEXT)
        assert "aes256-gcm96" in caught.value.message


def test_a_token_of_the_machine_is_found_only_as_it_was_named(token: Token, tmp_path: Path) -> None:
    entropy = SystemEntropy()
    token.add("takeaway", extractable=True)
    token.add("short", bits=128)
    (tmp_path / "pin").write_text("0000-wrong-pin")
    wrong = [
        token.reference(token="nobody"),
        token.reference("nothing"),
        token.reference("takeaway"),
        token.reference("short"),
        token.reference().replace(token.module, "/usr/lib/no-such-library.so"),
        token.reference().replace(str(token.pin_file), str(tmp_path / "no-pin")),
    ]
    for value in wrong:
        with pytest.raises(ConfigurationError) as caught:
            Pkcs11Key(parse_pkcs11(value), read_secret, entropy)
        assert caught.value.code == "configuration_error"


def test_a_session_that_broke_is_opened_again(token: Token) -> None:
    key = Pkcs11Key(parse_pkcs11(token.reference()), read_secret, SystemEntropy())
    wrapped = key.wrap(KEY, CONTEXT)
    key._session.close()  # pyright: ignore[reportPrivateUsage]
    assert key.unwrap(wrapped, CONTEXT) == KEY


class StrictToken:
    """A token that counts the PINs that it does not accept, in the words of the PKCS #11 library.

    Attributes:
        pin: The one that it accepts.
        refused: How often another one came.
    """

    key_length = 256

    def __init__(self) -> None:
        self.pin = "1111"
        self.refused = 0

    def get_token(self, **_: object) -> StrictToken:
        return self

    def open(self, user_pin: str | None = None) -> StrictToken:
        from pkcs11 import exceptions

        if user_pin != self.pin:
            self.refused += 1
            raise exceptions.PinIncorrect
        return self

    def get_key(self, **_: object) -> StrictToken:
        return self

    def __getitem__(self, attribute: Any) -> bool:
        return attribute.name == "SENSITIVE"

    def encrypt(self, data: bytes, **_: object) -> bytes:
        return data + bytes(16)

    def close(self) -> None:
        """Nothing is held."""


def test_a_pin_that_was_not_accepted_is_not_tried_again_until_there_is_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token, pin = StrictToken(), tmp_path / "pin"

    def lib(_module: str) -> StrictToken:
        return token

    monkeypatch.setattr("pkcs11.lib", lib)
    pin.write_text(token.pin)
    reference = f"token=t;object=o?module-path=/hsm.so&pin-source=file:{pin}"
    key = Pkcs11Key(parse_pkcs11(reference), read_secret, SystemEntropy())
    token.pin = "2222"  # changed there, and not yet in the file
    key._close()  # pyright: ignore[reportPrivateUsage]
    for _ in range(5):
        with pytest.raises(ConfigurationError) as caught:
            key.wrap(KEY, CONTEXT)
        assert caught.value.code == "configuration_error"
        assert "1111" not in caught.value.message
    assert token.refused == 1
    pin.write_text(token.pin)
    assert key.wrap(KEY, CONTEXT)
    assert token.refused == 1
