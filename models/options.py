"""Marks on the fields of configuration dataclasses."""

from __future__ import annotations

RUNTIME = {"runtime": True}  # changes how a stage runs, not what it makes: no part of the stage's identity
INPUT = {"input": True}  # names a file or folder: its content counts, not its path
CODE = {"code": True}  # names a function: what stands in the file of its module counts, too
