"""A key-encryption key in AWS KMS: ``aws-kms:<key ARN or alias>[?region=<region>]``.

The encryption context binds each wrapped key to its vault, tenant, version and purpose; CloudTrail shows it. A name is
resolved once, when the vault opens, and from then on only that key is asked: the wrapped keys come out of a database that is
not trusted, and KMS would otherwise unwrap under whatever key a ciphertext names.

Who asks comes from the usual places: keys in the environment, a web identity (EKS), the container's credentials (ECS, EKS Pod
Identity), the instance's role. They decide whether KMS answers, never who is asked: endpoint, proxy, certificate bundle,
profile, configuration file and the service's description are taken from nowhere, however the environment is set. A profile of
``~/.aws`` is not read: it may name programs to run.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# botocore tells no types.

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from importlib import import_module
from threading import Lock
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from mcp_identity.domain.errors import ConfigurationError, VaultCorrupt, VaultUnavailable
from mcp_identity.vault.kms.backend import WrapContext, missing_package

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 2.0, 5.0, 3
_ARN = re.compile(r"arn:aws(?:-[a-z]+)*:kms:([a-z0-9-]+):\d{12}:(key|alias)/[A-Za-z0-9/_:-]+")
_NAME = re.compile(r"alias/[A-Za-z0-9/_-]+|(?:mrk-)?[0-9a-f-]{32,36}")
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d")
_WRONG = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
_BUSY = frozenset({"ThrottlingException", "LimitExceededException", "KMSInternalException", "DependencyTimeoutException"})
_CHANGED = "a wrapped key was changed, moved, or made by another key-encryption key"
_PROBE = b"may we unwrap?"
_IMDS = "http://169.254.169.254/"


@dataclass(frozen=True, slots=True)
class AwsKey:
    """Which key of KMS is meant.

    Attributes:
        name: Its ARN, id, or alias.
        region: Where it is.
    """

    name: str
    region: str


def parse_aws_key(value: str) -> AwsKey:
    """Take ``<key ARN or alias>[?region=<region>]`` apart.

    Raises:
        ConfigurationError: If it is none, or does not say where the key is.
    """
    name, _, query = value.partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    arn = _ARN.fullmatch(name)
    if (not arn and not _NAME.fullmatch(name)) or given.keys() - {"region"}:
        raise ConfigurationError("an AWS key is aws-kms:<key ARN>, or aws-kms:alias/<name>?region=<region>")
    region = given.get("region", arn.group(1) if arn else "")
    if not _REGION.fullmatch(region) or (arn and arn.group(1) != region):
        raise ConfigurationError("an AWS key needs its region, and the right one: aws-kms:alias/<name>?region=<region>")
    return AwsKey(name, region)


class AwsKmsKey:
    """A key-encryption key that never leaves KMS."""

    def __init__(self, key: AwsKey, *, endpoint: str | None = None) -> None:
        """Prepare; KMS is asked only where a name has to be resolved.

        Args:
            key: Which key.
            endpoint: Another KMS, in tests; no setting leads here.

        Raises:
            ConfigurationError: If boto3 is not installed, or there is no such key.
            VaultUnavailable: If KMS cannot be reached now.
        """
        try:
            import_module("botocore.session")
        except ImportError:
            raise missing_package("aws-kms", "aws-kms") from None
        self._region, self._endpoint = key.region, endpoint
        self._client: Any = None
        self._connecting = Lock()
        self._was_known = False
        self._arn = key.name if ":key/" in key.name else self._resolved(key.name)

    @property
    def key_id(self) -> str:
        """The key's ARN, whichever name it was given by."""
        return f"aws-kms:{self._arn}"

    def wrap(self, key: bytes, context: WrapContext) -> bytes:
        """Wrap it in KMS; see `KeyBackend`."""
        answer = self._ask("encrypt", KeyId=self._arn, Plaintext=key, EncryptionContext=_bound(context))
        return bytes(answer["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, context: WrapContext) -> bytes:
        """Unwrap it in KMS; see `KeyBackend`."""
        try:
            return self._decrypted(wrapped, context)
        except _Denied:
            # KMS says so of a ciphertext that names no key, too. Whether it lets us at all, one of our own tells.
            probe = self.wrap(_PROBE, context)
            with contextlib.suppress(_Denied):
                if self._decrypted(probe, context) == _PROBE:
                    raise VaultCorrupt(_CHANGED) from None
            raise ConfigurationError(_refusal("AccessDeniedException")) from None

    def rewrap(self, wrapped: bytes, context: WrapContext) -> bytes:
        """Bring it to the key's newest material; see `KeyBackend`."""
        return self.wrap(self.unwrap(wrapped, context), context)

    def _decrypted(self, wrapped: bytes, context: WrapContext) -> bytes:
        given = wrapped or b"\x00"  # an empty one would be refused by the library, as a wrong argument
        answer = self._ask("decrypt", KeyId=self._arn, CiphertextBlob=given, EncryptionContext=_bound(context))
        return bytes(answer["Plaintext"])

    def _resolved(self, name: str) -> str:
        found = str(self._ask("describe_key", KeyId=name)["KeyMetadata"]["Arn"])
        if not _ARN.fullmatch(found):
            raise ConfigurationError(f"KMS gave no ARN for {name}")
        return found

    def _connected(self) -> Any:
        """The client; making it looks for credentials."""
        with self._connecting:
            if self._client is None:
                self._client = _client(self._region, self._endpoint)
            return self._client

    def _ask(self, operation: str, **arguments: Any) -> Any:
        from botocore import exceptions

        missing = (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)
        # Where no role was ever had of the instance, there is none; later it may be a while until it is had anew.
        missing = missing if self._was_known else (*missing, exceptions.MetadataRetrievalError)
        try:
            answer = getattr(self._connected(), operation)(**arguments)
        except exceptions.ClientError as error:
            _refused(operation, str(error.response.get("Error", {}).get("Code", "")))
        except missing:
            raise ConfigurationError(
                "there are no AWS credentials: neither in the environment, nor of a web identity, a container or an instance"
            ) from None
        except exceptions.BotoCoreError:
            raise VaultUnavailable("the key backend AWS KMS cannot be reached now") from None
        except (OSError, ValueError):
            raise ConfigurationError("the AWS credentials that the environment names cannot be read") from None
        self._was_known = True
        return answer


class _Denied(Exception):
    """KMS does not unwrap this for us."""


def _refused(operation: str, code: str) -> NoReturn:
    if code in _WRONG:
        raise VaultCorrupt(_CHANGED) from None
    if code in _BUSY or not code:
        raise VaultUnavailable("the key backend AWS KMS is too busy now") from None
    if operation == "decrypt" and code == "AccessDeniedException":
        raise _Denied from None
    raise ConfigurationError(_refusal(code)) from None


def _refusal(code: str) -> str:
    known = code if re.fullmatch(r"\w{1,64}", code) else "an unknown error"
    return f"the key backend AWS KMS refuses: {known}; check the key, its policy and our credentials"


def _bound(context: WrapContext) -> dict[str, str]:
    """The encryption context; the vault's own key has no tenant, and a value is never empty."""
    bound = {
        "mcp-identity:vault": context.vault_id,
        "mcp-identity:version": str(context.version),
        "mcp-identity:purpose": context.purpose,
    }
    return bound | ({"mcp-identity:tenant": context.tenant} if context.tenant else {})


def _client(region: str, endpoint: str | None) -> Any:
    """A client that the environment leads nowhere else."""
    from botocore.config import Config
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
    from botocore.loaders import Loader
    from botocore.session import Session

    variables: dict[str, Any] = {
        name: (None, None, default, conversion)
        for name, (_, _, default, conversion) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()
    }
    for name in ("config_file", "credentials_file"):
        variables[name] = (None, None, os.devnull, None)
    session: Any = Session(session_vars=variables)
    # Its own would look into ~/.aws/models first, where a description of KMS could name another endpoint.
    own = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    session.register_component("data_loader", own)
    pinned: dict[str, Any] = {
        "region_name": region,
        "verify": True,
        "config": Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            proxies={},
            ignore_configured_endpoint_urls=True,
        ),
    }
    session.register_component("credential_provider", _credentials(session, pinned))
    return session.create_client("kms", endpoint_url=endpoint, **pinned)


def _credentials(session: Any, pinned: dict[str, Any]) -> Any:
    from botocore import credentials, httpsession, utils

    def security_token_service(_service: str, **given: Any) -> Any:
        config = pinned["config"].merge(given["config"]) if "config" in given else pinned["config"]
        return session.create_client("sts", **(pinned | {"config": config}))

    metadata: Any = utils.InstanceMetadataFetcher(
        timeout=1, num_attempts=2, base_url=_IMDS, env={}, config={"ec2_metadata_v1_disabled": True}
    )
    # Its own would go through the environment's proxy.
    metadata._session = httpsession.URLLib3Session(timeout=1, proxies={})  # noqa: SLF001
    return credentials.CredentialResolver(
        [
            credentials.EnvProvider(),
            credentials.AssumeRoleWithWebIdentityProvider(
                load_config=dict, client_creator=security_token_service, profile_name="default", cache={}
            ),
            credentials.ContainerProvider(),
            credentials.InstanceMetadataProvider(iam_role_fetcher=metadata),
        ]
    )
