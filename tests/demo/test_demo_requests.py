"""The page of `flowar demo` as programs meet it: requests of others, odd values, and too many at once."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from browser import served

MISSING = [name for name in ("gradio", "httpx") if importlib.util.find_spec(name) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")]

ODD = (None, "x", -1, 1e300, 2**64, [], {}, [[1]], True, "nan", {"path": "/etc/passwd"}, "<b>" + 1000 * "a")
FILE = {"path": "/dev/zero", "meta": {"_type": "gradio.FileData"}}


class Client:
    """Calls the functions of a page without the page."""

    def __init__(self, address: str, errors: Path) -> None:
        import httpx

        self.http, self.errors, self.sessions = httpx.Client(base_url=address, timeout=600), errors, count()
        found = self.http.get("/config").json()
        kinds = {each["id"]: each["type"] for each in found["components"]}
        self.inputs = {each["id"]: [kinds[name] for name in each["inputs"]] for each in found["dependencies"]}
        self.names = {each["api_name"]: each["id"] for each in found["dependencies"]}

    def join(self, function: int, values: list[Any], session: str, event: Any = None) -> Any:
        """Put a call into the queue; the answer to that."""
        call = {"fn_index": function, "data": values, "session_hash": session, "event_data": event}
        return self.http.post("/gradio_api/queue/join", json=call)

    def call(self, function: int, values: list[Any], event: Any = None) -> Any:
        """What a call gives; None if it was not even put into the queue."""
        session = f"session{next(self.sessions)}"
        if self.join(function, values, session, event).status_code != 200:
            return None
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as lines:
            for line in lines.iter_lines():
                message = json.loads(line.removeprefix("data:") or "{}")
                if message.get("msg") == "process_completed":
                    return message["output"]
        raise AssertionError("the stream ended before the call")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    errors = tmp_path_factory.mktemp("demo") / "stderr"
    with errors.open("w") as file, served(errors=file) as address:
        yield Client(address, errors)


def test_requests_of_others(client: Client) -> None:
    own = str(client.http.base_url)
    for headers, status in (
        ({}, 200),
        ({"Origin": own}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ):
        assert client.http.get("/config", headers=headers).status_code == status
        answer = client.http.post("/gradio_api/queue/join", headers=headers, json={"fn_index": 0, "data": []})
        assert (answer.status_code == 403) == (status == 403)


def test_odd_values_are_answered(client: Client) -> None:
    answers = []
    for function, kinds in client.inputs.items():
        valid = [{"slider": 1, "number": 0, "dropdown": "", "checkbox": True}.get(kind) for kind in kinds]
        for place in range(len(kinds)):
            for value in (*ODD, FILE):
                answers.append(client.call(function, [*valid[:place], value, *valid[place + 1 :]]))
        for event in ({"index": 99}, {"index": "x"}, "x", {}):
            answers.append(client.call(function, valid, event))
        answers.append(client.call(function, valid[:-1]))
    assert client.join(10**9, [], "session").status_code == 400
    messages = [answer["error"] for answer in answers if answer and "error" in answer]
    assert len(messages) > 100
    assert all(message and len(message) < 1500 and "\n" not in message and "<" not in message for message in messages)
    assert "classes: expected a list, got None" in messages
    logged = client.errors.read_text()
    assert "Traceback" not in logged
    assert all(line.startswith("page: ") for line in logged.splitlines())


def test_the_queue_has_a_length(client: Client) -> None:
    from flowar.demo.page import WAITING

    drawing = [[*range(10)], 16, 0, "", 2]
    answers = [client.join(client.names["generate"], drawing, f"waiting{index}") for index in range(WAITING + 5)]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert f"Queue is full. Max size is {WAITING}" in answers[-1].json()["detail"]
