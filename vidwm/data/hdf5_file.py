"""Open an HDF5 file from elsewhere and look at its arrays without following it anywhere.

A file of this format may point into other files (external links, external storage, virtual
datasets), name filters that load programs, and claim arrays far larger than itself. Here a path is
walked link by link, and an array is only handed out once it lies in this file and could be stored
in its size. HDF5 itself decodes the rest; what it finds wrong becomes a UserError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from vidwm.data.reading import MAX_DEFLATE_RATIO
from vidwm.errors import UserError

MAX_SOFT_LINKS = 8
BUILT_IN_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_SZIP,
    h5py.h5z.FILTER_NBIT,
    h5py.h5z.FILTER_SCALEOFFSET,
    h5py.h5z.FILTER_LZF,
}
_DAMAGE = (
    *(OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(OverflowError, MemoryError, SystemError),
)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """The file, closed afterwards; whatever the library raises meanwhile becomes a UserError."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; copy the missing file into the dataset.") from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path} is no readable HDF5 file ({reason}); copy it again or remove it."
        ) from error


def find(group: h5py.Group, name: str, soft_links: int = 0) -> h5py.Group | h5py.Dataset | None:
    """What lies at a path below a group, None if nothing does; UserError if it leaves the file."""
    here = group
    for part in (part for part in name.split("/") if part):
        if not isinstance(here, h5py.Group):
            return None
        link = here.get(part, getlink=True)
        if link is None:
            return None
        if isinstance(link, h5py.SoftLink):
            if soft_links >= MAX_SOFT_LINKS:
                raise UserError(f"{_place(here, part)} is a link that leads in circles; remove it.")
            start = here.file if link.path.startswith("/") else here
            here = find(start, link.path, soft_links + 1)
        elif isinstance(link, h5py.HardLink):
            here = here[part]
        else:
            raise UserError(
                f"{_place(here, part)} is a link to another file, which is not followed; copy the "
                f"data into this file."
            )
    return here


def find_array(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """The array at a path below a group, None if there is none; UserError if it is not sound."""
    array = find(group, name)
    if not isinstance(array, h5py.Dataset):
        return None
    where = _place(group, name)
    if array.is_virtual or array.external:
        raise UserError(
            f"{where} keeps its data in other files, which are not read; copy the data into this "
            f"file."
        )
    properties = array.id.get_create_plist()
    for index in range(properties.get_nfilters()):
        number, _, _, filter_name = properties.get_filter(index)
        if number not in BUILT_IN_FILTERS:
            raise UserError(
                f"{where} is compressed by filter {number} "
                f"({filter_name.decode(errors='replace')!r}), which HDF5 does not have built in; "
                f"write the file again with gzip (h5repack -f GZIP=4)."
            )
    _check_size(array, where)
    return array


def _check_size(array: h5py.Dataset, where: str) -> None:
    """UserError for an array, or a chunk of one, that its stored bytes cannot amount to."""
    stored = array.id.get_storage_size()
    itemsize = array.dtype.itemsize
    sizes = [array.shape or ()] + ([array.chunks] if array.chunks else [])
    claimed = max(int(np.prod([itemsize, *shape], dtype=object)) for shape in sizes)
    if array.chunks is None and h5py.check_vlen_dtype(array.dtype) is None:
        limit = stored  # contiguous: not compressed
    else:
        limit = MAX_DEFLATE_RATIO * (stored + 1)
    if claimed > limit or stored > array.file.id.get_filesize():
        raise UserError(
            f"{where} claims {claimed} bytes, but stores {stored}; the file is damaged or was "
            f"never filled in: copy it again or remove it."
        )


def _place(group: h5py.Group, name: str) -> str:
    return f"{group.file.filename}: {group.name.rstrip('/')}/{name.strip('/')}"
