"""Open and read parquet files; whatever is wrong with one becomes a UserError that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vidwm.errors import UserError, first_line


def open_parquet(file: Path) -> pq.ParquetFile:
    """The file with its footer read, its columns not."""
    try:
        return pq.ParquetFile(file)
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; copy the missing file into the dataset.") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no readable parquet file ({first_line(error)}).") from error


def read_parquet(file: Path, columns: list[str]) -> list[dict[str, Any]]:
    """One dict a row; columns the file has not are left out."""
    with open_parquet(file) as parquet:
        try:
            rows: list[dict[str, Any]] = parquet.read(columns=columns).to_pylist()
            return rows
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} is damaged ({first_line(error)}).") from error
