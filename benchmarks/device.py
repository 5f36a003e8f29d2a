"""What a GPU changes: many pairs at once, half precision, and a network of Stable Diffusion's size.

    python -m benchmarks.device --outdir benchmarks/results [--only pairs,unet,sd] [--device cuda]

    pairs   64 pairs of digits on the shipped network at once, and some of them alone
    unet    evaluations of the 31M-parameter U-Net at 64 x 64: float32, bfloat16, compiled
    sd      a geodesic through a U-Net of the true shapes of Stable Diffusion 1.5 (860M parameters,
            latents of 4 x 64 x 64, 77 x 768 prompts, random weights), by evaluations alone; and a
            step of the recipe of 2505.17517, which differentiates through the network

Random weights have no geometry: what is measured is time and memory.  One JSON file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.problems import unet as unet_problem
from benchmarks.record import RESULTS, write
from diffodesic import Spacetime, from_network, load, shipped_digits
from diffodesic.denoisers import NetworkOptions
from diffodesic.denoisers.schedules import Tabulated
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.solvers.reference.adam_spline import AdamSpline
from diffodesic.images.placement import JoinOptions, Placement, place
from diffodesic.images.spaces import SPACES
from diffodesic.metrics.one_level import NETWORK_SEARCH

PAIRS, ALONE = 64, 2


def main() -> None:
    """Measure what was asked for and write ``device.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outdir", type=Path, default=RESULTS)
    parser.add_argument("--only", default="pairs,unet,sd")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small shapes, to rehearse")
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "small": options.small}
    for what in options.only.split(","):
        began = time.monotonic()
        results[what] = {"pairs": pairs, "unet": unet, "sd": stable_diffusion}[what](
            device, options.small
        )
        results[what]["seconds in all"] = time.monotonic() - began
        print(what, json.dumps(results[what]), flush=True)
        write(options.outdir / "device.json", results, indent=1)


