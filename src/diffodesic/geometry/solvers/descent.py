r"""Preconditioned L-BFGS on the inner nodes of many paths at once: the engine of the solvers.

The objective is the energy of a path with both ends fixed.  An approximate Hessian comes with it
(:mod:`diffodesic.numerics.hessians`): by default that of a metric of its cheap typical size, n
times the path Laplacian, which makes the number of iterations independent of n; for energies that
offer it, the Gauss-Newton Hessian of every new path.  Limited-memory BFGS
(Nocedal & Wright, Alg. 7.4) on top of it learns the rest.  In a round every active path takes one
trial step; each has its own step length, history and end, and finished paths leave the batch, so a
path's result does not depend on its company.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diffodesic.geometry.energy import Order, PathEnergy, evaluate
from diffodesic.geometry.status import Status
from diffodesic.numerics.hessians import PathHessian, dot

__all__ = ["Descent", "relative_norm"]


GROWTH = 4  # of the share of a Newton step, from one that was cut to the next


def relative_norm(h0: PathHessian, grad: Tensor, value: Tensor) -> Tensor:
    """Preconditioned gradient norm relative to the length, ``sqrt(g.H0 g / 2E)``, (B,)."""
    return (dot(grad, h0.solve(grad)) / (2 * value.abs())).sqrt()


def _scale(c: Tensor, u: Tensor) -> Tensor:
    return c[:, None, None] * u


@dataclass
class _State:
    """Everything that belongs to the active paths; first axis B."""

    home: Tensor  # (B,) place in the whole batch
    x: Tensor  # (B, n+1, d)
    energy: Tensor  # (B,)
    grad: Tensor  # (B, n+1, d)
    negative: Tensor  # (B,) whether a step is negative
    doubtful: Tensor  # (B,) number of doubtful segments
    h0: PathHessian
    gamma: Tensor  # (B,) scale of h0
    direction: Tensor  # (B, n+1, d) points uphill
    decrease: Tensor  # (B,) twice the decrease that the quadratic model predicts
    t: Tensor  # (B,) step length
    taken: Tensor  # (B,) accepted steps
    gained: Tensor  # (B,) decrease of the energy by the last accepted step
    plain: Tensor  # (B,) whether the direction is that of H0 alone, tried after a hold

    def select(self, keep: Tensor) -> None:
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name)[keep])

    def accept(self, mask: Tensor, **new: Tensor) -> None:
        """Take the new values of the paths ``mask``, in place of the attributes of their names."""
        for name, value in new.items():
            wide = mask.reshape(-1, *[1] * (value.ndim - 1))
            setattr(self, name, torch.where(wide, value, getattr(self, name)))


class _History:
    """Limited-memory BFGS pairs of a batch, newest last."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # s, y (B, n+1, d); 1/s.y (B,)

    def push(self, s: Tensor, y: Tensor, keep: Tensor) -> None:
        """Add one pair of differences; where there is no positive curvature it adds nothing."""
        sy = dot(s, y)
        good = keep & (sy > 1e-12 * (dot(s, s) * dot(y, y)).sqrt())
        wide = good[:, None, None]  # a rejected trial may hold NaN, which 0 * NaN would keep
        rho = torch.where(good, 1 / torch.where(good, sy, 1.0), 0.0)
        self.pairs.append((torch.where(wide, s, 0.0), torch.where(wide, y, 0.0), rho))
        del self.pairs[: -self.memory]

    def forget(self, which: Tensor) -> None:
        self.pairs = [(s, y, torch.where(which, 0.0, rho)) for s, y, rho in self.pairs]

    def select(self, keep: Tensor) -> None:
        self.pairs = [(s[keep], y[keep], rho[keep]) for s, y, rho in self.pairs]

    def apply(self, g: Tensor, h0: Callable[[Tensor], Tensor]) -> Tensor:
        """Two-loop recursion: approximate inverse Hessian times ``g``."""
        q, alphas = g, []
        for s, y, rho in reversed(self.pairs):
            alpha = rho * dot(s, q)
            q = q - _scale(alpha, y)
            alphas.append(alpha)
        r = h0(q)
        for (s, y, rho), alpha in zip(self.pairs, reversed(alphas), strict=True):
            r = r + _scale(alpha - rho * dot(y, r), s)
        return r


class Descent:
    """Minimise the energies of a batch of paths on a fixed number of nodes.

    Args:
        energy: what is minimised.
        x: first paths (B, n+1, d); their ends stay.
        rtol: a path is done when the predicted decrease is below this share of its energy; a
            number, or one per path (B,).
        iterations: limit on rounds.
        memory: correction pairs kept.
        newton: take the energy's own Hessian at every new path.
        scale: first scale of the preconditioner (B,), such as :attr:`scale` of an earlier descent.

    Attributes:
        scale: the last scale of the preconditioner, (B,).
        result: final paths (B, n+1, d), complete when :attr:`active` is 0.
        gradient_norm: see :func:`relative_norm`, (B,).
        statuses: how each path ended.
        iterations: accepted steps of each path, (B,).
    """

    def __init__(
        self,
        energy: PathEnergy,
        x: Tensor,
        *,
        rtol: float | Tensor,
        iterations: int,
        memory: int,
        newton: bool = False,
        scale: Tensor | None = None,
    ) -> None:
        self.objective, self.limit = energy, iterations
        self.order: Order = 2 if newton else 1
        batch = len(x)
        self.result = x.clone()
        self.gradient_norm = x.new_full((batch,), torch.nan)
        self.statuses = [Status.CONVERGED] * batch
        self.iterations = torch.zeros(batch, dtype=torch.long)
        self.scale = x.new_ones(batch) if scale is None else scale.clone()
        self.rtol = torch.as_tensor(rtol, dtype=x.dtype, device=x.device).expand(batch)
        self.rounds, self.history = 0, _History(memory)
        found = evaluate(energy, x, order=self.order)
        steps, grad = found.squared_steps, found.slope
        one = torch.ones_like(steps[:, 0])
        self.now = _State(
            home=torch.arange(batch, device=x.device),
            x=x,
            energy=found.energy,
            grad=grad,
            negative=(steps < 0).any(-1),
            doubtful=found.doubtful.sum(-1),
            h0=found.hessian or energy.preconditioner(x, steps),
            gamma=self.scale,
            direction=grad,
            decrease=one,
            t=one,
            taken=torch.zeros_like(one, dtype=torch.long),
            gained=torch.zeros_like(one),
            plain=torch.zeros_like(one, dtype=torch.bool),
        )
        bad = ~torch.isfinite(self.now.energy + grad.flatten(1).sum(-1))
        self._aim(~bad, one)
        self._finish([(Status.NON_FINITE, bad), (Status.CONVERGED, self._converged())])

    @property
    def active(self) -> int:
        """Number of paths that have not ended."""
        return len(self.now.home)

    def current(self) -> Tensor:
        """The paths as they stand, (B, n+1, d)."""
        out = self.result.clone()
        out[self.now.home] = self.now.x
        return out

    def round(self) -> None:
        """Try one step of every active path; accept it, shrink it, or end the path."""
        now = self.now
        trial = self.objective.confine(now.x - _scale(now.t, now.direction))
        found = evaluate(self.objective, trial, order=self.order)
        value, grad, doubtful = found.energy, found.slope, found.doubtful.sum(-1)
        s, y = trial - now.x, grad - now.grad
        # Armijo's rule on the step really taken (it may be cut by the bounds). A trial with more
        # doubtful segments is no improvement: it exploits a denoiser that is no posterior mean.
        slope = dot(now.grad, s)
        lower = value <= now.energy + 1e-4 * slope
        if self.objective.tolerance:
            # the gradient is that of a slightly other energy: believe it (Hager & Zhang 2005)
            near = value <= (1 + self.objective.tolerance) * now.energy
            lower |= near & (dot(grad, s).abs() <= 0.9 * slope.abs())
        lower &= torch.isfinite(value + grad.flatten(1).sum(-1))
        resolved = self.objective.resolves(trial) | ~self.objective.resolves(now.x)
        accept = lower & resolved & (doubtful <= now.doubtful)
        self.history.push(s, y, accept)
        self._rescale(s, y, accept)
        # the minimum of the parabola through the two values and the slope
        shrink = (-slope / (2 * (value - now.energy - slope))).nan_to_num(0.1).clamp(0.1, 0.5)
        held = lower & ~accept
        # Newton's model is believed at most GROWTH times as far as it last held; what L-BFGS
        # learned of the last step is in its next direction
        reach = GROWTH * now.t / self.objective.longest_step(now.direction)
        reach = torch.where(accept & (self.order == 2), reach.clamp(max=1.0), 1.0)
        now.t = now.t * torch.where(held, 0.5, shrink)
        now.accept(accept, gained=now.energy - value, plain=torch.zeros_like(now.plain))
        now.accept(accept, x=trial, energy=value, grad=grad, taken=now.taken + 1)
        now.accept(accept, negative=(found.squared_steps < 0).any(-1), doubtful=doubtful)
        if found.hessian is not None:
            now.h0 = found.hessian.where(accept, now.h0)
        self.rounds += 1
        share = now.t / self.objective.longest_step(now.direction)
        stuck = held & (share < 0.01)
        # what the history learned may point where the energy cannot be followed: once without it
        again = stuck & ~now.plain
        self.history.forget(again)
        now.accept(again, plain=again)
        self._aim(accept | again, reach)
        coarse = ~resolved | (self.objective.doubt is Status.TOO_COARSE)
        ends = [
            (Status.CONVERGED, accept & self._converged()),
            (Status.TOO_COARSE, stuck & ~again & coarse),
            (self.objective.doubt, stuck & ~again),
            *self._stalled(~accept & ~again & (share < 1e-8)),
        ]
        if self.rounds >= self.limit:
            ends.append((Status.ITERATION_LIMIT, torch.ones_like(accept)))
        self._finish(ends)

    def _aim(self, fresh: Tensor, reach: Tensor) -> None:
        """Choose the next step of the paths ``fresh``, at most the share ``reach`` of it, (B,)."""
        now = self.now
        free = self._free()
        gradient = now.grad * free
        direction = self.history.apply(gradient, self._apply_h0) * free
        decrease = dot(now.grad, direction)
        # a direction that does not descend: forget the history, fall back to H0
        lost = fresh & ~(decrease > 0)
        if bool(lost.any()):
            self.history.forget(lost)
            plain = self._apply_h0(gradient) * free
            direction = torch.where(lost[:, None, None], plain, direction)
            decrease = torch.where(lost, dot(now.grad, plain), decrease)
        now.accept(fresh, direction=direction, decrease=decrease)
        now.accept(fresh, t=reach * self.objective.longest_step(direction))

    def _apply_h0(self, g: Tensor) -> Tensor:
        return _scale(self.now.gamma, self.now.h0.solve(g))

    def _rescale(self, s: Tensor, y: Tensor, accept: Tensor) -> None:
        """Scale H0 by the newest curvature (Nocedal & Wright, Eq. 7.20, in the H0 metric)."""
        if self.order == 2:
            return
        sy, yhy = dot(s, y), dot(y, self.now.h0.solve(y))
        good = accept & (sy > 0) & (yhy > 0)
        self.now.accept(good, gamma=sy / torch.where(good, yhy, 1.0))

    def _stalled(self, ended: Tensor) -> list[tuple[Status, Tensor]]:
        """Why paths found no descent: nothing finite, a false gradient, or rounding."""
        now = self.now
        nothing = torch.zeros_like(ended)
        if not bool(ended.any()):
            return [(Status.STALLED, ended)]
        # a step that should lower the energy by a thousandth, long before the minimum of the model
        share = 1e-3 * now.energy.abs() / now.decrease.abs().clamp(min=1e-300)
        # no further than the step itself, and not at all for the others of the batch
        share = torch.where(ended, share.nan_to_num(1.0).clamp(max=1.0), 0.0)
        ends = [
            self.objective.confine(now.x - _scale(sign * share, now.direction)) for sign in (1, -1)
        ]
        # of a metric of one's own, which may refuse points that are not finite
        there = torch.stack([torch.isfinite(end).flatten(1).all(-1) for end in ends]).all(0)
        ends = [torch.where(there[:, None, None], end, now.x) for end in ends]
        down, up = (evaluate(self.objective, end).energy for end in ends)
        change, expected = up - down, 2 * share * now.decrease
        wild = ended & ~(torch.isfinite(change) & there)
        far = ended & ~wild & (share < 0.5)
        false = torch.where(far, (change - expected).abs() > 0.5 * expected.abs(), nothing)
        # a gradient of a slightly other energy is false where the nodes are too far apart
        blamed = Status.TOO_COARSE if self.objective.tolerance else Status.NOT_DIFFERENTIABLE
        return [
            (Status.NON_FINITE, wild),
            (blamed, false),
            (Status.STALLED, ended & ~wild & ~false),
        ]

    def _free(self) -> Tensor:
        """0 where a coordinate sits on its bound and the descent points outside, else 1."""
        x, grad = self.now.x, self.now.grad
        if self.objective.bounds is None:
            return torch.ones_like(x[:, :, :1])
        low, high = (bound.to(x) for bound in self.objective.bounds)
        return (~(((x <= low) & (grad > 0)) | ((x >= high) & (grad < 0)))).to(x.dtype)

    def _converged(self) -> Tensor:
        # one small prediction can be chance: the last step must have gained little, too
        small = self.rtol[self.now.home] * self.now.energy.abs()
        return (self.now.gained <= 10 * small) & (self.now.decrease / 2 <= small)

    def _finish(self, ends: Sequence[tuple[Status, Tensor]]) -> None:
        """Write out the paths that end now and drop them from the batch.

        Args:
            ends: which paths (B,) end in which way; of several the first counts.
        """
        done = torch.stack([mask for _, mask in ends]).any(0)
        if not bool(done.any()):
            return
        now = self.now
        norm = relative_norm(now.h0, now.grad, now.energy)
        pressed = (self._free()[:, 1:-1] == 0).flatten(1).any(-1)
        for i in torch.nonzero(done).flatten().tolist():
            status = next(status for status, mask in ends if bool(mask[i]))
            if status is not Status.NON_FINITE and bool(now.negative[i]):
                status = Status.NEGATIVE_STEPS
            elif status is not Status.NON_FINITE and bool(pressed[i]):
                status = Status.LEFT_DOMAIN
            self.statuses[int(now.home[i])] = status
        home = now.home[done]
        self.result[home], self.gradient_norm[home] = now.x[done], norm[done]
        self.scale[home] = now.gamma[done]
        self.iterations[home.cpu()] = now.taken[done].cpu()
        now.select(~done)
        self.history.select(~done)
