"""The HTTP client against a server that misbehaves: every request ends within its limits, with a reason."""

from __future__ import annotations

import email.utils
import random
import socket
import threading
import time
import tracemalloc
from typing import Any

import pytest
from teacher_server import (
    Behaviour,
    cut_short,
    dripping,
    endless,
    giving,
    hanging,
    hanging_up,
    in_turn,
    raw,
    serving,
)

from models.errors import ConfigError
from models.http import Limits, NoAnswer, Service, check_address, secret

QUICK = Limits(timeout=0.3, tries=3, wait=0.01, max_wait=0.05, max_bytes=50_000)
FINE = giving('{"answer": 42}')
HEAD = b"HTTP/1.1 200 OK\r\n"


def post(url: str, limits: Limits = QUICK, key: str | None = None, stop: threading.Event | None = None) -> Any:
    return Service(url, limits, key).post({"question": "ü"}, random.Random(0), stop)


def failed(url: str, limits: Limits = QUICK, key: str | None = None) -> NoAnswer:
    with pytest.raises(NoAnswer) as caught:
        post(url, limits, key)
    return caught.value


def test_a_good_answer_is_returned_and_the_body_arrives_as_it_was() -> None:
    with serving(in_turn(FINE)) as server:
        assert post(server.url, key="sesame-sesame") == {"answer": 42}
    assert server.bodies == [{"question": "ü"}]
    assert server.headers[0]["Authorization"] == "Bearer sesame-sesame"


