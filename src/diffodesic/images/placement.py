"""Images placed in a space: what every verb that joins images does first.

images --Space.lifting, Lifting.lift--> points at one level --Space.metric--> a metric there
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.energy import Solver
from diffodesic.geometry.metric import Metric
from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.solvers.limits import limited
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.status import Status
from diffodesic.images.lifting import Lifting
from diffodesic.images.spaces import Space
from diffodesic.models.model import Model
from diffodesic.numerics.cost import Cost
from diffodesic.output.manifest import Run
from diffodesic.output.options import Options, option
from diffodesic.output.stages import fingerprint

__all__ = ["REFINE", "JoinOptions", "Placement", "doubts", "path_record", "place", "run_of"]

REFINE = 4  # of the certificate, and of the lengths of the baselines


@dataclass(frozen=True, kw_only=True)
class JoinOptions(Options):
    """Options of every verb that joins images by a geodesic.

    Args:
        flow_steps: steps of the probability-flow ODE each way.
        seed: seed of everything random.
        iterations: limit on the rounds of the search, in whole judgements where it has these;
            default that of the metric's own search.
        rtol: tolerance of the search; default that of the metric's own.
        solver: the solver; default that of the metric's energy.
    """

    flow_steps: int = option(24, least=1, most=10_000)
    seed: int = option(0, least=0, most=2**63 - 1)
    iterations: int | None = option(None, least=1)
    rtol: float | None = option(None, above=0)
    solver: Solver | None = option(None, flag=False)

    def search(self, metric: Metric, default: Solver | None = None) -> Solver:
        """The solver that the options ask for in a metric.

        Args:
            metric: whose energy has a solver of its own.
            default: what stands for that of an energy without one; default ``Relax()``.

        Returns:
            the solver, with the limits that were given.

        Raises:
            ValueError: for limits that the solver does not have.
        """
        solver = self.solver or metric.energy().default_solver or default or Relax()
        return limited(solver, self.iterations, self.rtol)


@dataclass(frozen=True)
class Placement:
    """Images as points of a space, the metric that joins them, and the way back.

    Attributes:
        space: the space.
        lifting: between images and the level of the space.
        z: the images at that level, (..., D).
    """

    space: Space
    lifting: Lifting
    z: Tensor

    @cached_property
    def metric(self) -> Metric:
        """The metric of the space between these images."""
        lifting = self.lifting
        return self.space.metric(lifting.model.denoiser, self.z, lifting.log_snr, seed=lifting.seed)

    @property
    def points(self) -> Tensor:
        """The images as points (..., d) of the metric."""
        return self.pack(self.z)

    def pack(self, z: Tensor) -> Tensor:
        """Points (..., d) of the metric for points z (..., D) at the level."""
        return self.space.pack(self.metric, z, self.lifting.log_snr)

    def unpack(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points (..., d) of the metric as z (..., D) and their levels (...)."""
        return self.space.unpack(self.metric, points, self.lifting.log_snr)

    def images(self, points: Tensor) -> Tensor:
        """Images (..., C, H, W) of points (..., d) of the metric; see :meth:`Lifting.images`."""
        return self.lifting.images(*self.unpack(points))

    def described(self) -> dict[str, Any]:
        """What a result says of the model, the level and the metric, for JSON."""
        model = self.lifting.model
        level = {"log_snr": self.lifting.log_snr}
        return {"model": model.name, **model.words, **self.space.described(self.metric), **level}

    def geodesic(
        self,
        a: Tensor,
        b: Tensor,
        *,
        nodes: int = 32,
        solver: Solver | None = None,
        init: Tensor | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Geodesic:
        """As :func:`geodesic`, between points (..., d) of the metric, but without its warning."""
        # every result notes a path that did not end well: see doubts
        say = progress or (lambda _: None)
        return search(
            self.metric,
            a,
            b,
            nodes=nodes,
            solver=solver,
            init=init,
            refine=REFINE,
            progress=lambda text, _: say(text),
        )


def place(
    model: Model, space: Space, images: Tensor, options: JoinOptions | None = None
) -> Placement:
    """Lift images to the level of a space.

    Args:
        model: the model.
        space: the space.
        images: (..., C, H, W) in [0, 1].
        options: steps of the flow and seed; default ``JoinOptions()``.

    Returns:
        the images as points.

    Raises:
        ValueError: for images that do not fit the model, or a level outside its range.

    Cost: ``2 flow_steps`` evaluations per image.
    """
    asked = options or JoinOptions()
    lifting = space.lifting(model, flow_steps=asked.flow_steps, seed=asked.seed)
    return Placement(space, lifting, lifting.lift(images))


def path_record(path: Geodesic, *others: Cost) -> dict[str, Any]:
    """How a path ended, its certificate, and its cost with that of what was done besides."""
    costs = (path.cost, *others)
    return {
        "status": path.status.name,
        "status_text": path.status.value,
        "certificate": path.certificate.as_dict(),
        "cost": {
            "evaluations": sum(cost.evaluations for cost in costs),
            "derivatives": sum(cost.derivatives for cost in costs),
            "node_gradients": round(sum(cost.node_gradients for cost in costs)),
        },
    }


def run_of(
    command: str,
    settings: Mapping[str, Any],
    images: Iterable[Tensor],
    inputs: tuple[tuple[str, str], ...] = (),
) -> Run:
    """What a folder of results says of the run behind it.

    Args:
        command: what was run.
        settings: those of the result, with ``model`` and ``fingerprint``.
        images: what the result was made of.
        inputs: names of these, with hashes; default hashes of their values.

    Returns:
        the record.
    """
    values = tuple((f"image {i + 1}", fingerprint(image)) for i, image in enumerate(images))
    model = {name: settings[name] for name in ("model", "fingerprint")}
    return Run(command=command, inputs=inputs or values, model=model, settings=settings)


def doubts(path: Geodesic) -> tuple[str, ...]:
    """What is doubtful about a path, for the notices of a result: how it ended, and its energy."""
    if path.ok:
        return path.doubts
    text = f"the geodesic ended with {path.status.name}: {path.status.value}"
    if path.status is Status.START_KEPT and path.start[0] == "chord":
        text = f"no path better than the straight line was found. {text}"
    return (text, *path.doubts)
