"""Claims about a scorer behind an address: the protocol, and what each of its faults gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from teacher_server import cut_short, giving, hanging, hanging_up, in_turn, serving

from models.chat import Message
from models.errors import ConfigError, DataError, HHHError, Unavailable
from models.http import Limits
from reward.remote_source import RemoteSource
from reward.responses import Response

FAST = Limits(timeout=0.5, tries=2, wait=0.01)


def responses(n: int) -> list[Response]:
    return [Response((Message("user", f"prompt {i}"),), f"text {'x' * i}", [1], {"secret": i}) for i in range(n)]


def lengths(_: int, body: Any) -> Callable[[BaseHTTPRequestHandler], None]:
    """A scorer that likes long texts."""
    return giving(json.dumps({"scores": [len(text) for text in body["completions"]]}))


def source(url: str, **options: Any) -> RemoteSource:
    settings = {"key_env": "REWARD_TEST_KEY", "batch_size": 2, "concurrency": 3, "limits": FAST}
    return RemoteSource("reward.also.far", url, **{**settings, **options})


def test_scores_come_in_order_from_batches_of_messages_and_texts() -> None:
    with serving(lengths) as server:
        assert source(server.url)(responses(5)) == [5.0, 6.0, 7.0, 8.0, 9.0]
    assert sorted(len(body["completions"]) for body in server.bodies) == [1, 2, 2]
    first = next(body for body in server.bodies if "text " in body["completions"])
    assert first == {
        "prompts": [[{"role": "user", "content": "prompt 0"}], [{"role": "user", "content": "prompt 1"}]],
        "completions": ["text ", "text x"],
    }


def test_a_null_counts_nothing() -> None:
    with serving(lambda *_: giving('{"scores": [null, 2]}')) as server:
        assert source(server.url)(responses(2)) == [0.0, 2.0]


def test_the_key_is_sent_and_told_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_TEST_KEY", "hush-hush-hush")
    with serving(lambda *_: giving('{"error": "bad key hush-hush-hush"}', status=401)) as server:
        with pytest.raises(ConfigError, match=r"status 401.*check the key that .*REWARD_TEST_KEY") as caught:
            source(server.url)(responses(1))
        assert server.headers[0]["Authorization"] == "Bearer hush-hush-hush"
    assert "hush" not in str(caught.value)


def test_what_passes_is_tried_again() -> None:
    with serving(in_turn(giving("{}", status=500), hanging_up, giving('{"scores": [3]}'))) as server:
        assert source(server.url, limits=Limits(timeout=2, tries=3, wait=0.01))(responses(1)) == [3.0]
        assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("behaviour", "kind", "message"),
    [
        (giving('{"error": "no memory"}', status=500), Unavailable, "status 500 .no memory., after 2 tries"),
        (hanging, Unavailable, "time-out"),
        (hanging_up, Unavailable, "cut off"),
        (cut_short, Unavailable, "cut off"),
        (giving("not found", status=404), ConfigError, "status 404 .not found.; check the address"),
        (giving("<html>"), DataError, "no JSON"),
        (giving("[1, 2]"), DataError, r'expected \{"scores": \[...\]\}, got \[1, 2\]'),
        (giving('{"scores": [1]}'), DataError, "expected 2 numbers, one for each response, got 1"),
        (giving('{"scores": [1, "2"]}'), DataError, "expected numbers or None, got str for response 2"),
    ],
)
def test_each_fault_is_one_line_that_names_the_address(behaviour: Any, kind: type[HHHError], message: str) -> None:
    with serving(lambda *_: behaviour) as server:
        with pytest.raises(kind, match=rf"^reward\.also\.far\.url={server.url}: .*{message}"):
            source(server.url)(responses(2))


def test_a_service_that_is_gone_is_unavailable() -> None:
    with serving(lengths) as server:
        url = server.url
    with pytest.raises(Unavailable, match="no connection"):
        source(url)(responses(1))


def test_after_a_batch_without_scores_the_others_are_not_asked_for() -> None:
    with serving(lambda *_: giving("{}", status=400)) as server:
        with pytest.raises(ConfigError):
            source(server.url, batch_size=1, concurrency=1)(responses(50))
        assert len(server.bodies) < 5
