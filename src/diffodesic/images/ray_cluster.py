"""Calls of a function on a Ray cluster: placing, retries and the death of workers are Ray's.

Ray is an extra, ``pip install 'diffodesic[ray]'``, on the machines of the cluster too.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

__all__ = ["on_ray"]

A = TypeVar("A")
R = TypeVar("R")
PATIENCE = 5.0  # seconds that an address may take to answer


def on_ray(
    function: Callable[[bytes, A], R], common: bytes, parts: Mapping[int, A], address: str
) -> Iterator[tuple[int, R]]:
    """Call a function for several parts, as tasks of one CPU each.

    Args:
        function: what is called, of a module that the cluster has too.
        common: its first argument, which travels once to each machine.
        parts: its second argument, by number.
        address: of the cluster, ``HOST:PORT`` or ``ray://HOST:PORT``; ``auto`` for the one of this
            machine, ``local`` to begin one for this call.

    Yields:
        the number of a part and what the function gave, as soon as it has ended.

    Raises:
        ImportError: without Ray.
        ValueError: if no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            f"{error}: a cluster needs the extra, pip install 'diffodesic[ray]'"
        ) from error
    own = not ray.is_initialized()
    if own:
        try:
            _answers(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # its kinds differ from one version to another
            words = " ".join(str(error).split())
            raise ValueError(
                f"no Ray cluster answers at {address} ({words}); begin one by `ray start --head`, "
                "or give the address local"
            ) from error
    try:
        sent, task = ray.put(common), ray.remote(function)
        places = {task.remote(sent, part): place for place, part in parts.items()}
        while places:
            for done in ray.wait(list(places))[0]:
                yield places.pop(done), ray.get(done)
    finally:
        if own:
            ray.shutdown()


def _answers(address: str) -> None:
    """Raise where nothing listens: Ray itself would wait for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:  # else a word of Ray's
        socket.create_connection((host, int(port)), PATIENCE).close()
