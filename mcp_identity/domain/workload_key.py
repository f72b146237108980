"""A workload's own bearer key: what it looks like, and the digest that is kept of it."""

from __future__ import annotations

import hashlib
import re

from mcp_identity.domain.clock import Entropy, random_token
from mcp_identity.domain.credentials import Secret

WORKLOAD_KEY_PREFIX = "mid_wk_"
"""Tells a key from other bearers, for callers and for scanners that look for leaked secrets."""
_KEY = re.compile(r"mid_wk_[A-Za-z0-9_-]{43}")


def new_workload_key(entropy: Entropy) -> Secret:
    """A key of 256 random bits."""
    return Secret(WORKLOAD_KEY_PREFIX + random_token(entropy))


def workload_key_digest(bearer: Secret) -> bytes | None:
    """SHA-256 of a key, by which its row is looked up; None for what cannot be a key.

    A digest without salt will do: nobody guesses 256 random bits.
    """
    text = bearer.reveal()
    return hashlib.sha256(text.encode("ascii")).digest() if _KEY.fullmatch(text) else None
