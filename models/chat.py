"""Conversations, and how they become token ids under a chat template.

The template's own text is encoded with its special tokens; what people wrote is encoded as text alone, so a user can
never open a role or end a turn by typing its marker.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import NamedTuple

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.errors import ArtifactError, DataError


@dataclass(frozen=True)
class Message:
    """One turn. `role` is system, user or assistant."""

    role: str
    content: str


Prompt = tuple[Message, ...]

ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

TEMPLATE = (
    "{{ bos_token if %s else '' }}"
    "{%% for message in messages %%}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{%% endfor %%}"
    "{%% if add_generation_prompt %%}{{ '<|assistant|>' }}{%% endif %%}"
)


def add_chat_template(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give a base tokenizer role tokens and a template, unless it has a template already. Returns the tokens added."""
    if tokenizer.chat_template is not None:
        return 0
    starts_with_bos = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    tokenizer.chat_template = TEMPLATE % ("true" if starts_with_bos else "false")
    return tokenizer.add_special_tokens({"additional_special_tokens": list(ROLE_TOKENS)})


class Encoded(NamedTuple):
    """Token ids of a conversation; `targets[i]` is True where an assistant wrote token i (its end of turn included)."""

    ids: list[int]
    targets: list[bool]


class _Slot(NamedTuple):
    """Where a message's content stands in the rendered template, and what the template does to it."""

    message: int
    strip_left: bool
    strip_right: bool
    lead: str = ""  # what the template writes after its generation prompt, and a policy must write too

    def trimmed(self, text: str) -> str:
        text = text.lstrip() if self.strip_left else text
        return text.rstrip() if self.strip_right else text


_SPACE = "\u2003"  # trimmed as any space is, but of a kind that no template writes


