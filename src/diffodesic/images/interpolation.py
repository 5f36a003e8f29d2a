r"""Two images, one model: the geodesic between them, its frames, and how good it is.

    images -> points of a space (:mod:`diffodesic.images.placement`) -> geodesic -> points at
    constant speed -> drop to clean data (probability flow) -> codec -> frames

Baselines between the same two points are brought back the same way, and measured in the same
metric.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from diffodesic.geometry.metric import Metric
from diffodesic.geometry.path import Geodesic
from diffodesic.images.baselines.between import Baseline, baseline_curve
from diffodesic.images.baselines.latent import with_norm
from diffodesic.images.door import Picture, as_data
from diffodesic.images.features import Features, load_features
from diffodesic.images.lifting import as_images
from diffodesic.images.own_kind import PICTURES, strange, tell
from diffodesic.images.placement import JoinOptions, Placement, doubts
from diffodesic.images.result import Interpolation, psnr_of
from diffodesic.images.shown_path import Pace, ShownPath, show_path
from diffodesic.images.spaces import SPACES, Fixed, Space, SpacetimeSpace, choose_space
from diffodesic.images.work import frames_work, join_work, kept_stage
from diffodesic.models.identity import identity, short
from diffodesic.models.model import Model
from diffodesic.numerics import checks
from diffodesic.numerics.cost import expect, stage, total
from diffodesic.numerics.curves import Polyline
from diffodesic.output.options import option, suggests
from diffodesic.output.stages import Store, fingerprint

__all__ = [
    "InterpolateOptions",
    "JoinedPair",
    "expected_work",
    "interpolate",
    "join",
    "stages",
]


@dataclass(frozen=True, kw_only=True)
class InterpolateOptions(JoinOptions):
    """Options of :func:`interpolate` and :func:`interpolate_through`.

    Args:
        space: the space in which the images are joined.
        nodes: segments of the path.
        frames: number of images, ends included.
        baselines: other curves between the same ends, shown beside the geodesic.
        pace: frames at equal steps of the metric, or of the distance under the features.
        features: extractor of a perceptual pace: digit-classifier-1 or squeezenet:FILE.onnx.
    """

    space: Space = option(SpacetimeSpace(), flag=False)
    nodes: int = option(32, least=2, most=10_000)
    frames: int = option(16, least=2, most=10_000)
    baselines: tuple[Baseline, ...] = ("LERP", "SLERP")
    pace: Pace = "metric"
    features: str = "digit-classifier-1"


@suggests(options=(InterpolateOptions,), space=SPACES.values())
def interpolate(
    model: Model,
    image_a: Picture,
    image_b: Picture,
    *,
    metric: str | None = None,
    space: Space | Metric | None = None,
    frames: int | None = None,
    options: InterpolateOptions | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Interpolation:
    """Interpolate between two images along a geodesic of the model.

    Args:
        model: see ``load``.
        image_a: first image: (C, H, W) in [0, 1], an array, a PIL image, or the path of a file.
        image_b: second image.
        metric: name of a space with its default options, in place of ``options.space``:
            ``spacetime`` (2505.17517), ``score`` (2505.11128), ``score-published``, ``jacobian``
            (2510.05509), ``conformal`` or ``euclidean``.
        space: a space with options of its own, such as ``ScoreSpace(weight=100.0)``, or a metric of
            yours on the D coordinates of the model, in place of ``options.space``.
        frames: number F of images, in place of ``options.frames``.
        options: everything else; default ``InterpolateOptions()``.
        checkpoint: folder of finished stages; a run that was interrupted goes on from them.
        progress: called with a short line on every step.

    Returns:
        frames, path, certificate and the baselines. In spacetime the frames of a network are those
        of an arch over the ends' flow lines, beside the geodesic (:meth:`Space.arch`).

    Raises:
        ValueError: for images or a metric that do not fit the model, an unknown name, a noise level
            or rank out of range, a score without size, or a checkpoint of other settings.

    Cost: ``2 flow_steps`` evaluations per end and per frame of every path, and 12 per end; the
    geodesic (see ``geodesic``); for the length of every path ``4 nodes`` steps, or in the
    spacetime of a network ``nodes`` steps and, beside the geodesic, ``39 nodes`` evaluations.
    """
    checks.of_kind(model, "model", Model)
    asked = (options or InterpolateOptions()).but(space=choose_space(metric, space), frames=frames)
    inputs = as_images(as_data(model, image_a), as_data(model, image_b))
    with stages(checkpoint, model, inputs, asked).held() as store:
        store.tell(progress or (lambda _: None))
        expect(expected_work(asked, store.finished()))
        return join(model, inputs, asked, store, progress).finish(asked.frames)


def expected_work(asked: InterpolateOptions, finished: Collection[str] = ()) -> dict[str, int]:
    """What a run is expected to take.

    Args:
        asked: the options.
        finished: names of stages that an earlier run has made.

    Returns:
        evaluations and derivatives by stage.
    """
    shown = ["geodesic", *asked.baselines]
    shown += ["arch"] if isinstance(asked.space, SpacetimeSpace) else []
    left = len([name for name in shown if name not in finished])
    frames = 3 * asked.frames if asked.pace == "perceptual" else asked.frames
    return total(
        join_work(asked.space, asked, asked.nodes, finished),
        frames_work(asked.space, asked, frames, asked.nodes, left),
    )


def stages(
    folder: str | os.PathLike[str] | None, model: Model, inputs: Tensor, asked: InterpolateOptions
) -> Store:
    """The finished stages of a run; those of another model, images or settings are refused."""
    known = {"model": identity(model), **asked.settings(), "inputs": fingerprint(inputs)}
    if isinstance(asked.space, Fixed):
        known["metric"] = _lengths(asked.space, model, inputs)
    return Store(None if folder is None else Path(folder), known)


def _lengths(space: Fixed, model: Model, inputs: Tensor) -> list[str]:
    """What a metric of one's own says of two vectors: it may be another by the same name."""
    points = space.pack(space.own, model.codec.encode(inputs), space.lifting(model).log_snr)
    return [f"{length:.6g}" for length in space.own.norm(points, points.flip(0)).tolist()]


