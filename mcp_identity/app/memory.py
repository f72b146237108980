"""What does the collector of cycles look at? At what requests leave behind, seldom, and never at what the program is made of.

A call leaves some eighty objects that know each other, most of them the SDK's. At Python's own pace the collector would look
through everything that is alive after every few calls; here it waits until some hundred calls have left something.
"""

from __future__ import annotations

import gc

_NEW_OBJECTS = 20_000
"""How many more than before there are when it looks: a few megabytes."""


def settle() -> None:
    """What stands now stays and is never looked at again; collect what comes from now on."""
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 10, 10)
    gc.enable()
