"""Where the real public data stands. A test that needs a file which is absent is skipped with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("HHH_REAL_DATA", Path(__file__).parents[1] / "../shared/data"))


def real(name: str) -> str:
    """Path of a file of real data."""
    if not (FOLDER / name).is_file():
        pytest.skip(f"no {name} in {FOLDER}; set HHH_REAL_DATA to the folder of real data")
    return str(FOLDER / name)
