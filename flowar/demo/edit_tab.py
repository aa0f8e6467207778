"""The tab that edits: a picture, a brush that marks where to draw anew, and the edited pictures."""

from __future__ import annotations

from typing import Any

import gradio as gr
from PIL import Image

from flowar.data.opening import image_suffixes
from flowar.demo.actions import Drawing, Edit, Settings, class_choices, edit, open_image
from flowar.demo.canvas import SIDE, enlarged
from flowar.demo.settings import settings_inputs
from flowar.demo.shown import gallery, model_event
from flowar.errors import FlowARError
from flowar.pipeline import FlowARPipeline

KINDS = [("Inpaint what is painted", "inpaint"), ("Vary, keeping coarse scales", "vary")]
BRUSH = "rgb(99, 102, 241)"
AROUND = 80  # pixels of height that the editor's own buttons take
BRUSH_PART = 14  # of the canvas is the width of the brush


class EditTab:
    """The tab that edits; `picture` holds the picture, of which the editor shows an enlarged copy."""

    def __init__(self, pipeline: FlowARPipeline) -> None:
        self.pipeline = pipeline
        self.picture = gr.State(None)
        last = len(pipeline.model.config.grids) - 1
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                kind = gr.Radio(KINDS, value="inpaint", label="Operation", elem_id="kind")
                self.label = gr.Dropdown(class_choices(pipeline), value=None, label="Class", elem_id="edit-class")
                paste = gr.Checkbox(True, label="Keep the other pixels exactly", elem_id="paste")
                keep_scales = gr.Slider(
                    0, last, min(2, last), step=1, label="Scales to keep", buttons=[], visible=False
                )
                count = gr.Slider(1, 16, 4, step=1, label="Pictures", buttons=[], elem_id="count")
                settings = settings_inputs(pipeline, "edit")
            with gr.Column(scale=2, min_width=480):
                self.editor = editor()
                with gr.Row():
                    upload = gr.UploadButton(
                        "Open a picture", file_types=sorted(image_suffixes()), size="md", elem_id="open"
                    )
                    apply = gr.Button("Edit", variant="primary", size="md", elem_id="edit")
            with gr.Column(scale=1, min_width=280):
                edited = gallery("Edited", "edited", columns=2)
                time = gr.Markdown("", elem_id="edit-time")
        upload.upload(self.open, upload, [self.picture, self.editor], show_progress="hidden")
        # Which would take the picture away together with the strokes.
        self.editor.clear(
            lambda picture: picture and enlarged(picture), self.picture, self.editor, show_progress="hidden"
        )
        kind.change(inputs_shown, kind, [paste, keep_scales], show_progress="hidden")
        inputs = [self.picture, self.editor, kind, self.label, count, keep_scales, paste, *settings]
        model_event(apply.click, self.apply, inputs, [edited, time], edited)

    def open(self, path: str | None) -> tuple[Image.Image, Image.Image]:
        """Open the picture in a file, and return it with its enlarged copy."""
        picture = open_image(self.pipeline, path)
        return picture, enlarged(picture)

    def receive(self, drawing: Drawing | None, chosen: int) -> tuple[Any, ...]:
        """Receive a picture of the other tab: itself, its enlarged copy, and its class."""
        if drawing is None:
            raise FlowARError("image: expected a picture to edit, got none")
        picture = drawing.scales[-1][chosen]
        return picture, enlarged(picture), drawing.labels[chosen]

    def apply(
        self,
        picture: Image.Image | None,
        painting: dict[str, Any] | None,
        kind: Any,
        label: int | None,
        count: int,
        keep_scales: int,
        paste: bool,
        *settings: Any,
    ) -> tuple[list[Image.Image], str]:
        """Edit the picture, and return the edited ones and their time in words."""
        layers = painting["layers"] if painting else []
        wanted = Edit(kind, layers, label, count, keep_scales, paste)
        return edit(self.pipeline, picture, wanted, Settings(*settings))


def editor() -> gr.ImageEditor:
    """The editor, which is for painting alone: pictures come through buttons, which refuse those that do not fit."""
    return gr.ImageEditor(
        label="Paint what is to be drawn anew",
        placeholder="Open a picture, or send one from the other tab",
        type="pil",
        image_mode="RGBA",
        format="png",
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(SIDE // BRUSH_PART, colors=[BRUSH], default_color=BRUSH, color_mode="fixed"),
        eraser=gr.Eraser(SIDE // BRUSH_PART),
        canvas_size=(SIDE, SIDE),
        height=SIDE + AROUND,
        buttons=[],
        elem_id="editor",
    )


def inputs_shown(kind: str) -> tuple[Any, Any]:
    """Updates that show the inputs of an operation and hide the others."""
    return gr.update(visible=kind == "inpaint"), gr.update(visible=kind == "vary")
