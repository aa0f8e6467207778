"""What is tried on GPUs that are not there: a function each, which gets ready and returns the work to watch.

The model lives on the second GPU while the first is the current one, so that what is made on "cuda" without saying
which one is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from conftest import small_model
from fake_cuda import PICTURES, READ, WAIT
from PIL import Image
from torch import Tensor
from training_runs import run_config

from flowar import FlowARPipeline, Schedule, ops
from flowar.editing.edits import inpaint, interpolate, super_resolve, vary
from flowar.networks.attention_backends import use_attention_backend
from flowar.networks.flow_transformer import BLOCKS, FlowTransformer
from flowar.sampling.pins import Pins
from flowar.sampling.solvers import SOLVERS
from flowar.system.ranks import Ranks
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.conv import ConvTokenizer
from flowar.tokenizers.pixel import PixelTokenizer
from flowar.training.draws import Draws
from flowar.training.state import TrainState
from flowar.training.step import Batch, TrainingStep

GPU = torch.device("cuda", 1)
PRECISIONS = ("float32", "tf32", "bfloat16", "float16", "fp8")
LABELS = [0, 3, 4]
SCHEDULE = Schedule((1, 0.5, 0), 2.0, (0.0, 0.5))
TIMES = (1, 0.8, 0.6, 0.3, 0)  # enough that every solver looks back

Work = Callable[[], object]


class Case(NamedTuple):
    """Work of one kind.

    Attributes:
        part: of the package.
        name: what is special.
        prepare: gets ready, and returns what is called twice: the first time may wait for the GPU.
        allowed: kinds of findings that are meant to be.
    """

    part: str
    name: str
    prepare: Callable[[], Work]
    allowed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.part}: {self.name}"


def sampling(block: str = "attn_cross_mlp", fields: dict[str, Any] | None = None, **options: Any) -> Work:
    model = small_model(flow_block=block, flow_depth=1, **fields or {}).to(GPU)
    options = {"schedule": SCHEDULE, "dtype": "bfloat16"} | options
    return lambda: model.sample(options.get("labels", LABELS), **{k: v for k, v in options.items() if k != "labels"})


def sampling_on_the_current_gpu() -> Work:
    model = small_model().to("cuda")
    return lambda: model.sample(LABELS, schedule=SCHEDULE)


def sampling_from_noise(device: torch.device | str, **options: Any) -> Work:
    noise = [torch.randn(3, n, 4, device=device) for n in small_model().config.scale_lengths]
    return sampling(noise=noise, **options)


def sampling_with_pins(device: torch.device | str, **options: Any) -> Work:
    """The first scale is pinned everywhere, the others in parts. Masks are on the host."""
    lengths = small_model().config.scale_lengths
    tokens = [torch.randn(3, n, 4).to(device) for n in lengths]
    masks = [torch.ones(1, n, 1) if k == 0 else torch.linspace(0, 1, n).view(1, n, 1) for k, n in enumerate(lengths)]
    return sampling(pins=Pins(tokens, masks), **options)


def sampling_with_labels_on_the_gpu(**options: Any) -> Work:
    return sampling(labels=torch.tensor(LABELS).to(GPU), **options)


def sampling_with_reference_ops() -> Work:
    work = sampling()

    def with_reference_ops() -> None:
        with ops.use_reference():
            work()

    return with_reference_ops


def sampling_with_attention_by(name: str) -> Work:
    work = sampling()

    def by_that() -> None:
        with use_attention_backend(name):
            work()

    return by_that


def teacher_forced(block: str, part: str, labels: Tensor | list[int] = LABELS, grad: bool = True) -> Work:
    model = small_model(flow_block=block).to(GPU).train()
    latents, z = torch.randn(3, 4, 4, 4).to(GPU), torch.randn(3, 4, 32).to(GPU)
    x_t, times, labels = torch.randn(3, 4, 4).to(GPU), torch.rand(3).to(GPU), torch.as_tensor(labels)
    calls: dict[str, Work] = {
        "loss": lambda: model.loss(latents, labels),
        "conditions": lambda: model.conditions(latents, labels),
        "velocity": lambda: model.velocity(x_t, times, z),
    }

    def forward() -> None:
        with torch.set_grad_enabled(grad):
            calls[part]()

    return forward


def training_step(**options: Any) -> Work:
    """All of a step but its backward pass, for which autograd's threads would need a driver."""
    model = small_model().to(GPU)
    config = run_config(Path("images"), Path("run"), **options)
    state = TrainState.new(model, config.optim)
    step = TrainingStep(state, config, Ranks(GPU), model)
    step._gradients = partial(losses_and_gradients, step)  # type: ignore[method-assign]
    batch = Batch(torch.randn(4, 4, 4, 4), torch.arange(4), Draws.for_images(0, 0, torch.arange(4)))
    return lambda: step(batch.to(GPU), 1e-3)


