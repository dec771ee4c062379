"""Secrets: keys and passwords that a person has in the environment or typed, cut out of whatever is written down."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

HIDDEN = "[secret]"
SHORTEST = 8  # characters from which on the value of a variable is taken for a secret

_VARIABLE = re.compile(r"(?:^|_)(?:API)?(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|PAT)$")
_NAMED = re.compile(  # what stands behind a name that says what it is
    r"(?i)(\b[\w.-]*(?:api_?key|password|passwd|secret|(?:access|api|auth|hf|hub)_token)=|[?&](?:key|token|sig)=)[^\s&'\"]+"
)
_SHAPED = re.compile(
    r"""(?x)
    (?<=://)[^/?#\s@'"]+(?=@)  # who logs in at an address, and the password
    | (?<=Bearer\s)\S+
    # and the keys of services, by their beginnings:
    | \b(?:hf_|gh[opsur]_)[A-Za-z0-9]{30,} | \b(?:github_pat|wandb_v1)_\w{30,} | \b(?:glpat|xox[abp])-[\w-]{20,}
    | \bsk-(?=[\w-]*[A-Z])(?=[\w-]*\d)[\w-]{20,} | \bAKIA[0-9A-Z]{16}\b
    """
)


def without_secrets(value: T) -> T:
    """Plain data, or a text, with `[secret]` in place of each secret: the value of an environment variable that is
    named as one, what is called a password or a key, and what is shaped as the keys of well-known services are."""
    known = sorted(_of_environment(), key=len, reverse=True)
    return _cut(value, re.compile("|".join(map(re.escape, known))) if known else None)


def _of_environment() -> set[str]:
    found = (value.strip() for name, value in os.environ.items() if _VARIABLE.search(name.upper()))
    return {value for value in found if len(value) >= SHORTEST and not os.path.exists(value)}


def _cut(value: Any, known: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        text = known.sub(HIDDEN, value) if known else value
        return _SHAPED.sub(HIDDEN, _NAMED.sub(rf"\1{HIDDEN}", text))
    if isinstance(value, Mapping):
        return {_cut(key, known): _cut(entry, known) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(entry, known) for entry in value]
    return value
