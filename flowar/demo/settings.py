"""The inputs that both tabs have: seed, schedule and guidance."""

from __future__ import annotations

import random

import gradio as gr

from flowar.pipeline import FlowARPipeline
from flowar.sampling.presets import schedule_names

MOST_GUIDANCE = 10
SEEDS = 2**31


def settings_inputs(pipeline: FlowARPipeline, name: str) -> list[gr.components.Component]:
    """The inputs that are the fields of `flowar.demo.actions.Settings`, in their order."""
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, min_width=80, elem_id=f"{name}-seed")
        other = gr.Button("Another seed", size="sm", min_width=120, elem_classes="quiet")
    choices = [("the model's own", ""), *((preset, preset) for preset in schedule_names(pipeline.model.config.jumps))]
    schedule = gr.Dropdown(choices, value="", label="Schedule", elem_id=f"{name}-schedule")
    guidance = gr.Slider(
        0, MOST_GUIDANCE, own_guidance(pipeline, ""), step=0.1, label="Guidance scale", buttons=[], info="1 is none"
    )
    other.click(lambda: random.randrange(SEEDS), outputs=seed, show_progress="hidden")
    schedule.change(lambda chosen: own_guidance(pipeline, chosen), schedule, guidance, show_progress="hidden")
    return [seed, schedule, guidance]


def own_guidance(pipeline: FlowARPipeline, schedule: str) -> float:
    """The guidance scale of a preset for this model, or of the model's own schedule."""
    return pipeline.model.schedule(base=schedule or None).guidance_scale
