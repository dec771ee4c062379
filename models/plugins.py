"""Functions that a user names: `module.function`, or `module:function`."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.errors import ConfigError


def named_function(option: str, path: str) -> Callable[..., Any]:
    """The function of that name, in a module of the working directory or an installed one. Raises ConfigError where
    there is none."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = pkgutil.resolve_name(path)
    except Exception as error:  # a user's module may fail in any way
        raise ConfigError(
            f"{option}={path}: cannot be imported ({type(error).__name__}: {error}); expected module.function, of a "
            "module in the working directory or an installed one"
        ) from error
    if not callable(found):
        raise ConfigError(f"{option}={path}: is no function")
    return found


def file_of(function: Callable[..., Any]) -> Path | None:
    """The file of the module that a function stands in; None where it has none."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    return Path(file) if file else None