def test_without_a_key_no_header_claims_one() -> None:
    with serving(in_turn(FINE)) as server:
        post(server.url)
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    "fault",
    [
        giving("", 429),
        giving("", 500),
        giving("", 503),
        giving("", 408),
        hanging,
        hanging_up,
        cut_short,
        raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
        dripping(HEAD + b"Content-Length: 900\r\n\r\n"),
    ],
)
def test_what_passes_is_tried_again_until_it_has_passed(fault: Behaviour) -> None:
    with serving(in_turn(fault, fault, FINE)) as server:
        assert post(server.url) == {"answer": 42}
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (giving("", 429), "status 429"),
        (giving("", 500), "status 500"),
        (hanging, "time-out"),
        (hanging_up, "a reply that was cut off or is no HTTP"),
        (cut_short, "a reply that was cut off or is no HTTP"),
        (raw(b"\xff\xfe\n\n"), "a reply that was cut off or is no HTTP"),
    ],
)
def test_what_does_not_pass_ends_after_the_last_try_with_its_reason(fault: Behaviour, reason: str) -> None:
    with serving(in_turn(fault)) as server:
        assert failed(server.url).reason == reason
    assert len(server.bodies) == QUICK.tries


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (giving("<html>busy</html>"), "a reply that is no JSON"),
        (giving(b"\xff\xfe{}"), "a reply that is no JSON"),
        (giving("[" * 40_000), "a reply that is no JSON"),
        (giving(""), "a reply that is no JSON"),
        (endless, "a reply of more than 50000 bytes"),
        (giving("", 400), "status 400"),
        (giving("", 401), "status 401"),
        (giving("", 307, Location="http://127.0.0.1:9/"), "status 307"),
    ],
)
def test_what_another_try_would_only_repeat_is_not_tried_again(fault: Behaviour, reason: str) -> None:
    with serving(in_turn(fault)) as server:
        assert failed(server.url).reason == reason
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "drip",
    [
        dripping(HEAD + b"X-Header: ", b"a"),
        dripping(HEAD + b"Content-Length: 900000\r\n\r\n"),
        dripping(HEAD + b"\r\n"),
        dripping(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        dripping(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["headers", "promised length", "no length", "chunks", "continuations"],
)
def test_a_slow_drip_ends_when_the_time_is_up_wherever_it_drips(drip: Behaviour) -> None:
    started = time.monotonic()
    with serving(in_turn(drip)) as server:
        assert failed(server.url, Limits(timeout=0.4, tries=1)).reason == "time-out"
    assert 0.3 < time.monotonic() - started < 3


def test_an_endless_body_is_not_gathered_in_memory() -> None:
    tracemalloc.start()
    with serving(in_turn(endless)) as server:
        failed(server.url)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_nobody_at_the_address_is_said_so() -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        fault = failed(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert fault.reason == "no connection" and "refused" in fault.detail


@pytest.mark.parametrize("url", ["http://no.such.host.invalid/", f"http://{'a' * 70}.com/"])
def test_a_host_that_there_cannot_be_is_no_connection(url: str) -> None:
    assert failed(url).reason == "no connection"


@pytest.mark.parametrize(
    ("asked_for", "at_least", "at_most"),
    [
        ("0.3", 0.3, 1.0),
        ("3600", 0.4, 1.0),  # honoured up to max_wait
        ("Wed, 21 Oct 2099 07:28:00 GMT", 0.4, 1.0),
        ("soon", 0.0, 0.2),
        ("-5", 0.0, 0.2),
        ("nan", 0.0, 0.2),
        ("9" * 400, 0.0, 0.2),
    ],
)
def test_retry_after_is_honoured_within_the_limit(asked_for: str, at_least: float, at_most: float) -> None:
    limits = Limits(timeout=2, tries=2, wait=0.01, max_wait=0.4)
    with serving(in_turn(giving("", 429, Retry_After=asked_for), FINE)) as server:
        post(server.url, limits)
    assert at_least <= server.waits[0] < at_most


def test_retry_after_as_a_date_that_has_passed_waits_no_longer_than_else() -> None:
    past = email.utils.formatdate(0, usegmt=True)
    with serving(in_turn(giving("", 503, Retry_After=past), FINE)) as server:
        post(server.url)
    assert server.waits[0] < 0.2


def test_waits_double_with_jitter_of_the_generator_up_to_the_limit() -> None:
    """Each wait lies in (half, whole] of 0.1, 0.2, 0.4 s, and of 0.4 from there on."""
    limits = Limits(timeout=2, tries=5, wait=0.1, max_wait=0.4)
    with serving(in_turn(giving("", 500))) as server:
        failed(server.url, limits)
    for wait, backoff in zip(server.waits, (0.1, 0.2, 0.4, 0.4), strict=True):
        assert backoff / 2 <= wait < backoff + 0.15


def test_stop_ends_the_waiting_and_the_trying() -> None:
    stop, started = threading.Event(), time.monotonic()
    threading.Timer(0.2, stop.set).start()
    with serving(in_turn(giving("", 500))) as server, pytest.raises(NoAnswer):
        post(server.url, Limits(timeout=2, tries=9, wait=30), stop=stop)
    assert time.monotonic() - started < 5 and len(server.bodies) == 1


def test_what_the_service_says_is_shown_in_one_line_without_control_characters() -> None:
    said = '{"error": {"message": "no credit\\n\\u001b[31mred\\u0000 ' + "x" * 5000 + '"}}'
    with serving(in_turn(giving(said, 400))) as server:
        fault = failed(server.url)
    assert fault.detail.startswith("no credit [31mred x") and len(fault.detail) == 200
    assert fault.detail.isprintable()


def test_a_key_that_the_service_repeats_goes_nowhere() -> None:
    key = "sk-very-secret-key"
    echoing = in_turn(giving(f'{{"error": "wrong key {key}"}}', 400), giving(f'{{"answer": "{key}"}}'))
    with serving(echoing) as server:
        assert key not in str(failed(server.url, key=key))
        assert post(server.url, key=key) == {"answer": "[key]"}
        assert key not in repr(Service(server.url, QUICK, key))


def test_a_placeholder_for_a_key_is_not_cut_out_of_answers() -> None:
    with serving(in_turn(giving('{"answer": "EMPTY set"}'))) as server:
        assert post(server.url, key="EMPTY") == {"answer": "EMPTY set"}


@pytest.mark.parametrize("value", ["sk-täst", "sk-a b", "sk-a\r\nX: y"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", value)
    with pytest.raises(ConfigError, match="TEACHER_KEY") as caught:
        secret("teacher.key_env", "TEACHER_KEY")
    assert "sk-" not in str(caught.value)


def test_a_key_in_the_place_of_a_variables_name_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        secret("teacher.key_env", "sk-very-secret-key")
    assert "secret" not in str(caught.value)


def test_a_key_is_read_without_the_line_end_that_a_file_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sesame\n")
    assert secret("teacher.key_env", "TEACHER_KEY") == "sesame"
    monkeypatch.setenv("TEACHER_KEY", "")
    assert secret("teacher.key_env", "TEACHER_KEY") is None


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "http://a b/", "http://h:99999/", ""])
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.url=.*expected an address"):
        check_address("teacher.url", url)


@pytest.mark.parametrize("url", ["http://me:hush@host/v1", "https://host/v1?key=hush", "https://host/v1#hush"])
def test_an_address_that_may_hold_a_secret_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_address("teacher.url", url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"tries": 0}, {"wait": float("nan")}, {"max_bytes": 0}])
def test_limits_that_limit_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Limits(**wrong)
