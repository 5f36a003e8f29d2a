"""A model: a denoiser, the codec between its vectors and images, and where it came from.

``load`` takes the name of a shipped model, a folder written by :meth:`Model.save` or by
``diffodesic train``, or a source with a prefix that ``adapters`` knows.  Weights are safetensors;
nothing is unpickled or downloaded unless the caller says so.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from diffodesic.network import UNet, read_weights
from diffodesic.parametrization import NetworkDenoiser, from_network
from diffodesic.schedule import EDM

__all__ = [
    "Codec",
    "Conditioner",
    "Model",
    "ModelError",
    "PixelCodec",
    "available",
    "check_images",
    "load",
]

_SHIPPED = Path(__file__).parent / "assets"
# points per call of the network: enough to keep a device busy, little memory
CHUNK, CHUNK_ACCELERATED = 128, 4096
Precision = Literal["float32", "bfloat16"]
_FILES = ("config.json", "weights.safetensors")


class ModelError(ValueError):
    """A model cannot be loaded or saved; the message says what to change."""


class Codec(Protocol):
    """Images (..., C, H, W) in [0, 1] as vectors (..., D), deterministic both ways."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of images."""
        ...

    @property
    def lossless(self) -> bool:
        """True where decoding gives back what was encoded."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Vectors (..., D) of images (..., C, H, W)."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Images (..., C, H, W) of vectors (..., D)."""
        ...


def check_images(images: Tensor, shape: tuple[int, int, int]) -> None:
    """See that images (..., C, H, W) are what a codec takes.

    Args:
        images: the images.
        shape: (C, H, W) that is taken.

    Raises:
        ValueError: for images of another shape, or values that are integers, not finite or
            outside [0, 1].
    """
    if tuple(images.shape[-3:]) != shape:
        raise ValueError(
            f"images have shape {tuple(images.shape[-3:])}; this model takes "
            f"{shape} (channels, height, width)"
        )
    if not images.is_floating_point():
        raise ValueError(f"pixels are {images.dtype}; divide 8-bit values by 255")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("the image holds pixels that are not finite (NaN or infinite)")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("pixels must be between 0 and 1; divide 8-bit values by 255")


@dataclass(frozen=True)
class PixelCodec:
    """Images (..., C, H, W) in [0, 1] as vectors (..., D) in [-1, 1], without loss.

    Attributes:
        shape: (C, H, W); D = C H W.
    """

    shape: tuple[int, int, int]
    lossless: bool = field(default=True, init=False, repr=False)

    def encode(self, images: Tensor) -> Tensor:
        """Vectors (..., D) of images (..., C, H, W) in [0, 1]; see `check_images`."""
        check_images(images, self.shape)
        return images.flatten(-3) * 2 - 1

    def decode(self, z: Tensor) -> Tensor:
        """Images (..., C, H, W) in [0, 1] of vectors (..., D); what leaves the range is cut."""
        return ((z + 1) / 2).clamp(0, 1).unflatten(-1, self.shape)


@dataclass(frozen=True)
class Conditioner:
    """What a user says, as arguments of the network.

    Attributes:
        names: what can be said, such as ``prompt``; none for an unconditional model.
        encode: arguments of the network for it, each for one sample.
    """

    names: tuple[str, ...]
    encode: Callable[..., Mapping[str, Any]]

    def __call__(self, **words: Any) -> Mapping[str, Any]:
        """Arguments of the network under these words, (whatever shapes it takes)."""
        if unknown := [name for name in words if name not in self.names]:
            raise ModelError(
                f"this model takes no {' or '.join(unknown)}; it takes "
                f"{', '.join(self.names) or 'no condition'}"
            )
        return self.encode(**words)


