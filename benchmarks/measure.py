"""One solve, measured: its path, its work, and every energy it passed through.

Work is counted in node gradients (one node, one gradient of the energy; an energy alone counts a
third), in evaluations of the denoiser and in derivatives (Jacobian products, forward or backward).
Wall time leaves out the measuring itself.  Time inside the denoiser is that between entering one of
its methods and leaving it, and on the way back between the gradient of its output and that of its
input; derivatives taken by others through it in forward mode count as its own.

Paths of any solver are respaced to one number of segments of equal length before their energies
``n sum steps`` are compared: a solver whose curve runs at uneven speed is given that for free.
"""

from __future__ import annotations

import contextvars
import platform
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.problems import Problem
from diffodesic import Relax, Spacetime, counting
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.energy import Solver
from diffodesic.geometry.metric import Metric
from diffodesic.geometry.solvers.graded import knots_of
from diffodesic.geometry.solvers.reference.elastic_band import Neb
from diffodesic.geometry.solvers.reference.first_order import LBFGS
from diffodesic.geometry.solvers.reference.georce import Georce
from diffodesic.metrics.spacetime.mismatched_estimation import mismatch_length
from diffodesic.numerics import derivatives
from diffodesic.numerics.cost import Cost
from diffodesic.numerics.curves import Polyline, Spline, constant_speed

__all__ = [
    "SOLVERS",
    "Clock",
    "Run",
    "common_energy",
    "even",
    "independent_length",
    "measure",
    "solver_of",
    "timed",
]

# What runs under each name; "default" and "recipe" depend on the problem.
SOLVERS = {"relax": Relax, "lbfgs": LBFGS, "georce": Georce, "neb": Neb}


def solver_of(problem: Problem, name: str) -> Solver | None:
    """The solver of a name for a problem.

    Args:
        problem: what is solved.
        name: "default", "recipe" or one of SOLVERS.

    Returns:
        The solver; None is the default of ``geodesic``.

    Raises:
        ValueError: for an unknown name, or a recipe that the problem does not have.
    """
    if name == "default":
        return problem.solver
    if name == "recipe":
        if problem.recipe is None:
            raise ValueError(f"there is no published recipe for {problem.name}")
        return problem.recipe
    if name not in SOLVERS:
        known = ", ".join(("default", "recipe", *SOLVERS))
        raise ValueError(f"unknown solver {name!r}; choose one of {known}")
    return SOLVERS[name]()


@dataclass(frozen=True)
class Run:
    """One solve; lists have one entry per pair.

    Attributes:
        problem: its name.
        solver: its name.
        settings: the solver as Python would print it.
        nodes: segments of the result.
        length: refined lengths.
        energy: energies on the common grid.
        status: how each pair ended.
        negative: share of refined steps along which the metric was not positive.
        iterations: accepted steps.
        start: first paths.
        node_gradients: spent, certificate included.
        evaluations: of the denoiser, certificate included.
        derivatives: of the denoiser, certificate included.
        seconds: wall time.
        cpu: time of the processor, which other programs on the machine do not lengthen.
        inside: share of it inside the denoiser.
        peak: highest memory of the process above that before the solve, in MiB.
        batch: highest memory of one inference of the network's own chunk; None without a chunk.
        resident: memory of the process before the solve, in MiB.
        history: after a round the node gradients, evaluations, derivatives and processor seconds
            spent, and the energies on the common grid; of many rounds every fiftieth of those so
            far (on networks every twentieth).
        machine: where it ran.
        independent: length by the path estimator and its standard error, for one pair of a
            network; else None.
    """

    problem: str
    solver: str
    settings: str
    nodes: int
    length: list[float]
    energy: list[float]
    status: list[str]
    negative: list[float]
    iterations: list[int]
    start: list[str]
    node_gradients: float
    evaluations: int
    derivatives: int
    seconds: float
    cpu: float
    inside: float
    peak: float
    batch: float | None
    resident: float
    history: list[tuple[float, int, int, float, list[float]]]
    machine: dict[str, Any]
    independent: tuple[float, float] | None = None


