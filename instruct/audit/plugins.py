"""Functions that a user names as `module:function`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from models.errors import ConfigError


def named_function(option: str, path: str) -> Callable[..., Any]:
    """The function at `module:function`. Raises ConfigError where there is none."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # a user's module may fail in any way
        raise ConfigError(
            f"{option}={path}: cannot be imported ({type(error).__name__}: {error}); expected module:function"
        ) from error
    if not callable(found):
        raise ConfigError(f"{option}={path}: is no function")
    return found
