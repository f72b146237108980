"""Answers to feed to the readers, and the moment at which they arrive."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from mcp_identity.domain.http import HttpResponse

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TOKEN: dict[str, Any] = {"access_token": "at-made-up", "token_type": "Bearer", "expires_in": 3600}


def answer(body: Any, status: int = 200, content_type: str = "application/json", **headers: str) -> HttpResponse:
    """An HTTP answer; anything but bytes becomes JSON."""
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(status, {"content-type": content_type, **fields}, encoded)
