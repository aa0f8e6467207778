"""Parts that both tabs share: galleries, events that use the model, and errors as messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from flowar.errors import sentence


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


@contextmanager
def shown_errors() -> Iterator[None]:
    """Turn the errors of bad input into messages on the page, which stays as it is."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise gr.Error(sentence(error), print_exception=False) from error
