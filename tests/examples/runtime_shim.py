"""What stands around an agent? The application and the runtime of `examples/runtime_shim`, under the name that tests import."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

FOLDER = Path(__file__).parents[2] / "examples" / "runtime_shim"
AGENT = FOLDER / "agent.py"

if TYPE_CHECKING:  # the examples are no installed package: at run time they are loaded by path
    from examples.runtime_shim import Application, Company, Identity, IdentityRefused, InvalidToken, Runtime, User, UserTokens
else:
    _spec = spec_from_file_location("examples_runtime_shim", FOLDER / "__init__.py")
    _module = sys.modules.setdefault(_spec.name, module_from_spec(_spec))
    _spec.loader.exec_module(_module)
    Application, Company, Identity, IdentityRefused, InvalidToken, Runtime, User, UserTokens = (
        getattr(_module, name) for name in _module.__all__
    )

__all__ = [
    "AGENT",
    "Application",
    "Company",
    "Identity",
    "IdentityRefused",
    "InvalidToken",
    "Runtime",
    "User",
    "UserTokens",
]
