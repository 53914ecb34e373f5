"""TFRecord files: where each record lies, and its bytes with both checksums verified.

A record is a length (uint64, little-endian), the CRC of those 8 bytes (uint32), the payload, and
the CRC of the payload (uint32); each CRC is CRC-32C, rotated and offset ("masked") as in
tensorflow/core/lib/hash/crc32c.h. Nothing is allocated on the word of a header: every length is
held against the size of the file first. Files stay closed between reads, for datasets have
thousands.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from vidwm.errors import UserError

HEADER_BYTES, FOOTER_BYTES = 12, 4


@dataclass(frozen=True, slots=True)
class Record:
    """The payload's place in its file, in bytes."""

    offset: int
    size: int


def index_records(path: Path) -> Iterator[tuple[Record, memoryview]]:
    """Every record of a file with a view of its payload, of which only what is looked at is read.

    The lengths are verified, the payloads not: `read_record` does that. UserError if the file is
    missing, damaged or cut short.
    """
    try:
        with path.open("rb") as file:
            end = path.stat().st_size
            # An empty file cannot be mapped, and holds no records.
            content = memoryview(
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if end else b""
            )
    except FileNotFoundError:
        raise UserError(
            f"Record file {path} does not exist; copy the missing shard into the dataset."
        ) from None
    except OSError as error:
        raise UserError(f"Record file {path} cannot be read ({error.strerror}).") from error
    offset = 0
    while offset < end:
        header = content[offset : offset + HEADER_BYTES]
        if len(header) < HEADER_BYTES:
            raise damaged(path, offset, "the file ends inside a record's header")
        size, crc = struct.unpack("<QI", header)
        if _masked_crc(bytes(header[:8])) != crc:
            raise damaged(path, offset, "the checksum of the record's length is wrong")
        left = end - offset - HEADER_BYTES - FOOTER_BYTES
        if size > left:
            raise damaged(path, offset, f"the record claims {size} bytes, but {left} are left")
        start = offset + HEADER_BYTES
        yield Record(start, size), content[start : start + size]
        offset = start + size + FOOTER_BYTES


def read_record(path: Path, record: Record) -> memoryview:
    """The payload; UserError if it is cut short or its checksum is wrong."""
    try:
        with path.open("rb") as file:
            file.seek(record.offset)
            payload, footer = file.read(record.size), file.read(FOOTER_BYTES)
    except OSError as error:
        raise UserError(f"Record file {path} cannot be read ({error.strerror}).") from error
    if len(footer) < FOOTER_BYTES:
        raise damaged(path, record.offset, "the file ends inside a record")
    if _masked_crc(payload) != struct.unpack("<I", footer)[0]:
        raise damaged(path, record.offset, "the checksum of the record's contents is wrong")
    return memoryview(payload)


def damaged(path: Path, offset: int, what: str) -> UserError:
    """The error to raise for a record file that is not as it was written."""
    return UserError(f"Record file {path} is damaged at byte {offset}: {what}; copy it again.")


def _masked_crc(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