@dataclass(frozen=True)
class Model:
    """A denoiser with its codec and name.

    Attributes:
        denoiser: posterior mean of the model.
        codec: between images and vectors.
        name: short name.
        config: what the model was saved with.
        conditioner: from words to arguments of the network; None where they are the same.
        words: the condition in the user's words.
    """

    denoiser: NetworkDenoiser
    codec: Codec
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    conditioner: Conditioner | None = field(default=None, kw_only=True, repr=False)
    words: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @staticmethod
    def from_diffusers(pipe: Any, **options: Any) -> Model:
        """A pipeline of diffusers as a model.

        Args:
            pipe: the pipeline.
            options: ``prompt``, ``negative_prompt``, ``guidance``, ``label``, ``size``, ``name``,
                ``chunk`` and ``jvp_mode``, described at ``adapters.diffusers.from_pipeline``.

        Returns:
            the model.
        """
        from diffodesic.adapters.diffusers import from_pipeline

        return from_pipeline(pipe, **options)

    def given(self, **condition: Any) -> Model:
        """The same model under a condition bound before geometry starts.

        Args:
            condition: words such as ``prompt="a cat"`` or ``label=3``, added to those already
                bound; for a network of one's own, its arguments.

        Returns:
            the model.

        Raises:
            ModelError: for words that the model does not take.
        """
        words = {**self.words, **condition}
        if self.conditioner is not None:
            condition = dict(self.conditioner(**words))
        elif "prompt" in condition:
            raise ModelError(f"model {self.name!r} takes no prompt")
        plain = {name: _in_words(word) for name, word in words.items()}
        return replace(self, denoiser=self.denoiser.given(**condition), words=plain)

    def running(
        self,
        *,
        chunk: int | None = None,
        precision: Precision | None = None,
        compile: bool = False,
    ) -> Model:
        """The same model, its network run in another way; geometry stays in float64.

        Args:
            chunk: inputs per call of the network; None leaves it.
            precision: ``float32``, or ``bfloat16`` for evaluations: about 3 digits of a network's
                output; exact derivatives stay in float32. None leaves it.
            compile: pass the network through ``torch.compile``, which takes a minute once for
                every size of batch; derivatives are then finite differences of evaluations.

        Returns:
            the model.

        Raises:
            ModelError: for a chunk below 1 or an unknown precision.
        """
        if chunk is not None and chunk < 1:
            raise ModelError(f"chunk must be at least 1, got {chunk}")
        if precision not in (None, *get_args(Precision)):
            known = " or ".join(get_args(Precision))
            raise ModelError(f"unknown precision {precision!r}; choose {known}")
        change: dict[str, Any] = {}
        if chunk is not None:
            change["chunk"] = chunk
        if precision is not None:
            change["autocast"] = torch.bfloat16 if precision == "bfloat16" else None
        if compile:
            change |= {"fn": torch.compile(self.denoiser.fn), "jvp_mode": "finite-difference"}
        return replace(self, denoiser=replace(self.denoiser, **change))

    def caveats(self) -> tuple[str, ...]:
        """What a reader of any result of this model should know of it."""
        guidance = self.words.get("guidance", 1.0)
        if guidance == 1.0:
            return ()
        return (
            f"with guidance {guidance:g} the model is no posterior mean: lengths are those of "
            "the guided field; guidance 1 gives the geometry of the data under the prompt",
        )

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write ``config.json`` and ``weights.safetensors`` into a folder, made if needed.

        Args:
            directory: the folder.

        Returns:
            the folder.

        Raises:
            ModelError: for a model that was not made of diffodesic's own network.
        """
        from safetensors.torch import save_file

        network, schedule = self.denoiser.fn, self.denoiser.schedule
        if not (isinstance(network, UNet) and isinstance(schedule, EDM)):
            raise ModelError(
                "only models with diffodesic's own network can be saved; keep the "
                "foreign network's files and load them again"
            )
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        config = {
            **self.config,
            "name": self.name,
            "prediction": self.denoiser.prediction,
            "shape": list(self.codec.shape),
            "sigma_data": self.denoiser.sigma_data,
            "sigma_min": schedule.sigma_min,
            "sigma_max": schedule.sigma_max,
            "network": network.config,
        }
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=target) as folder:
            partial = Path(folder)
            (partial / _FILES[0]).write_text(json.dumps(config, indent=1))
            weights = {k: v.contiguous() for k, v in network.state_dict().items()}
            save_file(weights, partial / _FILES[1])
            for name in _FILES:
                (partial / name).replace(target / name)
        return target


def _in_words(value: Any) -> Any:
    """A condition as a result can keep it."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def available() -> dict[str, str]:
    """Names of the shipped models, with one line about each."""
    found = {}
    for path in sorted(_SHIPPED.glob(f"*/{_FILES[0]}")):
        config = json.loads(path.read_text())
        if "prediction" in config:
            shape = "x".join(map(str, config["shape"]))
            found[path.parent.name] = (
                f"{config['name']}: {shape} images, EDM U-Net, card in {path.parent.name}/CARD.md"
            )
    return found


