"""How one cell is sealed, and how one row is authenticated.

Pure: keys come in as bytes, randomness as bytes. A sealed record says nothing by itself; it opens only with the tenant's
key and in the very place (table, row, field, generation, context) that it was sealed for. The database is not trusted:
whatever it returns is checked here, and what does not stand is `VaultCorrupt`.

    version (1) | key id (16) | salt (32) | commitment (32) | nonce (12) | ciphertext and tag
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mcp_identity.domain.errors import VaultCorrupt

FORMAT_VERSION = 1
KEY_BYTES = 32
KEY_ID_BYTES = 16
_SALT_BYTES, _COMMITMENT_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 32, 12, 16
RANDOM_BYTES = _SALT_BYTES + _NONCE_BYTES
"""Random bytes that one seal consumes."""
_HEADER_BYTES = 1 + KEY_ID_BYTES + _SALT_BYTES + _COMMITMENT_BYTES + _NONCE_BYTES

Cell = str | int | bytes | bool | None


@dataclass(frozen=True, slots=True)
class DataKey:
    """One version of a tenant's key, unwrapped.

    Attributes:
        id: 16 random bytes that name it in every record.
        material: 32 bytes.
    """

    id: bytes
    material: bytes

    def __repr__(self) -> str:
        """The id alone."""
        return f"DataKey({self.id.hex()})"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sealed cell belongs; all of it is associated data.

    Attributes:
        table: Table name.
        tenant: Tenant id.
        row_id: Random row id.
        field: Column name.
        generation: Changes only with the sealed value.
        context: What else the value must never be separated from, e.g. a whole grant key.
    """

    table: str
    tenant: str
    row_id: str
    field: str
    generation: int = 0
    context: tuple[str, ...] = ()


def length_prefixed(*parts: bytes) -> bytes:
    """Join parts so that no two different lists give the same bytes."""
    return b"".join([len(part).to_bytes(4, "big") + part for part in parts])


def derive(material: bytes, purpose: str, salt: bytes | None = None) -> bytes:
    """Derive a 32-byte key for one purpose (RFC 5869)."""
    return HKDF(SHA256(), KEY_BYTES, salt, f"mcp-identity/v1/{purpose}".encode()).derive(material)


def _associated_data(key_id: bytes, place: Place) -> bytes:
    return length_prefixed(
        bytes([FORMAT_VERSION]),
        key_id,
        place.table.encode(),
        place.tenant.encode(),
        place.row_id.encode(),
        place.field.encode(),
        str(place.generation).encode(),
        *(part.encode() for part in place.context),
    )


def seal(key: DataKey, plaintext: bytes, place: Place, random: bytes) -> bytes:
    """Seal `plaintext` for one place.

    Args:
        key: The tenant's current key.
        plaintext: What to protect.
        place: Where it will be stored.
        random: `RANDOM_BYTES` fresh random bytes.

    Returns:
        The sealed record.
    """
    salt, nonce = random[:_SALT_BYTES], random[_SALT_BYTES:RANDOM_BYTES]
    record_key, commitment = derive(key.material, "record", salt), derive(key.material, "commitment", salt)
    ciphertext = AESGCM(record_key).encrypt(nonce, plaintext, _associated_data(key.id, place))
    return bytes([FORMAT_VERSION]) + key.id + salt + commitment + nonce + ciphertext


def key_id_of(record: bytes) -> bytes:
    """The id of the key that a record names.

    Raises:
        VaultCorrupt: If the record is too short or of an unknown version.
    """
    if len(record) < _HEADER_BYTES + _TAG_BYTES or record[0] != FORMAT_VERSION:
        raise VaultCorrupt("a sealed value is truncated or of an unknown version")
    return record[1 : 1 + KEY_ID_BYTES]


def open_sealed(find_key: Callable[[bytes], DataKey], record: bytes, place: Place) -> bytes:
    """Open a sealed record in its place.

    AES-GCM does not commit to a key, so the commitment is compared first, in constant time.

    Raises:
        VaultCorrupt: If it was truncated, edited, moved, or sealed for another owner.
    """
    key = find_key(key_id_of(record))
    start = 1 + KEY_ID_BYTES
    salt = record[start : start + _SALT_BYTES]
    commitment = record[start + _SALT_BYTES : start + _SALT_BYTES + _COMMITMENT_BYTES]
    nonce = record[_HEADER_BYTES - _NONCE_BYTES : _HEADER_BYTES]
    if not hmac.compare_digest(commitment, derive(key.material, "commitment", salt)):
        raise VaultCorrupt("a sealed value does not belong to its key")
    try:
        cipher = AESGCM(derive(key.material, "record", salt))
        return cipher.decrypt(nonce, record[_HEADER_BYTES:], _associated_data(key.id, place))
    except InvalidTag:
        raise VaultCorrupt(f"a sealed value of {place.table} was changed or moved") from None


def _canonical(value: object) -> bytes:
    match value:
        case None:
            return b"n"
        case bool() | int():
            return b"i%d" % int(value)
        case bytes():
            return b"b" + value
        case str():
            return b"s" + value.encode()
        case _:
            raise VaultCorrupt("a column holds a value of a type that the product does not write")


def row_mac(key: DataKey, table: str, version: int, values: tuple[Cell, ...]) -> bytes:
    """Authenticate the columns of a row that grants authority.

    Args:
        key: The tenant's current key; the MAC key is derived from it.
        table: Table name.
        version: Names the columns that `values` are.
        values: The columns in that version's order.

    Returns:
        One byte of version, the key id, and 32 bytes of HMAC-SHA256.
    """
    message = length_prefixed(table.encode(), bytes([version]), key.id, *map(_canonical, values))
    return bytes([version]) + key.id + hmac.digest(derive(key.material, "row-mac"), message, sha256)


def check_row_mac(
    find_key: Callable[[bytes], DataKey], mac: bytes, table: str, columns: Callable[[int], tuple[Cell, ...]]
) -> None:
    """Check what `row_mac` made.

    Args:
        find_key: Finds a tenant key by its id.
        mac: The row's MAC.
        table: Table name.
        columns: Gives the values that a version of the MAC covers.

    Raises:
        VaultCorrupt: If any covered column was changed, or the row belongs to another table, tenant or vault.
    """
    if len(mac) != 1 + KEY_ID_BYTES + sha256().digest_size:
        raise VaultCorrupt(f"a row of {table} is not authenticated")
    expected = row_mac(find_key(mac[1 : 1 + KEY_ID_BYTES]), table, mac[0], columns(mac[0]))
    if not hmac.compare_digest(mac, expected):
        raise VaultCorrupt(f"a row of {table} was changed outside the product")
