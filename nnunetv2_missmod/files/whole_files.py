"""Files that are whole: checked before their voxels are believed, and replaced at once when they are written.

SimpleITK reads a truncated NIfTI or GIPL file, and NaN in NIfTI, as zeros without a word, and ignores a disk that is
full when it writes. The other formats of nnU-Net's readers (NRRD, MetaImage, PNG, TIFF) are refused by their libraries
when they are cut short; NaN in them is seen in the voxels.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import nibabel as nib
import numpy as np
from filelock import FileLock, Timeout

from nnunetv2_missmod.files.channels import NIFTI

GIPL = ".gipl"
BLOCK = 2**20  # bytes that are looked at at a time; a multiple of every voxel's size
HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}  # by their length
GIPL_HEADER = 256
GIPL_BYTES = {1: 1, 7: 1, 8: 1, 15: 2, 16: 2, 31: 4, 32: 4, 64: 4, 65: 8}  # of a voxel, by the header's image type
LOCK = ".lock"


class Layout(NamedTuple):
    """Where the voxels of a file lie, and of which type they are."""

    offset: int  # bytes
    voxels: int
    dtype: np.dtype[Any]


def is_nifti(file: Path) -> bool:
    """Tell by its ending, in whatever case."""
    return file.name.lower().endswith(NIFTI)


def check_whole(file: Path) -> None:
    """Check that an image or label map is as long as its header says, its gzip stream ended, and its voxels finite.

    Args:
        file: of any format; those whose libraries notice damage themselves are not opened here.

    Raises:
        ValueError: the file is missing, empty, damaged or a colour image, or holds NaN or infinity.
    """
    try:
        if not file.stat().st_size:
            raise ValueError("it is empty")
        if is_nifti(file):
            with _opened(file) as stream:
                _check_nifti(stream)
        elif file.name.lower().endswith(GIPL):
            _check_gipl(file)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"expected a whole image, got {file}: {_said(error)}. Copy it again or repair it") from error


def _opened(file: Path) -> Any:
    return gzip.open(file, "rb") if file.name.lower().endswith(".gz") else open(file, "rb")


def _check_nifti(stream: BinaryIO) -> None:
    layout = _layout_of_nifti(stream)
    remaining = layout.voxels * layout.dtype.itemsize
    while remaining:
        block = stream.read(min(BLOCK, remaining))
        if len(block) < min(BLOCK, remaining):
            raise ValueError(
                f"it ends {remaining - len(block):,} bytes before the end of the {layout.voxels:,} voxels that its "
                "header promises"
            )
        remaining -= len(block)
        if layout.dtype.kind in "fc" and not np.isfinite(np.frombuffer(block, layout.dtype)).all():
            raise ValueError("it holds NaN or infinity")
    while stream.read(BLOCK):  # to the end of the stream, where its checksum stands
        pass


def _layout_of_nifti(stream: BinaryIO) -> Layout:
    """Read the header; the stream is left at the first voxel."""
    start = stream.read(4)
    length = next((n for n in HEADERS for order in ("little", "big") if n.to_bytes(4, order) == start), None)
    if length is None:
        raise ValueError("it is no NIfTI file")
    block = start + stream.read(length - 4)
    if len(block) < length:
        raise ValueError("it ends within its header")
    header = HEADERS[length](block, check=False)  # type: ignore[no-untyped-call]
    shape = [int(n) for n in header["dim"][1 : 1 + int(header["dim"][0])]]
    if not shape or min(shape) < 1:
        raise ValueError(f"its header promises the shape {shape}")
    try:
        dtype = header.get_data_dtype()  # type: ignore[no-untyped-call]
    except (nib.spatialimages.HeaderDataError, KeyError) as error:
        raise ValueError(f"its header names an unknown type of voxels ({error})") from error
    if dtype.fields is not None:
        raise ValueError("it is a colour image, of several values per voxel; expected one value per voxel")
    if dtype.itemsize == 0 or BLOCK % dtype.itemsize:
        raise ValueError(f"its voxels are of type {dtype}")
    offset = float(header["vox_offset"])
    if not length <= offset < 2**31:
        raise ValueError(f"its header places the voxels at byte {offset:g}")
    stream.read(int(offset) - length)
    return Layout(int(offset), prod(shape), dtype)


def _check_gipl(file: Path) -> None:
    with open(file, "rb") as stream:
        header = stream.read(GIPL_HEADER)
    if len(header) < GIPL_HEADER:
        raise ValueError("it ends within its header")
    voxels = prod(max(int(n), 1) for n in np.frombuffer(header[:8], ">u2"))
    promised = GIPL_HEADER + voxels * GIPL_BYTES.get(int.from_bytes(header[8:10], "big"), 1)
    if file.stat().st_size < promised:
        raise ValueError(f"it has {file.stat().st_size:,} bytes where its header promises {promised:,}")


def _said(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
        return f"its compressed stream is damaged ({error})"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


# --- writing ----------------------------------------------------------------------------------------------------------


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Replace a file at once: whoever reads it finds the old one or the new one, also after a disk was full.

    Args:
        file: to be written.
        write: writes to the path that it is given.

    Raises:
        OSError: it could not be written; a file that was there is as it was.
    """
    partial = file.with_name(f".partial_{file.name}")  # the ending tells the writers of images what to write
    try:
        write(partial)
        flush(partial)
        os.replace(partial, file)
    except OSError as error:  # not every library says which file, and why in the same words
        raise OSError(error.errno, os.strerror(error.errno) if error.errno else str(error), str(file)) from error
    finally:
        partial.unlink(missing_ok=True)


def flush(file: Path) -> None:
    """Bring a file to the disk: some file systems tell only then that there is no room for it.

    Raises:
        OSError: there is none.
    """
    with open(file, "rb") as written:
        os.fsync(written.fileno())


@contextmanager
def hidden_folder(parent: Path, purpose: str) -> Iterator[Path]:
    """Give a hidden folder to write in until what it holds may get its place.

    Args:
        parent: the folder to make it in.
        purpose: in its name, such as "writing"; ``clear_hidden_folders`` finds by it what a dead process left.
    """
    new = Path(tempfile.mkdtemp(prefix=f".new_{purpose}_", dir=parent))
    with FileLock(new / LOCK):  # the system frees it when this process dies, however it dies
        folder = new.rename(parent / new.name.replace(".new_", ".", 1))  # under this name it was never without a lock
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def clear_hidden_folders(parent: Path, purpose: str, undo: Callable[[Path], object] | None = None) -> None:
    """Remove the hidden folders, right below a folder, of processes that died before they could.

    Args:
        parent: the folder that they stand in.
        purpose: as it was given to ``hidden_folder``.
        undo: called with each folder before it is removed, while no other process takes it.
    """
    # A new one without a lock may be another process's that is about to take it.
    new = [folder for folder in parent.glob(f".new_{purpose}_*") if (folder / LOCK).exists()]
    for folder in [*parent.glob(f".{purpose}_*"), *new]:
        try:
            with FileLock(folder / LOCK, timeout=0):
                if undo:
                    undo(folder)
                shutil.rmtree(folder)
        except (Timeout, OSError):
            continue  # its process is at work, or it is not ours to remove
