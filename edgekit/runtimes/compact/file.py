"""The file of a compact reference: sections, each with its length and checksum, and nothing in it that runs.

    magic, version                                                12 bytes
    HEAD   the record `ReferenceFile` as JSON                     sections: tag, index, length, CRC-32 of all of it
    VOCA   what the tokens stand for, compressed                  and of the header's, 20 bytes each, before the
    TEXT   the text, compressed                                   bytes that they tell of
    CHNK   a part of a chunk (`chunks`), once for each

Little-endian. A file that was cut off is good up to its last whole section, and writing goes on from there; a section
of another file, or out of its order, has the wrong checksum.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgekit.files import MAX_TEXT_BYTES, open_file
from edgekit.runtimes.compact.chunks import LEAST_PART_BYTES, Damaged

MAGIC = b"edgekref"
VERSION = 1
_PREAMBLE = struct.Struct("<8sI")
_SECTION = struct.Struct("<4sIQ")
_CHECKSUM = struct.Struct("<I")

HEAD, VOCABULARY, TEXT, CHUNK = b"HEAD", b"VOCA", b"TEXT", b"CHNK"
_ORDER = (HEAD, VOCABULARY, TEXT)
_LEAST_BYTES = {HEAD: 1, VOCABULARY: 1, TEXT: 1, CHUNK: LEAST_PART_BYTES}
_MOST_BYTES = {HEAD: 2**20, VOCABULARY: 2**26, TEXT: 2**28, CHUNK: 2**25}
MAX_VOCABULARY_BYTES, MAX_VOCABULARY = 2**26, 2**22
_PADDING = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Section:
    """Where the bytes of a section are, and what they must add up to."""

    tag: bytes
    index: int
    begin: int
    length: int
    checksum: int

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.begin + self.length


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file holds: its sections up to the first that is not whole or was not asked for, and where that begins."""

    sections: tuple[Section, ...]
    end: int
    size_bytes: int

    @property
    def parts(self) -> tuple[Section, ...]:
        """Those of the chunks' parts, in the text's order."""
        return self.sections[len(_ORDER) :]

    @property
    def seed(self) -> int:
        """What every checksum but the header's begins with."""
        return self.sections[0].checksum


def has_magic(path: Path) -> bool:
    """Whether the file at `path` begins as one of these."""
    try:
        with open_file(path) as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_layout(stream: BinaryIO, parts: int) -> Layout:
    """Where everything is, as far as the first `parts` of the chunks; of the bytes only the sections' heads are read.
    `parts` is what the header says or fewer: a stranger's file may have millions more. Raises Damaged where the
    beginning is no such file's, or another version's.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    magic, version = _PREAMBLE.unpack(stream.read(_PREAMBLE.size).ljust(_PREAMBLE.size, b"\0"))
    if magic != MAGIC:
        raise Damaged("it is no reference file")
    if version != VERSION:
        raise Damaged(f"it is of version {version}, and this edgekit reads version {VERSION}")
    sections: list[Section] = []
    end = _PREAMBLE.size
    for index in range(len(_ORDER) + parts):
        section = _read_section(stream, end, size, index)
        if section is None:
            break
        sections.append(section)
        end = section.end
    if not sections:
        raise Damaged("its header is cut off")
    return Layout(tuple(sections), end, size)


def _read_section(stream: BinaryIO, place: int, size: int, index: int) -> Section | None:
    """The section at `place`, the `index`th of the file; `None` where it is not whole. Raises Damaged where something
    else is there.
    """
    begin = place + _SECTION.size + _CHECKSUM.size
    if begin > size:
        return None
    stream.seek(place)
    data = stream.read(begin - place)
    tag, number, length = _SECTION.unpack_from(data)
    wanted = (_ORDER[index], 0) if index < len(_ORDER) else (CHUNK, index - len(_ORDER))
    if (tag, number) != wanted or not _LEAST_BYTES[tag] <= length <= _MOST_BYTES[tag]:
        raise Damaged(f"what should be {_named(*wanted)} is something else")
    if begin + length > size:
        return None
    return Section(tag, number, begin, length, _CHECKSUM.unpack_from(data, _SECTION.size)[0])


def read_section(stream: BinaryIO, section: Section, seed: int) -> bytes:
    """The bytes of a section. Raises Damaged where they are not what was written; `seed` is the layout's, 0 for the
    header.
    """
    stream.seek(section.begin)
    data = stream.read(section.length)
    if len(data) != section.length or _checksum(section.tag, section.index, data, seed) != section.checksum:
        raise Damaged(f"{_named(section.tag, section.index)} is damaged")
    return data


def start_file(stream: BinaryIO, header: bytes) -> int:
    """Write what stands before the sections, and the header; what the others' checksums begin with."""
    stream.write(_PREAMBLE.pack(MAGIC, VERSION))
    append_section(stream, HEAD, 0, header, 0)
    return _checksum(HEAD, 0, header, 0)


