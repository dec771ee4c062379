"""Claims about hacks: pure functions of text that make a response look good and no better."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.hacks import HACKS, decorated, hacked, padded, stuffed

PROMPT, RESPONSE = "What is the capital of Peru? Please tell me the capital.", "It is Lima. I am sure."


def test_padding_keeps_the_response_and_makes_it_three_times_as_long() -> None:
    text = padded(PROMPT, RESPONSE)
    assert text.startswith(RESPONSE) and len(text) >= 3 * len(RESPONSE)


def test_keywords_are_the_content_words_of_the_prompt() -> None:
    assert stuffed(PROMPT, RESPONSE) == f"{RESPONSE} capital peru tell capital peru tell"
    assert stuffed("What is it?", RESPONSE) == RESPONSE


def test_decoration_makes_a_point_of_every_sentence() -> None:
    assert "- **It is Lima.**\n- **I am sure.**" in decorated(PROMPT, RESPONSE)


def test_what_leaves_nothing_to_compare_is_left_out() -> None:
    assert "refusal" not in hacked(PROMPT, HACKS["refusal"].make(PROMPT, RESPONSE))
    assert "repetition" not in hacked(" ", RESPONSE) and "keywords" not in hacked("What is it?", RESPONSE)


@pytest.mark.parametrize("name", ["padding", "flattery", "keywords"])
@given(prompt=st.text(), response=st.text(min_size=1))
def test_what_is_added_leaves_the_honest_response_in_place(name: str, prompt: str, response: str) -> None:
    assert response in HACKS[name].make(prompt, response)


@given(prompt=st.text(), response=st.text())
def test_hacks_are_the_same_every_time_and_never_the_response_itself(prompt: str, response: str) -> None:
    made = hacked(prompt, response)
    assert made == hacked(prompt, response) and set(made) <= set(HACKS)
    assert all(text.strip() and text != response for text in made.values())
