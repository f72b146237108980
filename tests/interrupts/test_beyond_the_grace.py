"""What is said when a vendor answers only after the process has ended? The loss has a name, and the next process goes on.

On stdio the host's grace counts, two seconds after the end of the input; after a signal it is ten, and only `PROVE=1` waits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fakes.home import VaultHome
from tests.interrupts.lives import SIGNALS, Edge, Interrupt, live

Case = tuple[Sequence[Edge], Interrupt]


def _cases() -> list[Case]:
    found: list[Case] = [(("stdio",), "end")]
    for signal in SIGNALS if os.environ.get("PROVE") else ():
        found.append((("stdio",), signal))
        found.append((("sse", "http"), signal))
    return found


@pytest.mark.parametrize(("edges", "interrupt"), _cases())
async def test_beyond_the_grace_the_process_ends_and_the_loss_is_named(
    edges: Sequence[Edge], interrupt: Interrupt, tmp_path: Path
) -> None:
    life = await live(VaultHome(tmp_path / "home"), edges, interrupt, too_late=True)
    assert life.status == 0
    assert life.waited
    assert life.seconds < (4 if interrupt == "end" else 12)
    for edge in edges:
        callback, refresh, m2m = (life.cells[edge, work] for work in ("callback", "refresh", "m2m"))
        assert (refresh.served["status"], refresh.served["reason"]) == ("consent_required", "lost_in_flight")
        assert (m2m.served["status"], m2m.given) == ("ok", 2)
        assert m2m.served["access_token"] == m2m.vendor.minted[-1]
        assert (callback.served["status"], callback.served["reason"]) == ("consent_required", "no_grant")
        assert callback.served["session_uri"] != callback.session_uri
        if interrupt in SIGNALS:  # the vendor's own deadline is over as well, and that is said
            assert (callback.consent["status"], callback.consent["reason"]) == ("failed", "upstream_unavailable")
            assert callback.page == 303
            assert edge == "stdio" or (refresh.told or {})["code"] == "upstream_unavailable"
