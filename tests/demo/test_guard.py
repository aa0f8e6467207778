"""The guard of the demo's page: who may ask a page that is for this machine alone, and what becomes of mistakes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from flowar.demo.guard import Guard, for_this_machine_alone, names_this_machine

PAGE = "127.0.0.1:7860"


def asked(headers: dict[str, str], local: bool = True, kind: str = "http", fails: bool = False) -> list[Any]:
    """The messages that a request is answered with, by a page that says "page", or fails."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if fails:
            raise KeyError("no\nsuch event")
        await send("page")

    async def receive() -> Any: ...

    async def send(message: Any) -> None:
        sent.append(message)

    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": kind, "path": "/queue/join", "headers": encoded}
    asyncio.run(Guard(app, local)(scope, receive, send))
    return sent


@pytest.mark.parametrize(
    "headers",
    [
        {"host": PAGE},
        {"host": "localhost"},
        {"host": "[::1]:7860", "origin": "http://[::1]:7860"},
        {"host": PAGE, "origin": f"http://{PAGE}"},
        {"host": "localhost:7860", "origin": "https://localhost:7860"},
    ],
)
def test_the_page_itself(headers: dict[str, str]) -> None:
    assert asked(headers) == ["page"]


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"host": "evil.example"}, b"Host: expected the name of this machine, as localhost or 127.0.0.1"),
        ({"host": "evil.example:7860", "origin": "http://evil.example:7860"}, b"Host: expected the name"),
        ({"host": "127.0.0.1.evil.example"}, b"Host: expected"),
        ({"host": "localhost.evil.example:7860"}, b"Host: expected"),
        ({"host": "0.0.0.0:7860"}, b"Host: expected"),
        ({"host": "192.168.0.2:7860"}, b"Host: expected"),
        ({"host": "evil.example#@127.0.0.1"}, b"Host: expected"),
        ({"host": "[::1"}, b"Host: expected"),
        ({"host": ""}, b"Host: expected"),
        ({}, b"Host: expected"),
        ({"host": PAGE, "origin": "http://evil.example"}, b"Origin: expected this page"),
        ({"host": PAGE, "origin": "http://127.0.0.1:3000"}, b"Origin: expected this page"),
        ({"host": PAGE, "origin": "null"}, b"Origin: expected this page"),
        ({"host": PAGE, "origin": ""}, b"Origin: expected this page"),
    ],
)
def test_others(headers: dict[str, str], message: bytes) -> None:
    start, body = asked(headers)
    assert start["status"] == 403
    assert body["body"].startswith(message)
    assert asked(headers, kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    assert asked(headers, local=False) == ["page"]  # which has names that nobody here knows


def test_mistakes_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        start, body = asked({"host": PAGE}, fails=True)
    assert (start["status"], body["body"]) == (400, b"expected a request as the page makes it")
    assert caplog.messages == [r"""page: KeyError of '/queue/join': "'no\\nsuch event'" """.strip()]
    assert caplog.records[0].exc_info is None


def test_addresses() -> None:
    assert all(map(for_this_machine_alone, ("127.0.0.1", "127.1.2.3", "localhost", "::1")))
    assert not any(map(for_this_machine_alone, ("0.0.0.0", "::", "192.0.2.1")))
    assert not names_this_machine("::1.evil.example")