def clock(device: torch.device, call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a call returns, its seconds and its peak memory in MiB."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - began
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else float("nan")
    return result, seconds, peak


def pairs(device: torch.device, small: bool) -> dict[str, Any]:
    """Geodesics of 64 pairs at once against single solves, in spacetime and the score metric."""
    count = 4 if small else PAIRS
    model = load("mnist", device=device)
    digits = shipped_digits()[0].double().to(device)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    chosen = digits[order.repeat(2)[: 2 * count]].reshape(count, 2, 1, 28, 28)
    table: dict[str, Any] = {"pairs": count}
    for name in ("score", "spacetime"):
        there = place(model, SPACES[name](), chosen, JoinOptions(flow_steps=8))
        solver = NETWORK_SEARCH if not small else replace(NETWORK_SEARCH, iterations=2)

        solve = partial(_joined, there, solver)
        solve(slice(0, 1))  # kernels are chosen on the first call
        path, together, peak = clock(device, partial(solve, slice(0, count)))
        single = [clock(device, partial(solve, slice(i, i + 1))) for i in range(ALONE)]
        lengths = torch.stack([one.length[0] for one, _, _ in single])
        apart = (lengths / path.length[:ALONE] - 1).abs()
        alone = sum(seconds for _, seconds, _ in single) / ALONE
        table[name] = {
            "seconds per pair, together": together / count,
            "seconds per pair, alone": alone,
            "ratio": together / count / alone,
            "largest difference of lengths": float(apart.max()),
            "peak MiB": peak,
            "statuses": sorted({s.name for s in path.statuses}),
        }
    return table


def _joined(there: Placement, solver: Any, which: slice) -> Any:
    a, b = there.points[which].unbind(1)
    return there.geodesic(a, b, nodes=16, solver=solver)


def unet(device: torch.device, small: bool) -> dict[str, Any]:
    """Evaluations per second of the 31M U-Net: float32, bfloat16, compiled."""
    denoiser = unet_problem().space.denoiser  # type: ignore[attr-defined]
    denoiser.fn.to(device)
    batch = 4 if small else 128
    z = torch.randn(batch, denoiser.dim, device=device)
    sigma = torch.ones(batch, device=device)
    plain = replace(denoiser, chunk=batch, device=device)
    half = replace(plain, autocast=torch.bfloat16)
    ways = {"float32": plain, "bfloat16": half}
    if not small:
        ways["bfloat16, compiled"] = replace(half, fn=torch.compile(denoiser.fn))
    table: dict[str, Any] = {"batch": batch}
    exact: Tensor | None = None
    for name, variant in ways.items():
        with torch.no_grad():
            _, first, _ = clock(device, partial(variant, z, sigma))
            evaluations = partial(_repeat, partial(variant, z, sigma))
            outputs, seconds, peak = clock(device, evaluations)
        exact = outputs[-1] if exact is None else exact
        table[name] = {
            "evaluations per second": 5 * batch / seconds,
            "first call, s": first,
            "peak MiB": peak,
            "relative difference": float((outputs[-1] - exact).norm() / exact.norm()),
        }
    return table


def _repeat(evaluation: Callable[[], Tensor]) -> list[Tensor]:
    return [evaluation() for _ in range(5)]


def stable_diffusion(device: torch.device, small: bool) -> dict[str, Any]:
    """Seconds and memory of a geodesic through a U-Net of Stable Diffusion 1.5's shapes."""
    kind = import_module("diffusers").UNet2DConditionModel
    shape: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
    if small:
        shape = {
            "sample_size": 16,
            "cross_attention_dim": 16,
            "block_out_channels": (32, 32, 32, 32),
        }
    with torch.device(device):
        network = kind(**shape).eval().requires_grad_(False)
    side, width = shape["sample_size"], shape["cross_attention_dim"]
    prompt = torch.randn(77, width, device=device)
    fn = _Conditional(network)
    table: dict[str, Any] = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "nodes": 8,
    }
    for name, autocast in (("float32", None), ("bfloat16", torch.bfloat16)):
        denoiser = from_network(
            fn,
            shape=(4, side, side),
            schedule=Tabulated.scaled_linear(),
            prediction="eps",
            jvp_mode="finite-difference",
            options=NetworkOptions(
                condition={"encoder_hidden_states": prompt}, chunk=8, autocast=autocast
            ),
        )
        space = Spacetime(denoiser, probes=1, gradient="forward", log_snr_range=(-4.0, 5.0))
        generator = torch.Generator().manual_seed(0)
        ends = torch.randn(2, denoiser.dim, generator=generator, dtype=torch.float64).to(device)
        a, b = space.point(ends, 2.0)
        batch = torch.randn(8, denoiser.dim, device=device)
        with torch.no_grad():
            denoiser(batch, torch.ones(8, device=device))
            ones = torch.ones(8, device=device)
            _, inference, least = clock(device, partial(denoiser, batch, ones))
        solver = replace(NETWORK_SEARCH, iterations=2, splines=None)
        solve = partial(search, space, a, b, nodes=8, solver=solver, refine=1)
        path, seconds, peak = clock(device, solve)
        table[name] = {
            "seconds": seconds,
            "evaluations": path.evaluations,
            "node gradients": path.node_gradients,
            "evaluations per second": path.evaluations / seconds,
            "share inside the network": path.evaluations * inference / 8 / seconds,
            "peak MiB": peak,
            "peak MiB of one batch of 8": least,
            "status": path.status.name,
        }
        if autocast is None:
            table["recipe"] = _recipe_step(device, denoiser, ends)

    return table


def _recipe_step(device: torch.device, denoiser: Any, ends: Tensor) -> dict[str, Any]:
    """Seconds of one energy gradient at the recipe's 16 points, by reverse mode."""
    exact = replace(denoiser, jvp_mode="double-vjp", chunk=1)
    space = Spacetime(exact, probes=1, gradient="reverse", log_snr_range=(-4.0, 5.0))
    a, b = space.point(ends, 2.0)
    path = torch.lerp(a, b, torch.linspace(0, 1, 4).to(a).unsqueeze(-1)).unsqueeze(0)
    try:
        _, seconds, peak = clock(device, lambda: space.energy().evaluate(path))
    except torch.OutOfMemoryError as error:
        return {"failed": str(error)[:200]}
    gradients = sum(points * steps for points, steps in AdamSpline.images().schedule)
    return {
        "seconds per node gradient": seconds / 4,
        "peak MiB at 4 nodes": peak,
        "node gradients of the whole recipe": gradients,
        "hours of the whole recipe, extrapolated": gradients * seconds / 4 / 3600,
    }


class _Conditional(torch.nn.Module):
    """A conditional U-Net as ``fn(x, t, encoder_hidden_states)``."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, *, encoder_hidden_states: Tensor) -> Tensor:
        return self.network(x, t, encoder_hidden_states, return_dict=False)[0]


if __name__ == "__main__":
    main()
