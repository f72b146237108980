"""How times are stored: microseconds since 1970 in UTC, 0 for none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mcp_identity.domain.errors import VaultCorrupt

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(moment: datetime | None) -> int:
    """Microseconds since 1970 in UTC; 0 for none."""
    return 0 if moment is None else (moment - _EPOCH) // _MICROSECOND


def moment(count: int) -> datetime | None:
    """The time that `micros` stored.

    Raises:
        VaultCorrupt: If there is no such time.
    """
    try:
        return _EPOCH + count * _MICROSECOND if count else None
    except OverflowError:
        raise VaultCorrupt("a time was changed outside the product") from None
