"""Parts that both tabs share: galleries, events that use the model, and errors as messages."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr

from flowar.errors import sentence

log = logging.getLogger(__name__)

LONGEST_MESSAGE = 300  # characters


class Page(gr.Blocks):  # type: ignore[misc]  # without Gradio's types it is Any
    """Gradio's blocks, where bad input becomes a message on the page, which stays as it is.

    Input is bad also if the page itself would not have sent it; whoever asks its server without the page is answered.
    """

    async def process_api(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Call the function of an event, as Gradio does for every one."""
        try:
            return await super().process_api(*arguments, **options)
        except Exception as error:  # of values that Gradio's parts do not take, it may be any
            raise gr.Error(message(error), print_exception=False) from error


def message(error: Exception) -> str:
    """What an error says, in one line of HTML; one that nobody foresaw is logged too, as the page may be wrong."""
    text = error.message if isinstance(error, gr.Error) else sentence(error)
    if not isinstance(error, (gr.Error, ValueError, OSError)):
        text = f"{type(error).__name__}: {text}"
        log.warning("page: %r", text[:LONGEST_MESSAGE])
    return html.escape(" ".join(text.split())[:LONGEST_MESSAGE], quote=False)


def gallery(label: str, name: str, columns: int = 8) -> gr.Gallery:
    """A gallery of pictures without loss, to look at and to choose from."""
    return gr.Gallery(
        label=label,
        elem_id=name,
        elem_classes="pixels",
        columns=columns,
        height="auto",
        format="png",
        object_fit="contain",
        allow_preview=False,
        interactive=False,
        fit_columns=False,
        buttons=[],
    )


def model_event(event: Callable[..., Any], run: Callable[..., Any], inputs: Any, outputs: Any, progress: Any) -> None:
    """Let `event` call `run`, one call at a time; `progress` is where it shows that it is under way."""
    event(run, inputs, outputs, concurrency_limit=1, concurrency_id="model", show_progress_on=progress)
