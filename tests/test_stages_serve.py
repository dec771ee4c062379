"""An export behind `transformers serve`: the same greedy text over HTTP as in the process."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_stages_export import QUESTION, exported, plain_answer
from test_stages_methods import tuned

pytestmark = pytest.mark.skipif(importlib.util.find_spec("fastapi") is None, reason="needs pip install -e '.[serving]'")
LIMIT = 90.0  # seconds until the server answers


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of this model, ended afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = (folder.parent / "serve.log").open("w+")
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def answered(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The reply, as soon as the server is there."""
    request = urllib.request.Request(
        f"{address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    started = time.monotonic()
    while True:
        try:
            with urllib.request.urlopen(request, timeout=LIMIT) as reply:
                return json.load(reply)
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() - started > LIMIT:
                raise
            time.sleep(0.3)


def test_transformers_serve_answers_as_the_model_does(llama_folder: str, tmp_path: Path) -> None:
    folder = exported(tuned("lora", llama_folder, tmp_path), tmp_path)
    body = {
        "model": str(folder),
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0.0,
        "max_tokens": 12,
    }
    with served(folder) as address:
        said = answered(address, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
    assert said.strip() == plain_answer(folder) != ""