def join(
    model: Model,
    inputs: Tensor,
    asked: InterpolateOptions,
    store: Store,
    progress: Callable[[str], None] | None = None,
) -> JoinedPair:
    """Place a pair of images in a space, and join them there.

    Args:
        model: the model.
        inputs: the images (2, C, H, W).
        asked: the options.
        store: finished stages.
        progress: called with a short line on every step.

    Returns:
        the pair and its path.
    """
    began, say = time.monotonic(), progress or (lambda _: None)
    features = load_features(asked.features) if asked.pace == "perceptual" else None
    lifting = asked.space.lifting(model, flow_steps=asked.flow_steps, seed=asked.seed)

    def lifted() -> tuple[dict[str, Tensor], dict[str, Any]]:
        say("lifting the images to their noise level")
        return {"ends": lifting.lift(inputs)}, {"alarms": strange(model, inputs, PICTURES)}

    placed, known, began_with = kept_stage(store, "ends", lifted, inputs.device)
    there = Placement(asked.space, lifting, placed["ends"])
    alarms = tell(known["alarms"], say)
    a, b = there.points

    def joined() -> tuple[dict[str, Tensor], dict[str, Any]]:
        solver = asked.search(there.metric)
        return there.geodesic(a, b, nodes=asked.nodes, solver=solver, progress=say).split()

    tensors, words, searched = kept_stage(store, "path", joined, inputs.device)
    path, work = Geodesic.joined(there.metric, tensors, words), total(began_with, searched)
    return JoinedPair(asked, there, path, inputs, features, alarms, store, say, began, work)


