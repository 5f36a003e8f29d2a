r"""``spacetime/pullback``: geodesics of the deterministic decoder decode to chords (2505.17517).

Three clusters in the plane; latents at log SNR -4; the probability-flow ODE F decodes them.  The
geodesic of the pulled back metric is the preimage of the straight line between the decoded ends: it
crosses whatever lies between the clusters.  The spacetime geodesic between the same data goes
through noise instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.denoisers.flow import drop, lift
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.experiments.experiment import Context, Number, Outcome
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.metrics.counterexamples import decoded_chord, decoder_pullback
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.output.figures import canvas

__all__ = ["Settings", "clusters", "run"]


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    log_snr: float = -4.0  # noise level of the latents
    # the two data points, decoded from their latents
    ends: tuple[tuple[float, float], tuple[float, float]] = ((-1.9, 0.2), (1.2, -1.1))
    nodes: int = 64  # segments of the preimage of the chord
    ode_steps: int = 256  # steps of the ODE, each way
    solved_nodes: int = 6  # segments of the path that a solver finds by itself
    solved_steps: int = 16  # steps of the ODE in the solver's metric
    anchor: float = 3.0  # log SNR of the ends of the spacetime geodesic


def clusters() -> GaussianMixture:
    """Three round clusters in the plane, in float64."""
    means = torch.tensor([[-1.8, 0.0], [0.9, 1.5], [1.2, -1.3]], dtype=torch.float64)
    return GaussianMixture(means, std=0.5)


def run(context: Context) -> Outcome:
    """Decode the geodesic of the pullback, and let a solver find it, in 10^6 evaluations."""
    settings = context.settings(Settings(), nodes=16, ode_steps=48, solved_nodes=4, solved_steps=8)
    mixture, level = clusters(), settings.log_snr
    ends = torch.tensor(settings.ends, dtype=torch.float64)
    context.part("the preimage of the chord", of=3)
    # the straight line between these latents does not decode to the chord
    latents = lift(mixture, ends, level, steps=settings.ode_steps)
    path = decoded_chord(
        mixture, *latents, log_snr=level, nodes=settings.nodes, steps=settings.ode_steps
    )
    decoded = decoder_pullback(mixture, log_snr=level, steps=settings.ode_steps).f(path)
    context.part("a solver in the pulled back metric", of=3)
    metric = decoder_pullback(mixture, log_snr=level, steps=settings.solved_steps)
    solved = search(metric, *latents, nodes=settings.solved_nodes, solver=Relax(rtol=1e-10))
    context.part("the spacetime geodesic", of=3)
    space = Spacetime(mixture)
    through = search(space, *space.point(ends, settings.anchor), nodes=64)
    log_density = _log_density(mixture, decoded)
    numbers = (
        *_chord_numbers("preimage of the chord", decoded),
        *_chord_numbers("found by a solver", metric.f(solved.nodes)),
        Number("lowest log density on the chord", float(log_density.min())),
        Number("log density at the ends, lower one", float(log_density[[0, -1]].min())),
        Number("lowest log SNR on the spacetime geodesic", float(through.nodes[:, -1].min())),
    )
    notes = (
        "Length / chord is 1 for every geodesic of the pullback: its decoded image is a straight "
        "line, whatever the data are. What is left is the error of the ODE solved there and back.",
        f"The solver started from the straight line between the latents; it ended with: "
        f"{solved.status.value}",
        "Log densities are of data with noise of standard deviation .01.",
    )
    arrays = {"latents": path, "decoded": decoded, "spacetime (z, log SNR)": through.nodes}
    return Outcome(
        settings, numbers, notes, arrays, lambda file: _draw(file, mixture, path, decoded, through)
    )


def _chord_numbers(name: str, decoded: Tensor) -> list[Number]:
    chord = (decoded[-1] - decoded[0]).norm()
    line = torch.lerp(
        decoded[0], decoded[-1], torch.linspace(0, 1, len(decoded))[:, None].to(decoded)
    )
    length = decoded.diff(dim=0).norm(dim=-1).sum()
    away = (decoded - line).norm(dim=-1).max()
    return [
        Number(f"{name}: length / chord - 1", float(length / chord) - 1, expected=0.0),
        Number(
            f"{name}: largest distance from the chord / chord", float(away / chord), expected=0.0
        ),
    ]


def _log_density(mixture: GaussianMixture, x: Tensor) -> Tensor:
    return mixture.log_density(x, x.new_full((len(x),), 0.01))


def _draw(
    path: Path, mixture: GaussianMixture, latents: Tensor, decoded: Tensor, through: Geodesic
) -> None:
    """Latent space, and data space with both decoded paths."""
    with canvas(path, columns=2, width=5) as (left, right):
        left.plot(*latents.T, "C0", label="geodesic of the pullback")
        left.plot(*latents[[0, -1]].T, "k:", label="straight line")
        left.plot(*latents[[0, -1]].T, "ko", ms=4)
        left.set(title="latents", aspect="equal")
        left.legend(loc="best")
        grid = torch.stack(torch.meshgrid(*[torch.linspace(-3.2, 3.2, 161)] * 2, indexing="xy"), -1)
        density = _log_density(mixture, grid.double().reshape(-1, 2)).exp().reshape(161, 161)
        right.contourf(*grid.unbind(-1), density.numpy(), levels=12, cmap="Greys")
        right.plot(*decoded.T, "C0", label="geodesic of the pullback, decoded")
        nodes = through(torch.linspace(0, 1, 33, dtype=torch.float64))
        clean = drop(mixture, nodes[:, :-1], nodes[:, -1], steps=64)
        right.plot(*clean.T, "C3.-", label="spacetime geodesic, each point decoded")
        right.plot(*decoded[[0, -1]].T, "ko", ms=4)
        right.set(title="data: the decoded geodesic is a chord", aspect="equal")
        right.legend(loc="upper left")