def load(
    source: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    allow_download: bool = False,
    allow_pickle: bool = False,
) -> Model:
    """Load a model by name, from a folder, or through the door that a prefix names.

    Args:
        source: name of a shipped model (see ``available``); a folder that holds ``config.json``
            and ``weights.safetensors``; or ``diffusers:DIR``, ``edm:FILE`` or
            ``python:package.module:function``, described in ``adapters``.
        device: where the network runs.
        allow_download: let diffusers fetch a repository that is not on this disk.
        allow_pickle: read pickles, which run code of their author.

    Returns:
        the model, its network in float32 and evaluation mode.

    Raises:
        ModelError: for an unknown name, missing files, files of another program, or a device that
            is not there.
    """
    from diffodesic.adapters import PREFIXES, open_foreign

    prefix, _, rest = str(source).partition(":")
    if prefix in PREFIXES and rest:
        return open_foreign(
            prefix, rest, device=device, allow_download=allow_download, allow_pickle=allow_pickle
        )
    folder = _SHIPPED / str(source) if str(source) in available() else Path(source)
    if not folder.is_dir():
        names = ", ".join(available())
        raise ModelError(
            f"unknown model {str(source)!r}: neither a shipped model ({names}) nor a folder"
        )
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        other = (folder / "model_index.json").is_file()
        raise ModelError(
            f"{folder} is not a diffodesic model: it lacks {' and '.join(missing)}"
            + (f"; for a pipeline of diffusers give diffusers:{folder}" if other else "")
        )
    try:
        config = json.loads((folder / _FILES[0]).read_text())
        if config["prediction"] == "coordinates":
            raise ModelError("a denoiser of coordinates: open it with load_denoiser")
        network = UNet(**config["network"]).eval().requires_grad_(False)
        chunk = CHUNK if str(device) == "cpu" else CHUNK_ACCELERATED
        denoiser = _denoiser(network, config, chunk)
    except (ValueError, LookupError, TypeError, ArithmeticError, RuntimeError) as error:
        raise ModelError(
            f"{folder / _FILES[0]} does not describe a diffodesic model ({error!r}); give a folder "
            "written by `diffodesic train`"
        ) from error
    try:
        read_weights(network, folder / _FILES[1])
    except ValueError as error:
        raise ModelError(str(error)) from error
    _move(network, device)
    channels, height, width = denoiser.shape
    codec = PixelCodec((channels, height, width))
    return Model(denoiser, codec, str(config.get("name", folder.name)), config)


def _denoiser(network: UNet, config: Mapping[str, Any], chunk: int) -> NetworkDenoiser:
    if config["prediction"] != "edm":
        raise ValueError(f"prediction is {config['prediction']!r}, not 'edm'")
    channels, height, width = (int(n) for n in config["shape"])
    # a network that cannot take such pictures says so on its first call
    network(torch.zeros(1, channels, height, width), torch.zeros(1))
    return from_network(
        network,
        shape=(channels, height, width),
        schedule=EDM(float(config["sigma_min"]), float(config["sigma_max"])),
        prediction="edm",
        sigma_data=float(config["sigma_data"]),
        jvp_mode="finite-difference",
        chunk=chunk,
    )


def _move(network: UNet, device: torch.device | str) -> None:
    """Move to a device and see that it can be read from, as it cannot on ``meta``."""
    try:
        # convolutions on a CPU run half again as fast with the channels last
        network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        next(network.parameters()).sum().item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"the network cannot run on device {str(device)!r} ({reason}); try cpu"
        ) from error
