"""When was something made, and when was it changed last? Every answer that shows a thing says both."""

from __future__ import annotations

from datetime import datetime

from mcp_identity.domain.identity import WorkloadIdentity
from mcp_identity.domain.provider import CredentialProvider


def times(kept: WorkloadIdentity | CredentialProvider) -> tuple[datetime, datetime]:
    """When it was made, and changed; of a thing that was read from the vault."""
    if kept.created_at is None or kept.updated_at is None:
        raise RuntimeError("what is kept has its times")
    return kept.created_at, kept.updated_at
