"""`flowar demo`: a page in the browser that draws and edits."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Annotated

from flowar.commands import say
from flowar.errors import FlowARError, MissingPackageError
from flowar.system.fields import checks_fields
from flowar.system.installation import install_command
from flowar.system.rules import Place, Range

LAST_PORT = 65535


@dataclass
@checks_fields
class Options:
    """Serve a page that draws classes, scale by scale, and edits pictures with a brush, until it is interrupted.

    Attributes:
        model: shipped name, folder, or Hub id.
        device: device to compute on; "auto" is the GPU if there is one.
        host: address to serve on; 0.0.0.0 serves everybody who can reach this machine. Where it is this machine's own,
            as 127.0.0.1, requests by other names and from other pages are refused.
        port: port to serve on.
    """

    model: Place = "flowar-fashion"
    device: str = "auto"
    host: str = "127.0.0.1"
    port: Annotated[int, Range(1, LAST_PORT)] = 7860


def run(options: Options) -> None:
    """Print where the page is, and serve it."""
    check_address(options.host, options.port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # which Gradio reads when it is imported
    try:
        from flowar.demo.page import build_page, serve
    except ImportError as error:
        raise MissingPackageError(f"gradio serves the page: {install_command('demo')}") from error
    from flowar.pipeline import FlowARPipeline
    from flowar.system.precision import default_device

    pipeline = FlowARPipeline.from_pretrained(options.model).to(default_device(options.device)).prepack()
    page = build_page(pipeline, options.model)
    serve(page, options.host, options.port)
    say(f"{options.model} at http://{options.host}:{options.port}, until Ctrl+C")
    page.block_thread()


def check_address(host: str, port: int) -> None:
    """Check that a page can be served at an address.

    Raises:
        FlowARError: for a port that is in use, or a host that is not this machine.
    """
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise FlowARError(f"host and port: expected a free address, got {host}:{port}: {error.strerror}") from error