def losses_and_gradients(step: TrainingStep, batch: Batch) -> list[Any]:
    """What `TrainingStep._gradients` returns, with gradients that nobody computed."""
    step.state.model.train()
    for parameter in step.parameters:
        parameter.grad = torch.ones_like(parameter)
    return [step._loss(part) for part in batch.parts(2)]


def tokenizers() -> dict[str, Callable[[], Tokenizer]]:
    """One of every kind; those of diffusers where it is installed."""
    kinds: dict[str, Callable[[], Tokenizer]] = {
        "pixel": lambda: PixelTokenizer(3, 2),
        "conv": lambda: ConvTokenizer(3, 4, (8, 16, 16)).eval(),
    }
    try:
        from diffusers import AutoencoderDC, AutoencoderKL
    except ImportError:
        return kinds
    from flowar.tokenizers.autoencoder import AutoencoderTokenizer

    names = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    kl = partial(AutoencoderKL, block_out_channels=(32, 32), latent_channels=4, **names)
    sizes: dict[str, Any] = {"block_out_channels": (8, 16), "layers_per_block": (1, 1), "qkv_multiscales": ((), ())}
    sizes = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items()}
    dc = partial(AutoencoderDC, latent_channels=4, attention_head_dim=8, **sizes)
    return kinds | {
        "AutoencoderKL": lambda: AutoencoderTokenizer(kl()),
        "AutoencoderDC": lambda: AutoencoderTokenizer(dc()),
    }


def decoding(make: Callable[[], Tokenizer], dtype: torch.dtype, pixels: int | None = None) -> Work:
    tokenizer = make().to(GPU)
    latents = torch.randn(2, tokenizer.channels, 8, 8).to(GPU)
    for weight in tokenizer.decoder.parameters() if tokenizer.decoder is not None else ():
        assert weight.dim() != 4 or weight.is_contiguous(memory_format=torch.channels_last)
    if pixels is not None:
        tokenizer.decode_pixels = pixels
    return lambda: tokenizer.decode(latents, dtype)


def encoding(make: Callable[[], Tokenizer]) -> Work:
    tokenizer = make().to(GPU)
    images = torch.randn(2, tokenizer.image_channels, 16, 16).to(GPU)
    return lambda: tokenizer.posterior(images)


def pipeline() -> FlowARPipeline:
    tokenizer = ConvTokenizer(3, 4, (8, 16, 16)).eval()
    return FlowARPipeline(small_model(tokenizer=tokenizer.record()), tokenizer).to(GPU)


def pictures(**options: Any) -> Work:
    """The third call is the first that may do all from CUDA graphs."""
    pipe = pipeline()
    pipe(LABELS, schedule=SCHEDULE, **options)
    return lambda: pipe(LABELS, schedule=SCHEDULE, **options)


