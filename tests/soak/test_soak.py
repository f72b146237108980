"""Does a server that works for everybody stay as it is: no error, no growth, a row of the trail for everything?

A minute at a low rate, so that it can run beside other tests; `make prove` takes ten minutes at a hundred calls a second, on
both databases (`benchmarks/soak.py`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.run import soak


@pytest.mark.timeout(240)
@pytest.mark.xdist_group("soak")
async def test_a_minute_of_mixed_calls_leaves_no_error_and_no_growth(tmp_path: Path) -> None:
    """covers: Q17."""
    soaked = await soak(tmp_path, postgresql=False, rate=10, seconds=60, seed=17)
    assert soaked.violations() == []
    assert sum(soaked.traffic.calls.values()) > 500
    assert soaked.given["refresh_token"]
