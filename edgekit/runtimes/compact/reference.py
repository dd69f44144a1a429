"""A compact reference file in the scoring process, in the place of a second model (`references.Reference`).

A stranger may have written the file: it is parsed here, behind the fence, and nowhere else but for its header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edgekit.runtimes.compact import file as container
from edgekit.runtimes.compact.chunks import Damaged, decode_chunk, parts_of, rows_of
from edgekit.runtimes.compact.rows import Rows, join_scores, judge_rows
from edgekit.runtimes.protocol import SessionRefused
from edgekit.runtimes.references import ScoringSession, check_range, compare_tokens, compare_vocabularies
from edgekit.runtimes.scoring_worker import chunk_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit.runtimes.scores import RowScores


def open_reference(
    path: Path, *, model: str, context_tokens: int, chunks: int, vocabulary: int, row_bytes: int, text_sha256: str
) -> FileReference:
    """The file at `path`; the rest is its header's, which edgekit has checked. Raises SessionRefused (`reference`)."""
    with _refusing():
        stream = path.open("rb")
        try:
            layout = container.read_layout(stream, chunks * parts_of(context_tokens))
        except BaseException:
            stream.close()
            raise
    return FileReference(stream, layout, model, context_tokens, vocabulary, row_bytes, text_sha256)


class FileReference:
    """What a file says of its text. A few hundred rows are held at a time."""

    def __init__(
        self,
        stream: BinaryIO,
        layout: container.Layout,
        model: str,
        context_tokens: int,
        vocabulary: int,
        row_bytes: int,
        text_sha256: str,
    ) -> None:
        self._stream, self._layout, self._model = stream, layout, model
        self._context_tokens, self._text_sha256 = context_tokens, text_sha256
        self._vocabulary = self._known = vocabulary
        self._row_bytes, self._parts = row_bytes, parts_of(context_tokens)
        self._next = self._place = 0
        self._rows: Rows | None = None

    def close(self) -> None:
        """Give the file back."""
        self._stream.close()

    def check(self, session: ScoringSession, text: str, tokens: list[int]) -> None:
        """The whole file is read through once: what is wrong with it shows before anything is evaluated."""
        if hashlib.sha256(text.encode()).hexdigest() != self._text_sha256:
            raise SessionRefused("reference", "the reference file was made of another text")
        with _refusing():
            data = container.read_section(self._stream, self._layout.sections[1], self._layout.seed)
            texts = container.unpack_vocabulary(data)
            if len(texts) != self._vocabulary:
                raise Damaged("its vocabulary is not the one its header tells of")
        self._compare(lambda: compare_vocabularies(session.token_texts(), texts))
        self._known = len(texts) - next(place for place, one in enumerate(reversed(texts)) if one is not None)
        check_range(tokens, min(self._vocabulary, session.vocabulary))
        ours: list[int] = []
        theirs: list[int] = []
        for number in range(len(self._layout.parts)):
            theirs += self._read(number)[0]
            index, part = divmod(number, self._parts)
            if not part and len(tokens) > index * self._context_tokens:
                ours += chunk_of(session, tokens, index, self._context_tokens)
        self._compare(lambda: compare_tokens(session, ours, theirs))

    def _compare(self, compare: Callable[[], None]) -> None:
        try:
            compare()
        except SessionRefused as refusal:
            raise SessionRefused(
                "reference", f"the reference file is of another model, `{self._model}`: {refusal}"
            ) from None

    def begin(self, index: int, chunk: list[int]) -> None:
        """Read what the file holds of a chunk, its first part."""
        self._next = index * self._parts
        if self._advance() != chunk:
            raise SessionRefused("reference", f"the reference file holds another text in chunk `{index + 1}`")

    def score(self, tokens: list[int], logits: NDArray[np.float32], targets: list[int], *, threads: int) -> RowScores:
        """The unbiased estimate, the lower bound, and what is exact; over the reference's columns, or over the tokens
        that stand for something where the artifact has fewer.
        """
        found, done = [], 0
        while done < len(targets):
            assert self._rows is not None
            if self._place == len(self._rows.nll):
                self._advance()
            rows = self._rows.part(self._place, min(len(self._rows.nll), self._place + len(targets) - done))
            self._place += len(rows.nll)
            columns, end = self._vocabulary, done + len(rows.nll)
            if logits.shape[1] < columns:
                columns, rows = self._known, rows.without_padding(self._known)
            found.append(judge_rows(rows, logits[done:end, :columns], targets[done:end], threads=threads))
            done = end
        return join_scores(found)

    def _advance(self) -> list[int]:
        """Take the next part; its tokens."""
        tokens, self._rows = self._read(self._next)
        self._next, self._place = self._next + 1, 0
        return tokens

    def _read(self, number: int) -> tuple[list[int], Rows]:
        """A part, the `number`th of the file."""
        index, part = divmod(number, self._parts)
        with _refusing():
            if number >= len(self._layout.parts):
                raise Damaged(f"chunk {index + 1} is missing")
            data = container.read_section(self._stream, self._layout.parts[number], self._layout.seed)
            try:
                tokens, rows = decode_chunk(data, self._vocabulary, self._row_bytes)
            except Damaged as damage:
                raise Damaged(f"of chunk {index + 1} {damage}") from None
            wanted = (0 if part else self._context_tokens, rows_of(self._context_tokens, part))
            if (len(tokens), len(rows.nll)) != wanted:
                raise Damaged(f"chunk {index + 1} is of another length")
            return tokens, rows


@contextmanager
def _refusing() -> Iterator[None]:
    """Damage is bad input, said in a line."""
    try:
        yield
    except Damaged as damage:
        raise SessionRefused("reference", f"the reference file cannot be used: {damage}") from None
    except OSError as error:
        message = f"the reference file cannot be read: `{(error.strerror or 'failed').lower()}`"
        raise SessionRefused("reference", message) from None
