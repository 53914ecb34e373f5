"""The protobuf wire format, byte by byte: what is read, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vidwm.data.tfexample import WireError, parse_example, read_bytes, read_numbers


def test_all_kinds_of_lists(example: Callable[[dict[str, Any]], bytes]) -> None:
    integers = [0, 1, 127, 128, -1, 2**62, -(2**63)]
    floats = np.array([0.5, -3e38, np.inf], np.float32)
    values = {"bytes": [b"", b"ab"], "floats": floats, "integers": np.array(integers)}
    parsed = parse_example(memoryview(example(values)))
    assert list(parsed) == list(values)
    assert [bytes(value) for value in read_bytes(parsed["bytes"])] == [b"", b"ab"]
    assert read_numbers(parsed["floats"]).tolist() == floats.tolist()
    assert read_numbers(parsed["integers"]).tolist() == integers
    # A feature of the other kind is empty, not garbage.
    assert read_bytes(parsed["floats"]) == [] and len(read_numbers(parsed["bytes"])) == 0


def test_unknown_fields_are_skipped() -> None:
    eight, four, number = b"\x11" + b"8" * 8, b"\x15" + b"4" * 4, b"\x18\x07"
    assert parse_example(memoryview(eight + four + number)) == {}


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"\xff" * 12, "a number runs past"),
        (b"\x0a", "a number runs past"),
        (b"\x0a\xff\xff\xff\xff\x0f", "claims 4294967295 bytes, 0 are left"),
        (b"\x09\x01", "claims 8 bytes, 1 are left"),
        (b"\x0b", "unknown wire type 3"),
        (b"\x08\x01", "a number where a message"),
        (b"\x0a\x04\x0a\x02\x08\x01", "not a pair of key and message"),
        (b"\x0a\x07\x0a\x05\x0a\x01k\x10\x01", "not a pair of key and message"),
    ],
)
def test_malformed(message: bytes, error: str) -> None:
    with pytest.raises(WireError, match=error):
        parse_example(memoryview(message))


def test_floats_cut_short() -> None:
    with pytest.raises(WireError, match="no multiple of 4 bytes"):
        read_numbers(memoryview(b"\x12\x05\x0a\x03abc"))
