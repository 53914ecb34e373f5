"""Parse tf.train.Example, the protobuf message RLDS records hold, without TensorFlow or protobuf.

    Example   { Features features = 1; }
    Features  { map<string, Feature> feature = 1; }      a map entry: key = 1, value = 2
    Feature   { oneof: BytesList = 1 | FloatList = 2 | Int64List = 3 }
    *List     { repeated value = 1; }                    numbers packed or one by one

On the wire a message is fields of (number << 3 | wire type) and a value; wire type 0 is a varint,
1 is 8 bytes, 2 a length and so many bytes, 5 is 4 bytes (protobuf.dev, "Encoding"). Values are
sliced out of the record, not copied, until they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3
VARINT, EIGHT_BYTES, LENGTH_DELIMITED, FOUR_BYTES = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are not the message they should be."""


def parse_example(record: memoryview) -> dict[str, memoryview]:
    """Feature name -> its encoded Feature, to be passed to `read_bytes` or `read_numbers`."""
    features: dict[str, memoryview] = {}
    for message in _submessages(record, 1):
        for entry in _submessages(message, 1):
            fields = dict(_fields(entry))
            key, value = fields.get(1, b""), fields.get(2, memoryview(b""))
            if isinstance(key, int) or isinstance(value, int):
                raise WireError("a feature map entry is not a pair of key and message")
            features[bytes(key).decode()] = value
    return features


def read_bytes(feature: memoryview) -> list[memoryview]:
    """The values of a feature that holds a BytesList."""
    return [value for values in _submessages(feature, BYTES_LIST) for value in _slices(values)]


def read_numbers(feature: memoryview) -> np.ndarray:
    """The values (M,) of a feature that holds a FloatList (float32) or an Int64List (int64)."""
    for kind, message in _fields(feature):
        if kind == FLOAT_LIST:
            data = b"".join(_slices(_message(message)))
            if len(data) % 4:
                raise WireError("a list of floats is no multiple of 4 bytes")
            return np.frombuffer(data, "<f4")
        if kind == INT64_LIST:
            return np.array(list(_varints(_message(message))), np.uint64).view(np.int64)
    return np.zeros(0, np.float32)


def _varints(message: memoryview) -> Iterator[int]:
    for _, value in _fields(message):
        if isinstance(value, int):
            yield value
            continue
        offset = 0
        while offset < len(value):
            number, offset = _varint(value, offset)
            yield number


def _slices(message: memoryview) -> Iterator[memoryview]:
    for _, value in _fields(message):
        yield _message(value)


def _submessages(message: memoryview, number: int) -> Iterator[memoryview]:
    for field, value in _fields(message):
        if field == number:
            yield _message(value)


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise WireError("found a number where a message is expected")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of one message: an int for a varint, else its bytes."""
    offset, end = 0, len(message)
    while offset < end:
        tag, offset = _varint(message, offset)
        wire_type = tag & 7
        if wire_type == VARINT:
            value, offset = _varint(message, offset)
            yield tag >> 3, value
            continue
        if wire_type == LENGTH_DELIMITED:
            size, offset = _varint(message, offset)
        elif wire_type in (EIGHT_BYTES, FOUR_BYTES):
            size = 8 if wire_type == EIGHT_BYTES else 4
        else:
            raise WireError(f"unknown wire type {wire_type}")
        if size > end - offset:
            raise WireError(f"a field claims {size} bytes, {end - offset} are left")
        yield tag >> 3, message[offset : offset + size]
        offset += size


def _varint(message: memoryview, offset: int) -> tuple[int, int]:
    """(value below 2**64, offset after it)."""
    if offset < len(message) and message[offset] < 0x80:  # most are one byte
        return message[offset], offset + 1
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(message):
            break
        byte = message[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), offset
    raise WireError("a number runs past the end of its message or past 64 bits")
