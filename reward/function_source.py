"""A Python function as a source of reward, called as TRL's online trainers call theirs."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.errors import DataError, HHHError
from models.http import shown
from models.plugins import file_of, named_function
from reward.responses import Response, scores_in

TAKEN = ("prompt", "completion", "prompts", "completions", "completion_ids")  # names that no field of a row may have


class FunctionSource:
    """Scores of responses by the function that an option names.

    It is called with prompts and completions as lists of chat messages, `completion_ids`, and every field of the data
    rows as a list (None where a row lacks it), all by keyword; it returns a number, or None, for each response. It may
    be a coroutine function.
    """

    def __init__(self, option: str, path: str) -> None:
        self.option, self.path = option, path
        self.function = named_function(option, path)

    def __call__(self, responses: Sequence[Response]) -> list[float]:
        return scores_in(self._called(**arguments(responses)), len(responses), f"{self.option}={self.path}")

    def _called(self, **given: Any) -> object:
        try:
            found = self.function(**given)
            return asyncio.run(found) if inspect.iscoroutine(found) else found
        except HHHError:
            raise  # one of ours says already what to do
        except Exception as error:
            raise DataError(
                f"{self.option}={self.path}: raised {type(error).__name__}: {shown(str(error))}{self._line_of(error)}; "
                "debug=true shows all of it"
            ) from error

    def _line_of(self, error: Exception) -> str:
        file = str(file_of(self.function))
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        return f" ({Path(file).name}:{lines[-1]})" if lines else ""


def arguments(responses: Sequence[Response]) -> dict[str, list[Any]]:
    """What TRL gives a reward function of conversations, less its trainer's state and its logging."""
    names = dict.fromkeys(name for response in responses for name in response.fields if name not in TAKEN)
    return {
        "prompts": [[{"role": m.role, "content": m.content} for m in response.prompt] for response in responses],
        "completions": [[{"role": "assistant", "content": response.text}] for response in responses],
        "completion_ids": [list(response.ids) for response in responses],
        **{name: [response.fields.get(name) for response in responses] for name in names},
    }
