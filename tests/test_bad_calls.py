"""Calls of the public functions of Python that cannot be right: a ValueError or a TypeError says what was expected."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, small_model
from PIL import Image
from torch import Tensor

from flowar import FlowAR, FlowARPipeline, Schedule, ops
from flowar.editing import inpaint, interpolate, outpaint, super_resolve, vary
from flowar.evaluation import compare_cards, evaluate, read_card
from flowar.images import image_grid, to_pil
from flowar.networks import (
    ARTransformer,
    AttnCrossMLPBlock,
    AttnMLPBlock,
    FlowTransformer,
    set_attention_backend,
    use_attention_backend,
)
from flowar.sampling import Evaluation, Pins, integrate, named_schedule, times_denser_near_data, uniform_times
from flowar.system import set_autotune
from flowar.tokenizers import AutoencoderTokenizer, ConvTokenizer, PixelTokenizer, load_tokenizer
from flowar.training import calibrate, train

NAN = float("nan")
GRID, LENGTHS = SMALL.grid, SMALL.scale_lengths
TOKENS, SCALES, LAST = SMALL.tokens, len(SMALL.grids), SMALL.scale_lengths[-1]

pixel = PixelTokenizer(image_channels=1, stride=2)
conv = ConvTokenizer(image_channels=1, channels=4, widths=(8, 16))
model = small_model(tokenizer=pixel.record(), num_inference_steps=2)
pipe = FlowARPipeline(model, pixel)
latents, labels = torch.zeros(2, 4, *GRID), torch.tensor([0, 1])
x, times, z = torch.zeros(2, LAST, 4), torch.zeros(2), torch.zeros(2, LAST, 32)
noise = [torch.zeros(2, n, 4) for n in LENGTHS]
masks = [torch.zeros(2, n, 1) for n in LENGTHS]
picture, mask = Image.new("L", (8, 8)), Image.new("L", (8, 8), 255)
state, euler = torch.zeros(1, 2, 3), [Evaluation(1.0, ((0, -1.0),))]


def tensors(right: Tensor) -> list[object]:
    """What comes in the place of a tensor: other things, shapes, dtypes and devices."""
    others = [None, "x", 0.5, [[1.0]], right.numpy(), {}]
    return [*others, right[None], right[..., :0], right.long(), right.cfloat(), right.half(), right.to("meta")]


def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[[], Any]:
    return partial(function, *arguments, **options)


def backend(name: Any) -> None:
    with use_attention_backend(name):
        pass


def each(function: Callable[[Any], Any], values: Sequence[object]) -> list[Callable[[], Any]]:
    return [call(function, value) for value in values]


CASES: dict[str, list[Callable[[], Any]]] = {
    "conditions": [
        *each(lambda value: model.conditions(value, labels), tensors(latents)),
        *each(lambda value: model.conditions(latents, value), [None, "x", times, labels[:1], [0, 9], [0, -1]]),
        *each(lambda value: model.conditions(latents, value), [[2**70, 0], [NAN, 0]]),
        call(model.conditions, latents, labels.to("meta")),
    ],
    "loss": [
        *each(lambda value: model.loss(value, labels), tensors(latents)),
        *each(lambda value: model.loss(latents, labels, noise=value), tensors(torch.zeros(2, TOKENS, 4))[1:]),
        *each(lambda value: model.loss(latents, labels, times=value), tensors(torch.zeros(SCALES, 2))[1:]),
        *each(lambda value: model.loss(latents, labels, dropped=value), [0.5, "x", times, labels, [True, False]]),
        *each(lambda value: model.loss(latents, labels, context_noise=value), [0.5, noise[0], x.long()]),
        *each(lambda value: model.loss(latents, labels, scale_exponent=value), [None, "x", NAN, times]),
    ],
    "velocity": [
        *each(lambda value: model.velocity(value, times, z), tensors(x)),
        *each(lambda value: model.velocity(x, value, z), tensors(times)),
        *each(lambda value: model.velocity(x, times, value), tensors(z)),
    ],
    "sample": [
        *each(model.sample, ["x", [], [0.5], [NAN, 0], [9], [-1], [5], [None, 9], [None, "x"], {}, labels.to("meta")]),
        *each(lambda value: model.sample(labels, seed=value), ["x", None, 1.5, NAN, [1, 2, 3], [None]]),
        *each(lambda value: model.sample(labels, schedule=value), [3, [1], {"a": 1}, "nope"]),
        *each(lambda value: model.sample(labels, noise=value), ["x", 3, x, [None] * SCALES, noise[:1]]),
        *each(lambda value: model.sample(labels, noise=[value(part) for part in noise]), [Tensor.long, Tensor.numpy]),
        call(model.sample, labels, noise=[part.to("meta") for part in noise]),
        *each(lambda value: model.sample(labels, dtype=value), ["x", 3, torch.int8]),
        *each(lambda value: model.sample(labels, naive=value), ["x", None]),
        *each(lambda value: model.sample(labels, progress=value), ["x"]),
        *each(lambda value: model.sample(labels, on_scale=value), ["x", 3]),
        *each(lambda value: model.sample(labels, on_evaluation=value), ["x", 3]),
        *each(lambda value: model.sample(labels, on_step_end=value), ["x", 3]),
        *each(lambda value: model.sample(labels, pins=value), ["x", 3, noise]),
        *each(
            lambda value: model.sample(labels, pins=Pins(*value)),
            [("x", "y"), (None, None), (noise, None), (noise, noise), (noise, [each + 2 for each in masks])],
        ),
        call(model.sample, labels, pins=Pins([part.long() for part in noise], masks)),
    ],
    "model": [
        *each(FlowAR, [None, 3, "S", {}]),
        *each(partial(setattr, model, "checkpointing"), ["x", None, [1]]),
        *each(model.precision, [[1], 3, "x"]),
    ],
    "files": [
        *each(FlowAR.from_pretrained, [None, 3, "nope", "a/b/c", ["x"], b"x", "\0", "x" * 5000, object()]),
        *each(FlowARPipeline.from_pretrained, [None, 3, "nope", ["x"], b"x", "\0"]),
        *each(lambda value: FlowAR.from_pretrained("flowar-fashion", dtype=value), [None, "float32", torch.int8]),
        *[
            call(FlowARPipeline.from_pretrained, "flowar-fashion", **{name: value})
            for name, values in {
                "torch_dtype": ["float16", torch.int8],
                "variant": ["fp16"],
                "use_safetensors": [False, "x"],
                "torch_dtyp": [torch.float16],
                "safety_checker": [None],
            }.items()
            for value in values
        ],
        call(FlowARPipeline.from_pretrained, "flowar-fashion", dtype=torch.float32, torch_dtype=torch.float16),
        call(FlowAR.from_pretrained, "flowar-fashion", torch_dtype=torch.float16),
        call(pipe.push_to_hub, "user/name", licence="mit"),
        *each(FlowAR.from_published, [None, 3, {}, {"a": 1}, {"a": state}, [state]]),
        *each(lambda value: FlowAR.from_published({}, value), ["float32", torch.int8]),
        *each(load_tokenizer, [None, 3, "nope", object()]),
        *each(AutoencoderTokenizer.from_diffusers, [None, 3]),
        *[call(each.save_pretrained, where) for each in (model, pipe, pixel) for where in (None, 3, b"x", "\0", "")],
        *each(lambda value: pipe.save_pretrained("unused", value), ["float32", 3, torch.int8, torch.complex64]),
    ],
    "pipeline": [
        *[call(FlowARPipeline, *pair) for pair in ((None, pixel), (model, None), (pixel, model), ("x", "y"))],
        *each(pipe, [1.5, [], "nope", [1, "nope"], [None, "nope"], [None, 9], [5], {}]),
        *each(lambda value: pipe(labels, seed=value), ["x", 1.5, [1, 2, 3], [None], torch.Generator()]),
        *each(lambda value: pipe(labels, generator=value), [3, "x", [3, 4], [torch.Generator()] * 3, []]),
        call(pipe, labels, seed=1, generator=torch.Generator()),
        *[call(pipe, labels, noise=noise, **other) for other in ({"seed": 1}, {"latents": latents})],
        *each(lambda value: pipe(labels, latents=value), tensors(latents)[1:-2]),
        *each(lambda value: pipe(labels, output_type=value), ["x", None, 3, "PIL"]),
        *each(lambda value: pipe(labels, return_dict=value), ["x", None, 1]),
        *each(lambda value: pipe(labels, num_images_per_prompt=value), ["x", None, 0, -1, 1.5, 10**12]),
        *each(lambda value: pipe(labels, callback_on_step_end=value), ["x", 3, lambda *_: 3]),
        *each(lambda value: pipe(labels, callback_on_step_end=lambda *_: {"latents": value}), [3, "x", latents[:1]]),
        *each(lambda value: pipe(labels, callback_on_step_end_tensor_inputs=value), ["latents", 3, ["prompt_embeds"]]),
        *[call(pipe, labels, **{name: 3}) for name in ("guidence_scale", "height", "class_label", "promt")],
        *each(lambda value: pipe.decode(latents, value), ["x", None, 3, "latent"]),
        *each(pipe.get_label_ids, ["nope", ["nope"], [None]]),
        *[call(pipe.set_progress_bar_config, **{name: 3}) for name in ("disabel", "x")],
        *[call(pipe.enable_model_cpu_offload, **at) for at in ({"device": "cpu"}, {"device": "nope"}, {"device": 3})],
        *each(lambda value: pipe(labels, preview=value), ["x", 3]),
        *each(pipe.to, [None, 3, "nope", "cuda:99", torch.int8, torch.complex64, torch.float8_e4m3fn]),
        *[call(pipe.to, *pair) for pair in (("cpu", "float32"), (torch.float32, torch.float32), ("x", torch.float32))],
        call(pipe.to, "cpu", silence=True),
        *each(pipe.prepack, ["nope", 3, torch.int8]),
        *each(pipe.decode, [None, "x", latents[0], latents[:, :3], latents[..., :0]]),
        *each(pipe.decode, [latents.long(), latents.to("meta")]),
        *[call(pipe.decode_tokens, tokens, 0) for tokens in (None, "x", x, state[0], noise[0].long())],
        *[call(pipe.decode_tokens, noise[0], scale) for scale in ("x", None, -1, 9, 0.5)],
    ],
    "tokenizers": [
        *[call(PixelTokenizer, *sizes) for sizes in (("x", 1), (1, "x"), (0, 2), (1, 0), (1, -1), (1, 1.5))],
        *each(lambda value: ConvTokenizer(1, 4, value), [(4, 8), (), "x", (8, "x"), None, 8, (8, 0), (8, -8)]),
        *[call(ConvTokenizer, *sizes) for sizes in (("x", 4), (0, 4), (1, 0), (1, 4.5))],
        *each(AutoencoderTokenizer, [None, 3, "x", torch.nn.Linear(1, 1)]),
        *[
            call(pixel.set_normalization, *numbers)
            for numbers in ((None, None), ("x", "y"), ([0], [1]), ([0] * 4, [NAN] * 4), ([0] * 4, [0] * 4), (3, 4))
        ],
        call(pixel.set_normalization, [1e300] * 4, [1] * 4),
        *each(PixelTokenizer.from_record, [None, 3, "x", {"a": 1}]),
        *each(ConvTokenizer.from_record, [None, 3, "x", {"a": 1}]),
        *each(AutoencoderTokenizer.from_record, [None, {}, {"vae": 3}]),
        *[
            call(encode, images)
            for encode in (pixel.encode, pixel.posterior, conv.encode)
            for images in (*tensors(torch.zeros(1, 1, 8, 8)), picture, torch.zeros(1, 1, 7, 8), torch.zeros(1, 3, 8, 8))
        ],
        *[
            call(decode, each)
            for decode in (pixel.decode, conv.decode, pixel.denormalize)
            for each in tensors(latents)
        ],
        *each(pixel.images_at_once, [None, "x", latents[0], latents[..., :0], latents.long()]),
        *each(lambda value: pixel.decode(latents, value), ["x", None, torch.int8]),
    ],
    "images": [
        *each(to_pil, [None, "x", state, torch.zeros(1, 2, 8, 8), torch.zeros(1, 1, 8, 8).byte(), [state]]),
        call(to_pil, torch.zeros(1, 1, 8, 8, device="meta")),
        *[call(image_grid, *grid) for grid in ((None, 1), ([], 1), ([picture], 0), ([picture], "x"), (["x"], 1))],
        *[call(image_grid, *grid) for grid in ((picture, 1), ([picture], 1.5), ([picture, Image.new("L", (9, 9))], 2))],
    ],
    "sampling": [
        *each(uniform_times, ["x", 0, -1, 1.5, None, NAN, True]),
        *each(lambda value: times_denser_near_data(3, value), ["x", NAN, 0, -1, None]),
        *each(lambda value: named_schedule(value, 3, 1.0, (0, 1)), ["nope", None, 3]),
        *each(lambda value: named_schedule("fast", value, 1.0, (0, 1)), ["x", 0, -1, None]),
        *each(Schedule([[1.0, 0.0], [1.0, 0.0]]).grid, ["x", -1, 2, None]),
        *each(Schedule([1.0, 0.0], solver=["euler", "heun"]).solver_of, ["x", -1, 2, None]),
        *[call(Schedule([1.0, 0.0]).evaluations, *which) for which in (("x", 3), (-1, 3), (3, 3), (0, None), (0, 0))],
        *[call(Schedule([1.0, 0.0]).guidance_weights, *which) for which in (("x", 3), (-1, 3), (3, 3), (0, None))],
        *each(Schedule([1.0, 0.0]).describe, ["x", 0, None]),
        *each(Schedule([1.0, 0.0]).check_scales, ["x", 0, None]),
        *each(lambda value: integrate(value, state, euler), [None, "x", lambda i: None, lambda i: state[..., :2]]),
        *each(lambda value: integrate(lambda i: state, value, euler), [None, "x", state[0], state.long()]),
        *each(
            lambda value: integrate(lambda i: state, state.clone(), value),
            [None, "x", [1], [Evaluation(1.0, ())], [Evaluation(1.0, ((1, 1.0),))], [Evaluation(1.0, ((-1, 1.0),))]],
        ),
        *each(lambda value: integrate(lambda i: state, state.clone(), euler, value), [["x"], [1.0, 1.0]]),
        *each(lambda value: integrate(lambda i: state, state.clone(), euler, None, value), ["x", times]),
        *each(lambda value: integrate(lambda i: state, state.clone(), euler, constrain=value), [3]),
        *each(lambda value: integrate(lambda i: state, state.clone(), euler, on_evaluation=value), [3]),
    ],
    "networks": [
        *each(set_attention_backend, ["nope", None, 3, ["sdpa"]]),
        *each(backend, ["nope", None, 3]),
        *each(ARTransformer, [None, 3, "S"]),
        *each(FlowTransformer, [None, 3, "S"]),
        *[call(AttnMLPBlock, *sizes, 32, False) for sizes in ((30, 4), ("x", 4), (32, 0))],
        call(AttnCrossMLPBlock, 64, 0, 32, False),
    ],
    "editing": [
        *each(lambda value: inpaint(value, picture, mask, 0), [None, "x", model]),
        *each(lambda value: outpaint(value, picture, (0, 0, 4, 4), 0), [None, "x", model]),
        *each(lambda value: vary(value, picture, 0, 1), [None, "x", model]),
        *each(lambda value: super_resolve(value, Image.new("L", (4, 4)), 0), [None, "x", model]),
        *each(lambda value: interpolate(value, (0, 1), (0, 1)), [None, "x", model]),
        *each(lambda value: inpaint(pipe, value, mask, 0), [None, "x", x, np.zeros((8, 8))]),
        *each(lambda value: inpaint(pipe, picture, value, 0), [None, "x", x]),
        *each(lambda value: outpaint(pipe, value, (0, 0, 4, 4), 0), [None, "x", x]),
        *each(lambda value: vary(pipe, value, 0, 1), [None, "x", x]),
        *each(lambda value: super_resolve(pipe, value, 0), [None, "x", x]),
        *each(
            lambda value: outpaint(pipe, picture, value, 0),
            [None, 3, (0, 0, 4), "abcd", (0, 0, NAN, 4), ("a", 0, 1, 1), (4, 4, 0, 0), (0, 0, 9, 9), (0.5, 0, 4, 4)],
        ),
        *each(lambda value: vary(pipe, picture, 0, value), ["x", None, -1, 9, 1.5, NAN]),
        *each(lambda value: interpolate(pipe, value, (0, 1)), [None, "x", (0,), (0, 1, 2), (0, None)]),
        *each(lambda value: interpolate(pipe, (0, 1), value), [None, "x", (0,), (0, "x"), (0, 0.5)]),
        *[
            call(edit, *arguments, count=count)
            for edit, arguments in ((inpaint, (pipe, picture, mask, 0)), (vary, (pipe, picture, 0, 1)))
            for count in (None, "x", 0, -1, 1.5, NAN)
        ],
        *each(lambda value: inpaint(pipe, picture, mask, 0, rounds=value), ["x", None, 0, 1.5]),
        *each(lambda value: inpaint(pipe, picture, mask, 0, paste=value), ["x", None]),
    ],
    "training and evaluation": [
        *each(train, [None, 3, "x", {}]),
        *each(evaluate, [None, 3, "x", {}]),
        *each(lambda value: calibrate(value, []), [None, 3, "x"]),
        *each(partial(calibrate, PixelTokenizer(1, 2)), [None, 3, ["x"], [state], [torch.zeros(2, 1, 8, 8)], []]),
        *each(read_card, [None, 3, "nope"]),
        *[call(compare_cards, card, card) for card in (None, 3, "x", {})],
        *each(set_autotune, ["x", None, 3]),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "bad", [pytest.param(bad, id=f"{part} {number}") for part, some in CASES.items() for number, bad in enumerate(some)]
)
def test_bad_call(bad: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(bad)
    assert not [*tmp_path.iterdir()]


def assert_refused(bad: Callable[[], Any]) -> str:
    """The message of a call that is refused, which is one line: what was expected, and what came or went wrong."""
    with pytest.raises((ValueError, TypeError)) as raised:
        bad()
    message = str(raised.value)
    assert "expected" in message
    assert "got" in message or "found" in message or "failed" in message, message
    assert "\n" not in message
    return message


RIGHT: dict[str, tuple[Any, ...]] = {
    "counter_normal": (torch.tensor([1, 2]), 0, 4),
    "geglu": (torch.zeros(2, 4),),
    "quantize_rows": (torch.zeros(2, 4),),
    "silu_add": (torch.zeros(2, 3), torch.zeros(2, 3)),
    "latent_pyramid": (torch.zeros(1, 3, 2, 2), [torch.zeros(2, 2)], [torch.zeros(2, 2)]),
    "latent_resample": (torch.zeros(1, 4, 3), torch.zeros(2, 2), torch.zeros(2, 2)),
    "rotary_qkv": (torch.zeros(1, 3, 24), torch.zeros(3, 2, 2), 2, 3),
    "rotary_qkv_cache": (torch.zeros(1, 3, 24), torch.zeros(3, 2, 2), 2, *torch.zeros(2, 1, 3, 2, 4), 0),
    "spatial_adaln": (state, torch.zeros(3), torch.zeros(3), "rms", 1e-6),
    "spatial_adaln_residual": (state, torch.zeros(3), state, torch.zeros(3), torch.zeros(3), "rms", 1e-6),
    "velocity_step": (state, state, 1.0, 1.0, state.clone()),
}


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name, right in RIGHT.items() for place in range(len(right))]
)
@pytest.mark.skipif(ops.reference_active(), reason="installed without the compiled ops")
def test_op(name: str, place: int) -> None:
    """Other types in the place of every argument: errors are ValueErrors, and RuntimeErrors as of any op of torch."""
    op, right = getattr(ops, name), RIGHT[name]
    op(*right)
    for wrong in ("x", {}, [None], 2**70, None, np.zeros(3)):
        if isinstance(right[place], float) and isinstance(wrong, int):
            continue  # large, but a number
        if wrong is None and name == "velocity_step" and place == 4:
            continue  # may be left out
        message = assert_refused(partial(op, *right[:place], wrong, *right[place + 1 :]))
        assert message.startswith((f"{name}: ", "norm: "))


def test_memory_that_is_out_is_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("expected more")

    monkeypatch.setattr(sys.modules["flowar.ops.geglu"], "_forward", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        ops.geglu(torch.zeros(2, 4))
