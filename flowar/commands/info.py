"""`flowar info`: what is installed, what the machine can do, what a model is made of."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from flowar.commands import say
from flowar.system.fields import checks_fields
from flowar.system.rules import Place

if TYPE_CHECKING:
    from flowar.model import FlowAR


@dataclass
@checks_fields
class Options:
    """Describe the installation, the machine and, if asked, a model.

    Attributes:
        model: shipped name, folder, or Hub id to describe as well.
        json: whether to print JSON.
    """

    model: Place | None = None
    json: bool = False


def run(options: Options) -> None:
    """Print the facts, one per line or as JSON."""
    facts = machine_facts() | (model_facts(options.model) if options.model else {})
    if options.json:
        say(*json.dumps(facts, indent=2).splitlines())
        return
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        say(f"{name:<{width}}{value}")


def machine_facts() -> dict[str, Any]:
    """The versions, the processors, and what serves the ops."""
    import torch

    from flowar import __version__, ops
    from flowar.engine.onednn_linear import supported
    from flowar.networks.attention_backends import backend_report
    from flowar.system.precision import default_device, native_bfloat16, resolve_precision
    from flowar.system.threads import describe_limit

    device = default_device()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    prepacked = [name for name in ("float32", "bfloat16") if supported(getattr(torch, name))]
    return {
        "flowar": __version__,  # also where the package is used from its sources, without having been installed
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ops": ops.implementation(),
        "cuda kernels": ", ".join(ops.cuda_kernels()) or "none",
        "cpu": torch.cpu.get_capabilities().get("cpu_name", platform.machine()),
        "cpu threads": torch.get_num_threads(),
        "cpu threads set by": describe_limit(),
        "gpu": gpu,
        "cpu prepacked weights": ", ".join(prepacked) or "none",
        "native bfloat16": "yes" if native_bfloat16(device) else "no",
        "dtype auto": resolve_precision("auto", device, torch.float32).name,
        **backend_report(device),
        "optional packages": ", ".join(optional_packages()) or "none",
    }


def optional_packages() -> list[str]:
    """The optional packages that are installed, with their versions."""
    found = []
    for name in ("diffusers", "tensorboard"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found


def model_facts(name: str) -> dict[str, Any]:
    """The configuration and the size of a model and, on a GPU, the fastest kernels for one image of it."""
    from flowar.model import FlowAR

    model = FlowAR.from_pretrained(name)
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"model": name, "parameters": f"{count / 1e6:.1f} M"} | model.config.to_dict() | measured_kernels(model)


def measured_kernels(model: FlowAR) -> dict[str, str]:
    """The kernels that were measured to be fastest for one image on this machine; none without a GPU."""
    import torch

    from flowar.engine.plan import InferencePlan
    from flowar.sampling.callbacks import Callbacks
    from flowar.sampling.noise import image_seeds
    from flowar.system.autotune import gpu_tuner
    from flowar.system.precision import default_device

    device = default_device()
    if gpu_tuner(device) is None:
        return {}
    model.to(device)
    plan = InferencePlan(model.ar_transformer, model.flow_transformer, model.pyramid, model.config, "auto")
    labels = torch.zeros(1, dtype=torch.int64, device=device)
    plan.sample(labels, model.schedule(), image_seeds(0, 1).to(device), Callbacks())
    return {call: str(choice) for call, choice in plan.report().choices.items()}
