"""The tab that draws: classes to a gallery, and one picture from coarse to fine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from flowar.demo.actions import Drawing, Settings, class_choices, coarse_to_fine, draw, finished, summary
from flowar.demo.settings import settings_inputs
from flowar.demo.shown import gallery, model_event
from flowar.pipeline import FlowARPipeline
from flowar.show.states import class_name

FIRST_CLASSES = 10
COLUMNS = range(4, 11)  # classes that get a column each
OTHER_COLUMNS = 8


class SampleTab:
    """The tab that draws; the other tab takes picture `chosen` of `drawing`."""

    def __init__(self, pipeline: FlowARPipeline) -> None:
        self.pipeline = pipeline
        self.drawing, self.chosen = gr.State(None), gr.State(0)
        choices = class_choices(pipeline)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                first = [label for _, label in choices[:FIRST_CLASSES]]
                classes = gr.Dropdown(choices, value=first, multiselect=True, label="Classes", elem_id="classes")
                per_class = gr.Slider(1, 16, 2, step=1, label="Pictures of each", buttons=[], elem_id="per-class")
                settings = settings_inputs(pipeline, "sample")
                generate = gr.Button("Generate", variant="primary", elem_id="generate")
            with gr.Column(scale=3):
                self.pictures = gallery("Pictures", "pictures")
                with gr.Row(equal_height=True):
                    self.time = gr.Markdown("Click a picture to see it form.", elem_id="time")
                    self.send = gr.Button("Edit the chosen picture", size="sm", scale=0, min_width=200, elem_id="send")
                self.strip = gallery("From coarse to fine", "strip", columns=len(pipeline.model.config.grids))
        outputs = [self.pictures, self.strip, self.time, self.drawing, self.chosen]
        model_event(generate.click, self.generate, [classes, per_class, *settings], outputs, self.pictures)
        self.pictures.select(self.choose, self.drawing, [self.strip, self.chosen], show_progress="hidden")

    def generate(self, labels: list[int], per_class: int, *settings: Any) -> Iterator[tuple[Any, ...]]:
        """Draw, and yield the values of the outputs after every scale; the first picture is chosen."""
        for drawing in draw(self.pipeline, labels, per_class, Settings(*settings)):
            named = [
                (image, class_name(self.pipeline.model, label))
                for image, label in zip(drawing.scales[-1], drawing.labels, strict=True)
            ]
            # At the end: sent again with every scale, its files would be written while they are being read.
            done = finished(self.pipeline, drawing)
            strip = coarse_to_fine(self.pipeline, drawing, 0) if done else gr.skip()
            columns = len(labels) if len(labels) in COLUMNS else OTHER_COLUMNS
            shown = gr.Gallery(named, columns=columns, selected_index=None)
            yield shown, strip, summary(self.pipeline, drawing), drawing, 0

    def choose(self, drawing: Drawing | None, event: gr.SelectData) -> tuple[Any, int]:
        """The picture that was clicked, from coarse to fine."""
        return coarse_to_fine(self.pipeline, drawing, event.index), event.index
