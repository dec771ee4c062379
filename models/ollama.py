"""The Modelfile that lets Ollama serve an exported folder: `ollama create name -f Modelfile`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jinja2 import TemplateError
from transformers import GenerationConfig, PreTrainedTokenizerBase

MARK = "\ue000"


def modelfile(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig) -> str:
    """FROM, the chat template in Ollama's language where it can be said in it, and what ends a turn."""
    lines = ["FROM ."]
    template = go_template(tokenizer) if tokenizer.chat_template is not None else None
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    elif tokenizer.chat_template is not None:
        lines.append("# The chat template does more than put text around each turn: Ollama has to know it by itself.")
    ends = generation.eos_token_id
    for token in ends if isinstance(ends, list) else [ends]:
        if token is not None:
            lines.append(f'PARAMETER stop "{tokenizer.convert_ids_to_tokens(token)}"')
    return "\n".join(lines) + "\n"


def go_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template as Ollama writes it, where it is the same text around every turn of a role; None where it is not."""
    try:
        return next((_written(cut) for cut in _cuts(tokenizer) if _fits(cut, tokenizer)), None)
    except (TemplateError, ValueError):
        return None


class _Cut(NamedTuple):
    """One way to see a template: its opening, what stands before and after each role's content, and what waits."""

    opening: str
    around: dict[str, tuple[str, str]]
    waiting: str


def _cuts(tokenizer: PreTrainedTokenizerBase) -> Iterator[_Cut]:
    """Where a reply's end meets the next question's beginning cannot be seen, so every place is tried."""
    one = _rendered(tokenizer, ["user"], False)
    first, after_user = one.split(MARK)
    _, before_reply, between, _ = _rendered(tokenizer, ["user", "assistant", "user"], False).split(MARK)
    waiting = _rendered(tokenizer, ["user"], True).removeprefix(one)
    for length in range(len(between), -1, -1):
        after_reply, before_user = between[: len(between) - length], between[len(between) - length :]
        if not first.endswith(before_user):
            continue
        opening = first[: len(first) - length]
        system = _rendered(tokenizer, ["system", "user"], False).removeprefix(opening).removesuffix(one[len(opening) :])
        around = {
            "system": tuple(system.split(MARK)),
            "user": (before_user, after_user),
            "assistant": (before_reply.removeprefix(after_user), after_reply),
        }
        if len(around["system"]) == 2:
            yield _Cut(opening, around, waiting)


def _fits(cut: _Cut, tokenizer: PreTrainedTokenizerBase) -> bool:
    turns = (["user"], ["user", "assistant"], ["user", "assistant", "user"], ["system", "user"])
    return all(
        cut.opening + "".join(MARK.join(cut.around[role]) for role in roles) + cut.waiting
        == _rendered(tokenizer, roles, True)
        for roles in turns
    )


def _written(cut: _Cut) -> str:
    cases = [
        f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}' for role, (before, after) in cut.around.items()
    ]
    turns = "{{ else ".join(cases)
    return f"{cut.opening}{{{{- range .Messages }}}}{{{{ {turns}{{{{ end }}}}{{{{ end }}}}{cut.waiting}"


def _rendered(tokenizer: PreTrainedTokenizerBase, roles: list[str], generation_prompt: bool) -> str:
    turns = [{"role": role, "content": MARK} for role in roles]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation_prompt)
