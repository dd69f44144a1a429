"""A session that computes nothing: it keeps the protocol and the timed loops testable without a model."""

from __future__ import annotations

from pathlib import Path

from edgekit.records import Settings


class Session:
    """Counts tokens. `vocabulary` is 32; every decode is instant."""

    def __init__(self, settings: Settings) -> None:
        self.vocabulary = 32
        self.first_token: int | None = None
        self.batch_tokens = settings.batch_tokens
        self.context_tokens = settings.context_tokens
        self.threads = settings.threads or 1
        self.tokens: list[int] = []

    @property
    def position(self) -> int:
        return len(self.tokens)

    def decode(self, tokens: list[int]) -> None:
        self.tokens += tokens

    def rewind(self, tokens: int) -> None:
        del self.tokens[tokens:]

    def close(self) -> None:
        self.tokens = []


def describe_build() -> tuple[str, str]:
    """(build, CPU features) as the worker reports them."""
    return "null", ""


def open_session(path: Path, settings: Settings) -> Session:  # noqa: ARG001  (every runtime opens so)
    """A session on nothing; `path` is not opened."""
    return Session(settings)
