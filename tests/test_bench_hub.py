"""The hub is asked once whether it is there; where it is not, its libraries look into their cache and nowhere else."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from edgekit.bench import hub


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "getproxies", dict)


def test_a_server_is_there_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert hub.reachable(f"http://127.0.0.1:{port}/api")
    assert not hub.reachable(f"http://127.0.0.1:{port}/api")
    for nowhere in ("https://", "https://hub.example:port", "https://hub.example:99999", f"https://{'x' * 70}.example"):
        assert not hub.reachable(nowhere)
    monkeypatch.setattr(hub, "getproxies", lambda: {"http": "http://proxy"})
    assert hub.reachable(f"http://127.0.0.1:{port}/api")  # the proxy's to say
    assert not hub.reachable(f"https://127.0.0.1:{port}/api")


def test_a_silent_resolver_costs_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking a name up cannot be told to hurry."""
    found = threading.Event()

    def resolve(*_: object, **__: object) -> None:
        found.wait(30)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", resolve)
    begun = time.monotonic()
    assert not hub.reachable("https://hub.example", patience_s=0.05)
    assert time.monotonic() - begun < 20
    found.set()  # the thread ends with its test


def test_out_of_reach_is_offline_for_a_while() -> None:
    datasets = pytest.importorskip("datasets", reason="edgekit[eval] is not installed")
    constants = pytest.importorskip("huggingface_hub").constants

    def switches() -> tuple[Any, Any]:
        return constants.is_offline_mode(), datasets.config.HF_HUB_OFFLINE

    with pytest.MonkeyPatch.context() as patch:
        for module in (constants, datasets.config):
            patch.setattr(module, "HF_HUB_OFFLINE", False)
        asked: list[str] = []
        with hub.offline_unless_reachable(lambda url: bool(asked.append(url))) as online:
            assert (online, switches()) == (False, (True, True))
            with pytest.raises(OSError, match="ffline"):
                datasets.load_dataset("nobody/nothing-of-that-name")
        assert switches() == (False, False)
        assert asked == [constants.ENDPOINT]
        with hub.offline_unless_reachable(lambda _: True) as online:
            assert (online, switches()) == (True, (False, False))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with hub.offline_unless_reachable(lambda _: pytest.fail("it was not to be asked")) as online:
            assert not online
