"""The page: two tabs about one model."""

from __future__ import annotations

from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from flowar.demo.edit_tab import EditTab
from flowar.demo.guard import Guard, for_this_machine_alone
from flowar.demo.sample_tab import SampleTab
from flowar.demo.shown import Page
from flowar.pipeline import FlowARPipeline
from flowar.system.markdown import plain

# Fonts of the reader's own machine: nothing is fetched from elsewhere.
THEME = gr.themes.Default(
    primary_hue="indigo",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
    spacing_size="sm",
    text_size="sm",
)
# Pictures of a few pixels are shown as these, with names below; an error is told once, by its message.
CSS = """
.pixels img { image-rendering: pixelated; height: auto; }
.pixels .grid-wrap { min-height: 0 !important; max-height: 70vh !important; }
.pixels .gallery-container { padding-top: 1.5em; }
.pixels .grid-container { grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)); }
.pixels .thumbnail-item { height: auto; aspect-ratio: auto; }
.pixels .caption-label { position: static; max-width: 100%; border: none; padding: 1px; text-align: center; }
.quiet { align-self: center; flex-grow: 0 !important; }
[data-testid="status-tracker"]:has(.error) { display: none; }
"""
DAY = 86400  # seconds, after which pictures that were shown are removed
WAITING = 20  # calls of all users together; the next one is told to come back later
LARGEST_FILE = "100mb"


def build_page(pipeline: FlowARPipeline, name: str) -> gr.Blocks:
    """Build the page of a pipeline whose model has this name."""
    title, old = f"FlowAR: {name}", (DAY, DAY)
    with Page(title=title, analytics_enabled=False, fill_width=True, delete_cache=old) as page:
        gr.Markdown(heading(pipeline, name))
        with gr.Tabs() as tabs:
            with gr.Tab("Sample", id="sample"):
                sample = SampleTab(pipeline)
            with gr.Tab("Edit", id="edit"):
                edit = EditTab(pipeline)
        send = sample.send.click(
            edit.receive,
            [sample.drawing, sample.chosen],
            [edit.picture, edit.editor, edit.label],
            show_progress="hidden",
        )
        send.success(lambda: gr.Tabs(selected="edit"), outputs=tabs, show_progress="hidden")
    return page


def heading(pipeline: FlowARPipeline, name: str) -> str:
    """The heading: the model's name, classes, picture size and device."""
    width, height = pipeline.picture_size
    model = pipeline.model
    device = model.ar_transformer.input_positions.device.type
    return f"## FlowAR: {plain(name)}\n{model.config.num_classes} classes, pictures of {width}x{height}, on {device}"


def serve(page: gr.Blocks, host: str, port: int) -> Any:
    """Serve the page, without waiting and without any service of Gradio's."""
    guard = Middleware(Guard, local=for_this_machine_alone(host))
    return page.queue(api_open=False, max_size=WAITING).launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        footer_links=[],
        max_file_size=LARGEST_FILE,
        app_kwargs={"middleware": [guard]},
        theme=THEME,
        css=CSS,
    )
