r"""Derivatives through networks that were written to be evaluated only.

Three kernels fail under forward mode or under derivatives of derivatives (torch 2.13):

- fused attention has neither; torch's own ``softmax(q k^T / sqrt d) v`` has both,
- group normalisation under forward mode needs a contiguous input with a contiguous tangent, which
  a transposition breaks,
- layer normalisation has both, but reverse mode through its forward mode is silently wrong by up
  to 80 %; its formula written out is right.

:func:`differentiable` replaces the three for the calls inside it, and changes nothing outside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from diffodesic.numerics.derivatives import is_transformed

__all__ = ["autocast", "differentiable", "full_float32", "is_differentiated"]


class _Shared:
    """A setting of the whole process, in force while a block of any thread is open.

    The first block keeps what was set and the last one brings it back.  Blocks that each brought
    back what they had found would bring back what another thread had set.

    Args:
        change: makes the context that changes the setting.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[object]]) -> None:
        self._change, self._lock, self._open = change, threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._open == 0:
                self._changed = self._change()
                self._changed.__enter__()
            self._open += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self._changed.__exit__(None, None, None)


@contextmanager
def _without_tf32() -> Iterator[None]:
    flags = torch.backends.cudnn
    before = flags.allow_tf32
    flags.allow_tf32 = False
    try:
        yield
    finally:
        flags.allow_tf32 = before


_PLAIN_ATTENTION = _Shared(partial(sdpa_kernel, SDPBackend.MATH))
_FULL_FLOAT32 = _Shared(_without_tf32)


@contextmanager
def differentiable() -> Iterator[None]:
    """Make calls of networks inside the ``with`` block differentiable any number of times."""
    with _PLAIN_ATTENTION, _PlainNorms():
        yield


def full_float32() -> AbstractContextManager[None]:
    """Keep float32 convolutions from TF32, in which GPUs round inputs to 10 bits by default."""
    return _FULL_FLOAT32


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Evaluate in another dtype where torch finds it safe; None changes nothing."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def is_differentiated(*tensors: Tensor) -> bool:
    """Tell whether a derivative is being taken through one of these tensors."""
    return any(
        is_transformed(tensor) or (torch.is_grad_enabled() and tensor.requires_grad)
        for tensor in tensors
    )


class _PlainNorms(TorchFunctionMode):
    """Replace the two normalisations by forms that every mode of differentiation gets right."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, or its replacement."""
        if func is F.layer_norm or func is torch.layer_norm:
            return _layer_norm(*args, **(kwargs or {}))
        if func is F.group_norm:
            # contiguous() looks at the value alone and would leave the tangent as it is
            args = (args[0].clone(memory_format=torch.contiguous_format), *args[1:])
        return func(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    centred = input - input.mean(axes, keepdim=True)
    out = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias
