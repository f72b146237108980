"""Which real key backends are there to test with? moto's KMS, an OpenBao server, and a SoftHSM token.

Each is made for one session of the tests and holds nothing but test keys. Where SoftHSM is not installed, a test says so and is
left out; on a CI machine that is a failure.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.home import free_port

REGION = "eu-west-1"
ROOT = "root-token-of-the-tests"
PIN = "4711-test-pin"
MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so")
_START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Kms:
    """moto's KMS, with two keys.

    Attributes:
        port: Where it is.
        arn: A key.
        other_arn: Another one.
    """

    port: int
    arn: str
    other_arn: str

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, action: str, **fields: Any) -> dict[str, Any]:
        """Ask it something as its administrator."""
        scope = f"20260101/{REGION}/kms/aws4_request"
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"TrentService.{action}",
            "Authorization": f"AWS4-HMAC-SHA256 Credential=testing/{scope}, SignedHeaders=host, Signature=none",
        }
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("POST", "/", json.dumps(fields).encode(), headers)
            return json.loads(connection.getresponse().read() or b"{}")


@contextmanager
def kms() -> Generator[Kms]:
    """Moto in a process of its own; blocks the thread while it starts, a few seconds."""
    port = free_port()
    arguments = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    with _running(arguments, port):
        server = Kms(port, "", "")
        arns = [server.call("CreateKey")["KeyMetadata"]["Arn"] for _ in range(2)]
        yield Kms(port, *arns)


@dataclass(frozen=True, slots=True)
class Bao:
    """An OpenBao server with a transit engine, over TLS and on a unix socket.

    Attributes:
        port: Where it is.
        folder: Holds its certificates, its socket, and the tokens of the tests.
    """

    port: int
    folder: Path

    @property
    def ca_file(self) -> Path:
        return self.folder / "vault-ca.pem"

    @property
    def socket(self) -> Path:
        return self.folder / "bao.sock"

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    def reference(self, key: str = "vault", **more: str) -> str:
        """What stands behind ``transit:``, with the token file of the tests unless another way is given."""
        given = {"ca_file": str(self.ca_file)} | (more or {"token_file": str(self.token_file)})
        return f"https://localhost:{self.port}/transit/{key}?" + "&".join(f"{name}={value}" for name, value in given.items())

    def call(self, path: str, **fields: Any) -> dict[str, Any]:
        """Ask it something as its administrator."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with contextlib.closing(HTTPSConnection("localhost", self.port, timeout=30, context=context)) as connection:
            connection.request("POST", f"/v1/{path}", json.dumps(fields).encode(), {"X-Vault-Token": ROOT})
            answer = connection.getresponse()
            body = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{path}: HTTP {answer.status} {body[:300]!r}")
        return json.loads(body or b"{}")

    def token(self, *policies: str) -> str:
        """A token of its own with these policies."""
        return self.call("auth/token/create", policies=list(policies), no_parent=True)["auth"]["client_token"]

    def policy(self, name: str, key: str) -> None:
        """What the product needs for one key, and nothing more: it may not make one."""
        rules = "\n".join(f'path "transit/{verb}/{key}" {{ capabilities = ["update"] }}' for verb in ("encrypt", "decrypt"))
        self.call(f"sys/policies/acl/{name}", policy=rules)


@contextmanager
def bao(folder: Path) -> Generator[Bao]:
    """A development server: everything is in its memory."""
    server = Bao(free_port(), folder)
    configuration = folder / "listener.hcl"
    configuration.write_text(f'listener "unix" {{ address = "{server.socket}" }}\n')
    arguments = [
        str(Path(sys.executable).with_name("bao")), "server", "-dev", "-dev-tls", f"-dev-tls-cert-dir={folder}",
        f"-dev-root-token-id={ROOT}", f"-dev-listen-address=127.0.0.1:{server.port}", "-dev-no-store-token",
        f"-config={configuration}",
    ]  # fmt: skip
    with _running(arguments, server.port, HOME=str(folder)):
        _wait_until(lambda: server.ca_file.exists() and _answers(server))
        server.call("sys/mounts/transit", type="transit")
        for key in ("vault", "other"):
            server.call(f"transit/keys/{key}", type="aes256-gcm96")
            server.policy(f"use-{key}", key)
        server.token_file.write_text(server.token("use-vault", "use-other"))
        yield server


def _answers(server: Bao) -> bool:
    try:
        server.call("sys/capabilities-self", paths=["sys"])
    except (OSError, RuntimeError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Token:
    """A SoftHSM token.

    Attributes:
        module: The library.
        pin_file: Holds its PIN.
    """

    module: str
    pin_file: Path

    def reference(self, label: str = "vault", token: str = "identity-tests") -> str:
        """What stands behind ``pkcs11:``."""
        return f"token={token};object={label}?module-path={self.module}&pin-source=file:{self.pin_file}"

    def add(self, label: str, *, extractable: bool = False, bits: int = 256) -> None:
        """Make another AES key."""
        import pkcs11

        attribute = pkcs11.Attribute
        library: Any = pkcs11.lib(self.module)
        found = library.get_token(token_label="identity-tests")
        try:
            opened = found.open(rw=True, user_pin=PIN)
        except pkcs11.UserAlreadyLoggedIn:
            opened = found.open(rw=True)
        with opened as session:
            session.generate_key(
                pkcs11.KeyType.AES,
                bits,
                label=label,
                store=True,
                template={attribute.EXTRACTABLE: extractable, attribute.SENSITIVE: not extractable},
            )


def soft_token(folder: Path) -> Token:
    """A token of the tests, with two keys. The library reads where it is once, when it is loaded into this process."""
    module = next((each for each in MODULES if Path(each).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        if os.environ.get("CI"):
            pytest.fail("SoftHSM is not installed on this CI machine: apt-get install softhsm2")
        pytest.skip("SoftHSM is not installed: apt-get install softhsm2")
    (folder / "tokens").mkdir()
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", "identity-tests", "--pin", PIN, "--so-pin", PIN],
        check=True,
        capture_output=True,
    )
    pin_file = folder / "pin"
    pin_file.write_text(f"{PIN}\n")
    made = Token(module, pin_file)
    for label in ("vault", "other"):
        made.add(label)
    return made


@contextmanager
def _running(arguments: list[str], port: int, **environment: str) -> Generator[None]:
    log = subprocess.DEVNULL
    process = subprocess.Popen(arguments, stdout=log, stderr=log, env={**os.environ, **environment})
    try:
        _wait_until(lambda: _listens(process, port))
        yield
    finally:
        process.terminate()
        process.wait()


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"{process.args!r} ended")
    with contextlib.suppress(OSError), contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=1)) as connection:
        connection.connect()
        return True
    return False


def _wait_until(condition: Any) -> None:
    ends = time.monotonic() + _START_SECONDS
    while not condition():
        if time.monotonic() > ends:
            raise RuntimeError("a peer does not start")
        time.sleep(0.05)
