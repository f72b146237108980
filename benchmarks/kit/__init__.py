"""What do all benchmarks share? Honest runs, the machine's facts, servers and load, and how figures are shown and kept.

A scenario is a script beside this folder. It measures in runs that alternate (A B A B …), so that whatever else the machine
does hits both alike, and hands a `Result` to `show.py`, which prints a table, draws a chart and writes JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository; the fakes of its tests serve benchmarks, too."""
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