def returned(pipe: FlowARPipeline, index: int, time: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors


def editing(edit: Callable[..., Any], *arguments: Any) -> Work:
    pipe = pipeline()
    return lambda: edit(pipe, *arguments, schedule=SCHEDULE)


def planted(fault: Callable[[Tensor], Tensor], graphs: bool = False) -> Work:
    """Sampling with something wrong in every velocity."""
    watch = {} if graphs else {"on_evaluation": lambda *_: None}
    work, exact = sampling(**watch), FlowTransformer._velocity

    def faulty(*arguments: Any) -> Tensor:
        return fault(exact(*arguments))

    def with_the_fault() -> None:
        with mock.patch.object(FlowTransformer, "_velocity", faulty):
            work()

    return with_the_fault


def faults() -> Iterator[Case]:
    """What has to be found."""
    yield Case("planted", "the host reads a value", partial(planted, lambda v: v * float(v.sum())))
    yield Case("planted", "the host counts", partial(planted, lambda v: v[v > 0].new_zeros(v.shape)))
    yield Case("planted", "a tensor on the CPU", partial(planted, lambda v: v + torch.zeros(4)))
    yield Case("planted", "a tensor on the current GPU", partial(planted, lambda v: v + torch.zeros(4, device="cuda")))
    yield Case("planted", "a copy to the host", partial(planted, lambda v: v.cpu().to(v.device)))
    wait = partial(planted, lambda v: (torch.cuda.synchronize(), v)[1], graphs=True)
    yield Case("planted", "the host waits in a CUDA graph", wait)


def cases() -> Iterator[Case]:
    """Everything in which nothing is to be found, in the order of the table."""
    for block, precision in product(BLOCKS, PRECISIONS):
        yield Case("engine", f"{block}, {precision}", partial(sampling, block, dtype=precision))
    for solver in SOLVERS:
        yield Case("engine", f"solver {solver}", partial(sampling, schedule=Schedule(TIMES, 2.0, solver=solver)))
    yield Case("engine", "published steps", partial(sampling, schedule=None, num_inference_steps=2))
    yield Case("engine", "no guidance", partial(sampling, schedule=Schedule((1, 0))))
    yield Case("engine", "a seed for each image", partial(sampling, seed=[3, 1, 2]))
    yield Case("engine", "without a class", partial(sampling, schedule=Schedule(TIMES, 0.0)))
    for block in BLOCKS:
        watch = dict.fromkeys(("on_scale", "on_evaluation", "on_step_end"), lambda *_: None)
        yield Case("engine", f"{block}, every evaluation watched", partial(sampling, block, **watch))
    yield Case("engine", "queries and keys normed", partial(sampling, fields={"qk_norm": True}))
    yield Case("engine", "plain PyTorch for the ops", sampling_with_reference_ops)
    yield Case("engine", "attention by its definition", partial(sampling_with_attention_by, "reference"))
    yield Case("engine", "the current GPU, default dtype", sampling_on_the_current_gpu)
    for naive, path in ((False, "engine"), (True, "naive path")):
        yield Case(path, "noise on the GPU", partial(sampling_from_noise, GPU, naive=naive))
        yield Case(path, "noise on the host", partial(sampling_from_noise, "cpu", naive=naive))
        yield Case(path, "pins on the GPU", partial(sampling_with_pins, GPU, naive=naive))
        yield Case(path, "pins on the host", partial(sampling_with_pins, "cpu", naive=naive))
        yield Case(path, "labels on the GPU", partial(sampling_with_labels_on_the_gpu, naive=naive))
    for block, precision in product(BLOCKS, PRECISIONS[:-1]):  # there is no naive fp8
        yield Case("naive path", f"{block}, {precision}", partial(sampling, block, dtype=precision, naive=True))
    yield Case("naive path", "every evaluation watched", partial(sampling, naive=True, on_evaluation=lambda *_: None))
    for part, block in product(("loss", "conditions", "velocity"), BLOCKS):
        yield Case(part, block, partial(teacher_forced, block, part))
    yield Case("loss", "without gradients", partial(teacher_forced, "attn_mlp", "loss", grad=False))
    for precision in ("float32", "tf32", "bf16"):
        name = f"{precision}, without backward"
        # Whether a step is to be skipped is up to the norm of its gradient, which the host reads.
        yield Case("training step", name, partial(training_step, precision=precision), (READ,))
    for kind, make in tokenizers().items():
        for dtype in (torch.float32, torch.bfloat16):
            yield Case("decoding", f"{kind}, {str(dtype).removeprefix('torch.')}", partial(decoding, make, dtype))
        yield Case("decoding", f"{kind}, in tiles", partial(decoding, make, torch.float32, 64))
        yield Case("encoding", kind, partial(encoding, make))
    yield Case("pipeline", "pictures", pictures, (PICTURES,))
    yield Case("pipeline", "pictures as a tensor", partial(pictures, output_type="pt"))
    yield Case("pipeline", "a callback of diffusers", partial(pictures, callback_on_step_end=returned), (PICTURES,))
    yield Case("pipeline", "preview of scales", partial(pictures, preview=lambda *_: None), (PICTURES,))
    steps = partial(pictures, preview=lambda *_: None, preview_steps=True)
    yield Case("pipeline", "preview of evaluations", steps, (PICTURES,))
    yield Case("pipeline", "preview, naive path", partial(pictures, preview=lambda *_: None, naive=True), (PICTURES,))
    image, mask = Image.new("RGB", (16, 16)), Image.new("L", (16, 16))
    mask.paste(255, (4, 4, 12, 12))
    # Pictures come from the host, once before all sampling.
    for name, edit, *arguments in (
        ("inpaint", inpaint, image, mask, 1, 2),
        ("vary", vary, image, 1, 1, 2),
        ("super_resolve", super_resolve, image.resize((8, 8)), 1, 2),
        ("interpolate", interpolate, (0, 1), (2, 3), 2),
    ):
        yield Case("editing", name, partial(editing, edit, *arguments), (PICTURES, WAIT))