def common_energy(space: Metric, x: Tensor, grid: int = 64, fine: int = 4) -> Tensor:
    """Energy ``n sum steps`` of paths at points of equal distance along their splines.

    Args:
        space: the geometry.
        x: nodes (..., n+1, d) for any n.
        grid: number of segments.
        fine: arc length is measured on a grid so many times finer.

    Returns:
        Twice the discrete energy, (...).
    """
    energy = space.energy()
    with torch.no_grad():
        steps = space.squared_steps(x).clamp(min=0).sqrt()
    # nodes may lie unevenly, and a spline with even knots swings between them
    share = torch.maximum(steps, 1e-3 * steps.mean(-1, keepdim=True))
    curve = energy.curve(x).with_knots(knots_of(share / share.sum(-1, keepdim=True)))
    s = torch.linspace(0, 1, fine * grid + 1, dtype=x.dtype, device=x.device)
    with torch.no_grad():
        lengths = space.squared_steps(energy.confine(curve(s))).clamp(min=0).sqrt()
        # respacing the curve "s as a function of arc length", not its points: where a path has
        # kinks, a spline through respaced points overshoots
        s = s.expand(*x.shape[:-2], -1).unsqueeze(-1)
        equal = constant_speed(Polyline(s), lengths, grid)[..., 0].clamp(0, 1)
        return grid * space.squared_steps(energy.confine(curve(equal))).sum(-1)


def even(space: Metric, x: Tensor, nodes: int) -> Tensor:
    """The path (n+1, d) at constant speed on other nodes."""
    speeds = space.squared_steps(x).clamp(min=0).sqrt()
    return space.energy().confine(constant_speed(Spline(x), speeds, nodes))


def independent_length(space: Spacetime, x: Tensor) -> tuple[float, float]:
    """Length of a path by the path estimator on 32 segments, and its standard error.

    The segments are even in ``space``, whose probes no path was fitted to: segments that are even
    under the path's own probes make the same path longer by a tenth or a quarter.
    """
    with torch.no_grad():
        path = even(space, x, 32)
        # noise that no path has been fitted to
        return mismatch_length(
            space.denoiser, path, samples=4, levels=12, seed=13, hubs="alternate", chunk=8
        )


@dataclass
class Clock:
    """Time spent inside a denoiser."""

    seconds: float = 0.0
    depth: int = 0
    since: float = 0.0
    waiting: bool = field(default=False)

    def output_grad(self, _: Tensor) -> None:
        """Backward enters the denoiser; a second output of the same call changes nothing."""
        if not self.waiting:
            self.since, self.waiting = time.perf_counter(), True

    def input_grad(self, _: Tensor) -> None:
        """Backward leaves it, at least by one of its inputs."""
        now = time.perf_counter()
        self.seconds += now - self.since
        self.since, self.waiting = now, False


@contextmanager
def timed(denoiser: object) -> Iterator[Clock]:
    """Measure the time inside the methods of a denoiser's class, and of their backward passes."""
    clock, kind = Clock(), type(denoiser)
    if denoiser is None:
        yield clock
        return
    names = ("__call__", "jvp", "moments", "statistic_covariance")
    before = {name: vars(kind).get(name) for name in names if hasattr(kind, name)}
    for name in before:
        setattr(kind, name, _watched(getattr(kind, name), clock))
    try:
        yield clock
    finally:
        for name, method in before.items():
            if method is None:
                delattr(kind, name)
            else:
                setattr(kind, name, method)


def _watched(method: Callable[..., Any], clock: Clock) -> Callable[..., Any]:
    def call(self: Any, *inputs: Any, **options: Any) -> Any:
        outermost = clock.depth == 0
        if outermost:
            inputs = tuple(_hooked(x, clock.input_grad) for x in inputs)
        clock.depth += 1
        began = time.perf_counter()
        try:
            out = method(self, *inputs, **options)
        finally:
            clock.depth -= 1
        if not outermost:
            return out
        clock.seconds += time.perf_counter() - began
        if isinstance(out, tuple):
            return tuple(_hooked(part, clock.output_grad) for part in out)
        return _hooked(out, clock.output_grad)

    return call


def _hooked(x: Any, hook: Callable[[Tensor], None]) -> Any:
    """A view of a tensor, for this use of it alone, whose gradient calls the hook."""
    if not isinstance(x, Tensor) or not x.requires_grad or derivatives.is_transformed(x):
        return x
    x = x.view_as(x)
    x.register_hook(hook)
    return x


