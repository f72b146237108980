"""What does a test tell a server while that runs, and how does it hear of it at once? A few bytes that both map.

The server looks at them in passing: where to kill itself, how far its clocks are ahead, which fault is on. Nothing is
answered here, and nobody waits.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import time
from pathlib import Path

_SIZE = 4096
_CLOCKS = struct.Struct("<dd")
_ARMED = struct.Struct("<II64s")
_FAULT = struct.Struct("<64sq")
_MOMENT = struct.Struct("<d")
_WATCHED = struct.Struct("<64sq")
_ARMED_AT, _FAULT_AT, _STORED_AT, _WATCHED_AT = 64, 256, 512, 576


class Control:
    """One end of it."""

    def __init__(self, path: Path) -> None:
        """Map the file, making it where there is none."""
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._seen = 0
        self._passes = 0

    # The test's end

    def set_clocks(self, *, wall_seconds: float, monotonic_seconds: float = 0.0) -> None:
        """Put the server's clocks ahead of the real ones by so much."""
        _CLOCKS.pack_into(self._map, 0, wall_seconds, monotonic_seconds)

    def arm(self, point: str, passes: int = 1) -> None:
        """Let the server kill itself when it passes a point for the Nth time from now."""
        number, _, _ = _ARMED.unpack_from(self._map, _ARMED_AT)
        _ARMED.pack_into(self._map, _ARMED_AT, 0, passes, point.encode())
        _ARMED.pack_into(self._map, _ARMED_AT, number + 1, passes, point.encode())

    def disarm(self) -> None:
        """Let it live."""
        self.arm("")

    def set_fault(self, name: str = "", value: int = 0) -> None:
        """Switch a fault on; without a name, all are off."""
        _FAULT.pack_into(self._map, _FAULT_AT, name.encode(), value)

    def watch(self, point: str) -> None:
        """Count how often the server passes a point from now on."""
        _WATCHED.pack_into(self._map, _WATCHED_AT, point.encode(), 0)

    def wait_passed(self, times: int = 1, seconds: float = 10.0) -> None:
        """Wait until it has passed the point that is watched so often."""
        until = time.monotonic() + seconds
        while _WATCHED.unpack_from(self._map, _WATCHED_AT)[1] < times:
            if time.monotonic() > until:
                raise TimeoutError("the server did not come by")
            time.sleep(0.005)

    # The server's end

    @property
    def clocks(self) -> tuple[float, float]:
        """How far the wall clock and the monotonic one are ahead."""
        return _CLOCKS.unpack_from(self._map, 0)

    @property
    def fault(self) -> tuple[str, int]:
        """The fault that is on, and its value; an empty name for none."""
        name, value = _FAULT.unpack_from(self._map, _FAULT_AT)
        return name.rstrip(b"\x00").decode(), value

    @property
    def stored_at(self) -> float:
        """When a refreshed token was last committed, on the machine's monotonic clock."""
        return _MOMENT.unpack_from(self._map, _STORED_AT)[0]

    @stored_at.setter
    def stored_at(self, seconds: float) -> None:
        _MOMENT.pack_into(self._map, _STORED_AT, seconds)

    def passes(self, point: str) -> None:
        """Come by a point: the process ends here, as a power cut ends it, if that is where it is to end."""
        watched, passed = _WATCHED.unpack_from(self._map, _WATCHED_AT)
        if watched.rstrip(b"\x00") == point.encode():
            _WATCHED.pack_into(self._map, _WATCHED_AT, watched, passed + 1)
        number, times, name = _ARMED.unpack_from(self._map, _ARMED_AT)
        if name.rstrip(b"\x00") != point.encode():
            return
        if number != self._seen:
            self._seen, self._passes = number, 0
        self._passes += 1
        if self._passes == times:
            os.kill(os.getpid(), signal.SIGKILL)
