"""The guard of the page: a page for this machine alone answers no other, and what nobody foresaw is one line."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from flowar.errors import first_line

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY_VIOLATION = 1008  # as WebSockets have it


class Guard:
    """An ASGI middleware between the server and the page.

    Where the page is for this machine alone, a request must name this machine, and come from the page itself if it says
    where it comes from. Otherwise any page on the web could use this one: a script may ask 127.0.0.1, and the name of
    its own server may be made to point there (DNS rebinding).

    Requests that the page never makes, and that its server does not foresee, are answered instead of logged.

    Args:
        app: what answers the other requests.
        local: whether the page is for this machine alone.
    """

    def __init__(self, app: App, local: bool) -> None:
        self.app, self.local = app, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        refusal = foreign(scope["headers"]) if self.local else None
        if refusal is not None:
            return await answer(scope, send, 403, refusal)
        begun = False

        async def observed(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, observed)
        except Exception as error:  # which the server would log with a traceback, for a request that makes no sense
            log.warning("page: %s of %r: %r", type(error).__name__, scope["path"], first_line(error))
            if not begun:
                await answer(scope, send, 400, "expected a request as the page makes it")


async def answer(scope: Scope, send: Send, status: int, text: str) -> None:
    """Answer a request in a line of plain text, or close a WebSocket."""
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": POLICY_VIOLATION})
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


def foreign(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """What is wrong with a request to a page for this machine alone; None if it names this machine and that page."""
    hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
    origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
    if len(hosts) != 1 or not names_this_machine(hosts[0]):
        return "Host: expected the name of this machine, as localhost or 127.0.0.1"
    if any(origin not in (f"http://{hosts[0]}", f"https://{hosts[0]}") for origin in origins):
        return "Origin: expected this page"
    return None


def names_this_machine(host: str) -> bool:
    """Whether a host, with a port or without, can only be this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def for_this_machine_alone(host: str) -> bool:
    """Whether a server at an address can be reached from this machine alone."""
    addresses = [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)