def append_section(stream: BinaryIO, tag: bytes, index: int, data: bytes, seed: int) -> None:
    """Write one more section where `stream` stands."""
    head = _SECTION.pack(tag, index, len(data)) + _CHECKSUM.pack(_checksum(tag, index, data, seed))
    stream.write(head + data)
    stream.flush()


def whole_parts(stream: BinaryIO, layout: Layout) -> int:
    """How many of the chunks' parts are undamaged, from the first on; none where what stands before them is not."""
    count = 0
    try:
        for section in layout.sections:
            read_section(stream, section, layout.seed if section.tag != HEAD else 0)
            count += section.tag == CHUNK
    except Damaged:
        pass
    return count


def _checksum(tag: bytes, index: int, data: bytes, seed: int) -> int:
    return zlib.crc32(data, zlib.crc32(_SECTION.pack(tag, index, len(data)), seed))


def _named(tag: bytes, index: int) -> str:
    if tag == CHUNK:
        return f"part {index + 1} of the chunks"
    return {HEAD: "the header", VOCABULARY: "the vocabulary", TEXT: "the text"}[tag]


# ---- vocabulary and text --------------------------------------------------------------------------------------------


def pack_vocabulary(texts: Sequence[str | None]) -> bytes:
    """What each token stands for, compressed: the number of tokens, their lengths, and their UTF-8 in a row."""
    encoded = [None if text is None else text.encode("utf-8", "replace") for text in texts]
    lengths = [_PADDING if text is None else len(text) for text in encoded]
    head = struct.pack(f"<I{len(lengths)}I", len(lengths), *lengths)
    return zlib.compress(head + b"".join(filter(None, encoded)), 6)


def unpack_vocabulary(data: bytes) -> list[str | None]:
    """What `pack_vocabulary` packed. Raises Damaged for anything else."""
    plain = _decompress(data, MAX_VOCABULARY_BYTES, "the vocabulary")
    count = struct.unpack_from("<I", plain)[0] if len(plain) >= 4 else 0
    if not 0 < 4 * (count + 1) <= len(plain) or count > MAX_VOCABULARY:
        raise Damaged("the vocabulary is cut off")
    place, texts = 4 * (count + 1), list[str | None]()
    for length in struct.unpack_from(f"<{count}I", plain, 4):
        if length == _PADDING:
            texts.append(None)
            continue
        texts.append(plain[place : place + length].decode("utf-8", "replace"))
        place += length
    if place != len(plain):
        raise Damaged("the vocabulary's lengths disagree")
    return texts


def pack_text(text: str) -> bytes:
    """The text, compressed."""
    return zlib.compress(text.encode(), 6)


def unpack_text(data: bytes) -> str:
    """What `pack_text` packed. Raises Damaged for anything else."""
    try:
        return _decompress(data, MAX_TEXT_BYTES, "the text").decode()
    except UnicodeDecodeError:
        raise Damaged("the text is not UTF-8") from None


def _decompress(data: bytes, most: int, what: str) -> bytes:
    """At most `most` bytes: a few hostile ones can stand for gigabytes."""
    unpacking = zlib.decompressobj()
    try:
        plain = unpacking.decompress(data, most)
    except zlib.error:
        raise Damaged(f"{what} cannot be unpacked") from None
    if not unpacking.eof:
        raise Damaged(f"{what} is cut off, or too large")
    return plain
