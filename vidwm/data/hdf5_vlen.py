"""Values of changing length in HDF5 files, read by another process that may be stopped.

They lie in "global heaps", and the library walks a damaged one for ever (HDF5 2.0,
H5HG__cache_heap_deserialize), where Python cannot interrupt it. Metadata texts are such values, and
so are JPEGs kept at their own lengths. The process runs this file alone, which imports no torch.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py

SECONDS, SECONDS_PER_FILE = 20.0, 2.0


class StoppedError(Exception):
    """The library failed on, or never came back from, the file of this number."""


def group_texts(files: Sequence[Path], group: str, keys: Sequence[str]) -> list[dict[str, str]]:
    """Those text attributes of a group that each file has; StoppedError for the one that fails."""
    if not files:
        return []
    request = {"files": [str(file) for file in files], "group": group, "keys": list(keys)}
    output, failed = _run(request, SECONDS + SECONDS_PER_FILE * len(files))
    lines = output.split(b"\n")[:-1]
    if failed or len(lines) != len(files):
        raise StoppedError(min(len(lines), len(files) - 1))
    return [json.loads(line) for line in lines]


def byte_rows(file: Path, array: str, start: int, stop: int) -> list[bytes]:
    """Rows start .. stop - 1 of an array of byte strings; StoppedError if they cannot be read."""
    request = {"files": [str(file)], "array": array, "start": start, "stop": stop}
    output, failed = _run(request, SECONDS)
    rows, offset = [], 0
    while not failed and offset < len(output):
        (size,) = struct.unpack_from("<q", output, offset)
        rows.append(output[offset + 8 : offset + 8 + size])
        offset += 8 + size
    if failed or len(rows) != stop - start:
        raise StoppedError(0)
    return rows


def _run(request: Mapping[str, object], seconds: float) -> tuple[bytes, bool]:
    """What the process wrote, and whether it failed or had to be stopped."""
    command = [sys.executable, "-I", __file__]
    try:
        done = subprocess.run(
            command, input=json.dumps(request).encode(), capture_output=True, timeout=seconds
        )
    except subprocess.TimeoutExpired as expired:
        return expired.output or b"", True
    return done.stdout, done.returncode != 0


def _answer_texts(path: str, group: str, keys: list[str]) -> dict[str, str]:
    with h5py.File(path, "r", locking=False) as file:
        if not isinstance(file.get(group, getlink=True), h5py.HardLink):
            return {}
        attributes = file[group].attrs
        values = {key: attributes[key] for key in keys if key in attributes}
    texts = {
        k: v.decode(errors="replace") if isinstance(v, bytes) else v for k, v in values.items()
    }
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def _main() -> None:
    request = json.load(sys.stdin)
    for path in request["files"]:
        if "array" not in request:
            answer = _answer_texts(path, request["group"], request["keys"])
            print(json.dumps(answer), flush=True)
            continue
        with h5py.File(path, "r", locking=False) as file:
            for row in file[request["array"]][request["start"] : request["stop"]]:
                data = row.tobytes()
                sys.stdout.buffer.write(struct.pack("<q", len(data)) + data)


if __name__ == "__main__":
    _main()
