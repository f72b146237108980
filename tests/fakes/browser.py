"""Who opens the links? The person with a browser of `examples/browser`, under the name that tests import."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the examples are no installed package: at run time they are loaded by path
    from examples.browser import Browser, Button, Cookie, CookieJar, Decision, Form, Hop, Page
else:
    _spec = spec_from_file_location("examples_browser", Path(__file__).parents[2] / "examples" / "browser" / "__init__.py")
    _module = sys.modules.setdefault(_spec.name, module_from_spec(_spec))
    _spec.loader.exec_module(_module)
    Browser, Button, Cookie, CookieJar, Decision, Form, Hop, Page = (getattr(_module, name) for name in _module.__all__)

__all__ = ["Browser", "Button", "Cookie", "CookieJar", "Decision", "Form", "Hop", "Page"]