@dataclass(frozen=True)
class JoinedPair:
    """A pair of images with the path between them, and what it takes to bring it back.

    Attributes:
        asked: the options.
        there: the images in their space.
        path: the geodesic.
        inputs: the images (2, C, H, W).
        features: of a perceptual pace.
        alarms: what makes a result mean little, one sentence each.
        store: finished stages.
        say: called with a short line on every step.
        began: when the work began, by the monotonic clock.
        work: evaluations and derivatives up to the path, by stage.
    """

    asked: InterpolateOptions
    there: Placement
    path: Geodesic
    inputs: Tensor
    features: Features | None
    alarms: tuple[str, ...]
    store: Store
    say: Callable[[str], None]
    began: float
    work: dict[str, int]

    @cached_property
    def arch(self) -> Polyline | None:
        """The path that is shown first, where it is not the geodesic; see :meth:`Space.arch`."""
        a, b = self.there.points
        return self.there.space.arch(self.there.metric, a, b)

    def finish(self, frames: int) -> Interpolation:
        """Bring all paths back to images.

        Args:
            frames: number of images of each.

        Returns:
            the result.
        """
        paths, missing, shown = self._paths(frames)
        codec = self.there.lifting.model.codec
        errors = _error(paths["geodesic"].frames[[0, -1]], self.inputs)
        lost = (0.0, 0.0)
        if not codec.lossless:
            lost = _error(codec.decode(codec.encode(self.inputs)), self.inputs)
        return Interpolation(
            geodesic=self.path,
            paths=paths,
            inputs=self.inputs,
            end_error=errors,
            seconds=time.monotonic() - self.began,
            work=total(self.work, shown),
            settings=self._settings(frames),
            alarms=self.alarms,
            notices=(*self.alarms, *missing, *self._notices(errors, lost)),
        )

    def _paths(self, frames: int) -> tuple[dict[str, ShownPath], list[str], dict[str, int]]:
        """The paths by name, a notice for each that does not exist, and the work they took."""
        paths, notices, works = {}, [], []
        arch = ("arch",) if self.arch else ()
        for name in (*arch, "geodesic", *self.asked.baselines):
            made = partial(self._show, name, frames)
            tensors, words, work = kept_stage(self.store, name, made, self.inputs.device)
            works.append(work)
            if "missing" in words:
                notices.append(f"no {name}: {words['missing']}")
            else:
                paths[name] = ShownPath.joined(tensors, words)
        return paths, notices, total(*works)

    @stage("frames")
    def _show(self, name: str, frames: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self.say(f"bringing {name} back to clean images")
        try:
            curve = self._curve(name)
            curve(self.there.z.new_zeros(1))
        except ValueError as error:  # SLERP between opposite ends: the solve is not lost for it
            return {}, {"missing": str(error)}
        nodes = self.path.nodes.shape[-2] - 1
        kept = name == "geodesic" and self.there.space.keeps_norm
        a, b = self.there.z
        restore = (lambda z, s: with_norm(z, a, b, s)) if kept else None
        rated, judged = self.path.certificate, None
        if name == "geodesic" and not bool(rated.judged.isnan()):  # once is enough
            judged = (float(rated.judged), float(rated.judged_error))
        return show_path(self.there, curve, frames, nodes, self.features, restore, judged).split()

    def _curve(self, name: str) -> Callable[[Tensor], Tensor]:
        """Points (S, d) of the metric by parameters (S,)."""
        if name == "geodesic":
            return self.path
        if name == "arch" and self.arch:
            return self.arch
        a, b = self.there.z
        curve = baseline_curve(name, self.there.lifting, (self.inputs[0], self.inputs[1]), (a, b))
        return lambda s: self.there.pack(curve(s))

    def _settings(self, frames: int) -> dict[str, object]:
        settings = {
            **self.there.described(),
            "fingerprint": short(self.store.depends["model"]),
            **self.asked.settings(),
            "frames": frames,
            "norm": "kept" if self.there.space.keeps_norm else "as found",
        }
        if self.features is None:
            del settings["features"]
        else:
            settings["features"] = self.features.name
        return settings

    def _notices(self, errors: tuple[float, float], lost: tuple[float, float]) -> list[str]:
        model, notices = self.there.lifting.model, [*doubts(self.path)]
        rated = self.path.certificate
        wrong = float(rated.negative_fraction)
        if wrong > 0 and bool(rated.judged.isnan()):  # a judged length has no negative steps
            notices.append(
                f"along {wrong:.1%} of the path the model's Jacobian is not that of a posterior "
                "mean (not positive), and the length there is less certain"
            )
        notices += model.caveats()
        if max(lost) > 0:
            first, last = map(psnr_of, lost)
            notices.append(
                f"the autoencoder alone gives back the images with PSNR {first:.1f} and "
                f"{last:.1f} dB, which no path can better"
            )
        made = max(error - least for error, least in zip(errors, lost, strict=True))
        if made > 0.05 and not self.alarms:
            notices.append(
                f"the end frames differ from the images by {max(errors):.3f} (root mean "
                "square, pixels in [0, 1]): raise `flow_steps`, or lower the noise of the "
                "ends (a higher `log_snr`)"
            )
        return notices


def _error(images: Tensor, inputs: Tensor) -> tuple[float, float]:
    """Root-mean-square error of each of two images."""
    first, last = (images - inputs).square().flatten(1).mean(-1).sqrt().tolist()
    return first, last
