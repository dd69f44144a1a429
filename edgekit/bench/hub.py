"""Whether Hugging Face's hub is within reach, asked once: its libraries ask again and again for every file, half a
minute each, before they look at what was fetched earlier.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

PATIENCE_S = 4.0
"""For a name to be found and a connection to be made."""


def reachable(url: str, *, patience_s: float = PATIENCE_S) -> bool:
    """Whether a connection to the server of `url` can be made. Behind a proxy it is not asked, and taken to be so."""
    place = urlsplit(url)
    if place.scheme in (proxies := getproxies()) or "all" in proxies:
        return True
    met = threading.Event()

    def knock() -> None:
        try:
            port = place.port or (80 if place.scheme == "http" else 443)
            socket.create_connection((place.hostname or "", port), timeout=patience_s).close()
        except (OSError, ValueError):  # a port or a name that none can be
            return
        met.set()

    asking = threading.Thread(target=knock, daemon=True)  # looking a name up knows no time-out
    asking.start()
    asking.join(patience_s)
    return met.is_set()


@contextmanager
def offline_unless_reachable(is_reachable: Callable[[str], bool] = reachable) -> Iterator[bool]:
    """While this lasts, datasets come from their cache or not at all where the hub is out of reach; whether it is
    within. As with `HF_HUB_OFFLINE=1`, which is left as it is.
    """
    import datasets
    from huggingface_hub import constants

    if constants.is_offline_mode() or is_reachable(constants.ENDPOINT):
        yield not constants.is_offline_mode()
        return
    switches: list[tuple[Any, str]] = [(constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE")]
    before = [getattr(module, name) for module, name in switches]
    for module, name in switches:
        setattr(module, name, True)
    try:
        yield False
    finally:
        for (module, name), value in zip(switches, before, strict=True):
            setattr(module, name, value)
