"""How fast the scale-causal attention of a training pass is: a dense attention a scale, a mask, FlexAttention, varlen.

    python benchmarks/attention_speed.py
    python benchmarks/attention_speed.py --models L --batch-sizes 32 128 --dtype bfloat16

Each must agree with the masked attention in float64; otherwise the exit code is 1. README.md explains the numbers.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, product
from pathlib import Path
from typing import Any

import torch
from naive_training import masked_attention
from op_calls import Call, gradients
from ops_speed import check, choose_clock
from record import device_of, dtype_name, save_results, settings_of
from tables import table
from timing import Times, summary
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn
from training_rows import ATTENTION_HEADER, attention_rows

from flowar import FlowARConfig
from flowar.config import PRESETS
from flowar.errors import first_line
from flowar.networks.attention import scale_attention
from flowar.networks.flops import BACKWARD, attention
from flowar.system.precision import parse_dtype

MASK = "mask"
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v [B, S, H, d] to [B, S, H * d]


def main() -> None:
    options = parse_arguments()
    device = device_of(options)
    dtype = parse_dtype(options.dtype) or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    settings = settings_of(options) | {"dtype": dtype_name(dtype)}
    values: dict[str, Any] = {"settings": settings, "results": [], "skipped": []}

    def save() -> Path:
        return save_results("attention_speed", device, options.output, values)

    for model, batch in product(options.models, options.batch_sizes or [32 if device.type == "cuda" else 2]):
        values["results"] += measure(model, batch, dtype, device, options.seconds, values["skipped"])
        save()
    print(table(ATTENTION_HEADER, [row for result in values["results"] for row in attention_rows(result)]))
    for reason in values["skipped"]:
        print(f"skipped: {reason}")
    print(save())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of the AR transformer's attention over all scales.")
    parser.add_argument("--models", nargs="+", choices=list(PRESETS), default=["S", "L"], help="whose shapes")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="by default 32 on a GPU, 2 on a CPU")
    parser.add_argument("--dtype", help="float32 bfloat16 float16; by default bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--seconds", type=float, default=3, help="to measure each pass of each shape for")
    parser.add_argument("--output", type=Path, help="JSON file; by default in benchmarks/results")
    return parser.parse_args()


def measure(
    model: str, batch: int, dtype: torch.dtype, device: torch.device, seconds: float, skipped: list[str]
) -> Iterator[dict[str, Any]]:
    """Results of both directions, in those ways that work here. The program ends if one of them errs more than twice as
    much as the mask does, both against float64."""
    config = FlowARConfig.preset(model)
    call, clock = attention_call(config, batch, dtype, device), choose_clock(True, device)
    for direction, run_of in (("forward", forward), ("backward", gradients)):
        exact, eager = (run_of(call, masked(config, device), convert)() for convert in (torch.Tensor.double, keep))
        runs = {}
        for name, make in ways(config, batch, device).items():
            try:
                run = run_of(call, make())
                ours = run()
            except Exception as error:  # whatever a compiler, or a kernel that refuses, raises
                reason = first_line(error).split(". ")[0]
                skipped.append(f"{model}, {direction}, {name}: {type(error).__name__}: {reason}")
            else:
                check(f"{model}, {direction}, {name}", ours, eager, exact, slack=4)
                runs[name] = run
        operations = flops(config, batch) * (1 if direction == "forward" else BACKWARD)
        yield from results(model, batch, direction, clock(runs, seconds), operations)


def results(model: str, batch: int, direction: str, times: Times, operations: int) -> Iterator[dict[str, Any]]:
    """What is recorded of one direction; ratios are medians over the turns, as in training_speed.py."""
    for name, seconds in times.items():
        ratios = [mask / own for mask, own in zip(times[MASK], seconds, strict=False)]
        case = {"model": model, "batch": batch, "pass": direction, "way": name}
        rate = operations / statistics.median(seconds) / 1e12
        yield case | summary(seconds) | {"tflops": rate, "speed_up": statistics.median(ratios)}


def attention_call(config: FlowARConfig, batch: int, dtype: torch.dtype, device: torch.device) -> Call:
    """q, k, v as the model has them: one tensor."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (3, batch, config.tokens, config.ar_heads, config.ar_width // config.ar_heads)
    packed = torch.randn(shape, generator=generator, device=device).to(dtype)
    return Call("attention", "scale-causal", batch * config.tokens, (packed,), 0, differentiable=(0,))


def flops(config: FlowARConfig, batch: int) -> int:
    """Of one forward pass: every scale's queries with the keys that they see."""
    lengths = config.scale_lengths
    return batch * sum(attention(config.ar_width, n, end) for n, end in zip(lengths, accumulate(lengths), strict=True))


def forward(
    call: Call, attend: Attend, convert: Callable[[Tensor], Tensor] = lambda x: x
) -> Callable[[], Sequence[Tensor]]:
    """The result of the call, again at every call of what is returned."""
    arguments = [convert(x) for x in call.arguments]

    @torch.no_grad()
    def run() -> list[Tensor]:
        return [attend(*arguments)]

    return run


def keep(x: Tensor) -> Tensor:
    return x


def ways(config: FlowARConfig, batch: int, device: torch.device) -> dict[str, Callable[[], Attend]]:
    """How to compute it, made when called."""
    return {
        MASK: lambda: masked(config, device),
        "prefixes": lambda: partial(scale_attention, lengths=config.scale_lengths, causal=True),
        "FlexAttention": lambda: flex(config, device),
        "varlen": lambda: varlen(config, batch, device),
    }


def scales(config: FlowARConfig, device: torch.device) -> Tensor:
    """The scale of every token, [S]."""
    lengths = torch.tensor(config.scale_lengths, device=device)
    return torch.arange(len(lengths), device=device).repeat_interleave(lengths)


def masked(config: FlowARConfig, device: torch.device) -> Attend:
    """`scaled_dot_product_attention` under a dense mask."""
    scale = scales(config, device)
    mask = scale[:, None] >= scale
    return lambda qkv: masked_attention(*qkv.unbind(), mask)


def flex(config: FlowARConfig, device: torch.device) -> Attend:
    """FlexAttention, compiled, with blocks that nobody sees left out."""
    scale, tokens = scales(config, device), config.tokens
    mask = create_block_mask(lambda b, h, i, j: scale[i] >= scale[j], None, None, tokens, tokens, str(device))
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = qkv.transpose(2, 3).unbind()
        return compiled(q, k, v, block_mask=mask).transpose(1, 2).flatten(2)

    return attend


def varlen(config: FlowARConfig, batch: int, device: torch.device) -> Attend:
    """One call over the scales of all images as sequences; keys and values are copied, once for each scale that sees
    them, as backward needs sequences that do not overlap."""
    lengths, tokens = config.scale_lengths, config.tokens
    ends = list(accumulate(lengths))
    rows = torch.cat([torch.arange(end) for end in ends])
    seen = (torch.arange(batch)[:, None] * tokens + rows).flatten().to(device)
    starts_q, starts_k = (
        torch.tensor([0, *accumulate(sizes * batch)], dtype=torch.int32, device=device)
        for sizes in (list(lengths), ends)
    )

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = qkv.flatten(1, 2).unbind()
        out = varlen_attn(q, k[seen], v[seen], starts_q, starts_k, max(lengths), ends[-1])
        return out.view(batch, tokens, -1)

    return attend


if __name__ == "__main__":
    main()