class ChatFormat:
    """A tokenizer's chat template, compiled: how prompts, responses and conversations become ids.

    Raises ArtifactError where the template closes no assistant turn with a special token, or where its generation
    prompt does not continue into a whole conversation.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.chat_template is None:
            raise ArtifactError("the tokenizer has no chat template; start from a model that stages.sft made")
        self.tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        self._pieces = functools.lru_cache(maxsize=512)(self._render)
        self._encode_piece = functools.lru_cache(maxsize=4096)(self._encode_template_text)
        self._content_tokenizer = _blind_to_marks(tokenizer)
        self._reply = next(p for p in self._pieces(("user", "assistant"), False) if isinstance(p, _Slot) and p.message)
        self.end_ids = self._end_of_turn()
        question, answer = (Message("user", "a"),), Message("assistant", "b")
        if self.prompt(question) + self.response(answer.content) != self.conversation((*question, answer)).ids:
            raise ArtifactError(_SEAM)

    def prompt(self, messages: Prompt) -> list[int]:
        """Ids of a conversation that waits for the assistant's turn."""
        return self._encode(messages, generation_prompt=True).ids

    def response(self, text: str, *, ended: bool = True) -> list[int]:
        """Ids of an assistant's turn, closed by its end-of-turn tokens where it `ended`."""
        return self._encode_turn(self._reply, text) + (self.end_ids if ended else [])

    def conversation(self, messages: Prompt) -> Encoded:
        """Ids of a whole conversation, with the assistant's turns as targets; cut after the last end of turn."""
        ids, targets = self._encode(messages, generation_prompt=False)
        if messages[-1].role == "assistant":
            last = max(i for i, target in enumerate(targets) if target) + 1
            return Encoded(ids[:last], targets[:last])
        return Encoded(ids, targets)

    def configure(self, model: PreTrainedModel) -> None:
        """Tell the model's own `generate` where a turn ends, beside the ends it had."""
        before = model.generation_config.eos_token_id
        listed = before if isinstance(before, list) else [before]
        ends = [self.end_ids[-1], *listed, self.tokenizer.eos_token_id]
        model.generation_config.eos_token_id = sorted({int(token) for token in ends if token is not None})
        if model.generation_config.pad_token_id is None:
            model.generation_config.pad_token_id = self.tokenizer.pad_token_id

    def text(self, ids: list[int]) -> str:
        """What a person reads of generated ids: everything but special tokens."""
        return self.tokenizer.decode([i for i in ids if i not in self._special], skip_special_tokens=True).strip()

    def _encode(self, messages: Prompt, *, generation_prompt: bool) -> Encoded:
        ids: list[int] = []
        targets: list[bool] = []
        closing = False
        for piece in self._pieces(tuple(m.role for m in messages), generation_prompt):
            if isinstance(piece, _Slot):
                message = messages[piece.message]
                new = self._encode_turn(piece, message.content)
                closing = message.role == "assistant"
                marks = [closing] * len(new)
            else:
                new = self._encode_piece(piece)
                n_end = self._n_closing(new) if closing else 0
                marks = [True] * n_end + [False] * (len(new) - n_end)
            ids += new
            targets += marks
        return Encoded(ids, targets)

    def _encode_turn(self, slot: _Slot, text: str) -> list[int]:
        """A message's ids. Space that opens a reply belongs to its first word, as in text that was never cut there."""
        space, lead = (slot.lead, "") if slot.lead.isspace() else ("", slot.lead)
        content = self._content_tokenizer.encode(space + slot.trimmed(text), add_special_tokens=False).ids
        return (self._encode_piece(lead) if lead else []) + content

    def _encode_template_text(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _n_closing(self, ids: list[int]) -> int:
        return next((i + 1 for i, token in enumerate(ids) if token in self._special), 0)

    def _end_of_turn(self) -> list[int]:
        pieces = self._pieces(("user", "assistant"), False)
        ids = self._encode_piece(pieces[-1]) if isinstance(pieces[-1], str) else []
        n = self._n_closing(ids)
        if n == 0:
            raise ArtifactError(
                "the chat template closes the assistant's turn with no special token, so no end is learnt"
            )
        return ids[:n]

    def _render(self, roles: tuple[str, ...], generation_prompt: bool) -> tuple[str | _Slot, ...]:
        """The template as literal text and slots. Spaces around a marker show whether contents are trimmed."""
        parts = re.split(f"({_SPACE}?)\ue000(\\d+)\ue001({_SPACE}?)", self._template_text(roles, generation_prompt))
        pieces: list[str | _Slot] = []
        for start in range(0, len(parts) - 1, 4):
            literal, left, index, right = parts[start : start + 4]
            number, lead = int(index), ""
            if roles[number] == "assistant" and number:
                opened = self._template_text(roles[:number], True).rpartition("\ue001")[2].removeprefix(_SPACE)
                if not literal.startswith(opened):
                    raise ArtifactError(_SEAM)
                literal, lead = opened, literal[len(opened) :]
            pieces += [literal, _Slot(number, left == "", right == "", lead)]
        pieces.append(parts[-1])
        found = [piece.message for piece in pieces if isinstance(piece, _Slot)]
        if found != list(range(len(roles))):
            raise DataError(f"the chat template drops or repeats a turn of {' → '.join(roles)}")
        return tuple(piece for piece in pieces if piece != "")

    def _template_text(self, roles: tuple[str, ...], generation_prompt: bool) -> str:
        messages = [{"role": role, "content": f"{_SPACE}\ue000{i}\ue001{_SPACE}"} for i, role in enumerate(roles)]
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)
        except TemplateError as error:
            raise DataError(f"the chat template refuses the turns {' → '.join(roles)}: {error}") from error


_SEAM = (
    "the chat template's generation prompt is not a prefix of a whole turn; training and generation would see "
    "different text"
)


def _blind_to_marks(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer, finding no special token in text, nor an added one that the chat template writes."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] |= token["content"] in tokenizer.chat_template
    blind = Tokenizer.from_str(json.dumps(state))
    blind.encode_special_tokens = True
    blind.no_padding()
    blind.no_truncation()
    return blind