class _Watch:
    """Called in every round of a solve: keeps its history, and takes its own time off."""

    def __init__(self, problem: Problem, cost: Cost, clock: Clock) -> None:
        self.space = problem.judge or problem.space
        self.grid = (problem.grid, problem.fine)
        self.often = 50 if problem.exact else 20
        self.cost, self.clock = cost, clock
        self.rounds, self.own, self.began = 0, 0.0, time.perf_counter()
        self.own_cpu, self.cpu_began = 0.0, time.process_time()
        self.history: list[tuple[float, int, int, float, list[float]]] = []

    @property
    def seconds(self) -> float:
        """Wall time without that of this object."""
        return time.perf_counter() - self.began - self.own

    @property
    def cpu(self) -> float:
        """Processor time without that of this object."""
        return time.process_time() - self.cpu_began - self.own_cpu

    def __call__(self, _: str, x: Tensor) -> None:
        self.rounds += 1
        if self.rounds % max(1, self.rounds // self.often):
            return
        cpu, inside = self.cpu, self.clock.seconds
        entered, cpu_entered = time.perf_counter(), time.process_time()
        # in a context of its own nothing is counted
        energy = contextvars.Context().run(common_energy, self.space, x, *self.grid)
        work = self.cost
        spent = (work.node_gradients, work.evaluations, work.derivatives, cpu)
        self.history.append((*spent, energy.tolist()))
        self.clock.seconds = inside
        self.own += time.perf_counter() - entered
        self.own_cpu += time.process_time() - cpu_entered


def measure(problem: Problem, name: str) -> Run:
    """Run a solver on a problem.

    Args:
        problem: what to solve.
        name: of the solver, see ``solver_of``.

    Returns:
        The run.
    """
    solver = solver_of(problem, name)
    nodes = problem.recipe_nodes if name == "recipe" else problem.nodes
    denoiser = getattr(problem.space, "denoiser", None)
    a, b = (x.reshape(-1, problem.space.dim) for x in (problem.a, problem.b))
    batch = _batch_memory(denoiser, a)
    # the first derivative of a process compiles some of torch's own formulas
    problem.space.energy().evaluate(torch.stack([a, (a + b) / 2, b], 1))
    with counting() as cost, timed(denoiser) as clock, _peak() as memory:
        watch = _Watch(problem, cost, clock)
        look = watch if problem.history else None
        path = search(
            problem.space, a, b, nodes=nodes, solver=solver, refine=problem.refine, progress=look
        )
        seconds, cpu = watch.seconds, watch.cpu
    judge = problem.judge or problem.space
    energy = common_energy(judge, path.nodes, problem.grid, problem.fine)
    judged = None
    if not problem.exact and problem.history and isinstance(judge, Spacetime):
        judged = independent_length(judge, path.nodes[0])
    return Run(
        problem=problem.name,
        solver=name,
        settings=repr(solver) if solver else "the default of geodesic",
        nodes=nodes,
        length=path.length.tolist(),
        energy=energy.tolist(),
        status=[status.name for status in path.statuses],
        negative=path.certificate.negative_fraction.tolist(),
        iterations=path.iterations.tolist(),
        start=list(path.start),
        node_gradients=cost.node_gradients,
        evaluations=cost.evaluations,
        derivatives=cost.derivatives,
        seconds=seconds,
        cpu=cpu,
        inside=clock.seconds / seconds,
        peak=memory["peak"],
        batch=batch,
        resident=memory["before"],
        history=watch.history,
        machine=machine(),
        independent=judged,
    )


def machine() -> dict[str, Any]:
    """What a time depends on."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def _batch_memory(denoiser: Any, a: Tensor) -> float | None:
    """Highest memory of one inference of a chunk of points, in MiB; None without a chunk."""
    chunk = getattr(denoiser, "chunk", None)
    if not chunk:
        return None
    z = a[:1, : denoiser.dim].expand(chunk, -1).contiguous()
    with torch.inference_mode():
        denoiser(z[:1], z.new_tensor(1.0))
        with _peak() as memory:
            denoiser(z, z.new_tensor(1.0))
    return memory["peak"]


@contextmanager
def _peak() -> Iterator[dict[str, float]]:
    """Memory before, and highest above it inside the block, in MiB."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # sets the high-water mark to what is held now
    memory = {"before": _status("VmRSS"), "peak": float("nan")}
    try:
        yield memory
    finally:
        memory["peak"] = _status("VmHWM") - memory["before"]


def _status(name: str) -> float:
    """A line of the process's status in MiB; where there is none, the highest memory ever."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))
