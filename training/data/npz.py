"""One .npz file of arrays, read without ever unpickling."""

import zipfile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from training.data.messages import fault, listed
from training.data.raw import ImageArray, LabelArray, RawData, RawSide

AnyArray: TypeAlias = npt.NDArray[Any]

REQUIRED = ("x", "y")
OPTIONAL = ("x_test", "y_test", "class_names")
GREY_DIMENSIONS = 3
COLOUR_DIMENSIONS = 4
MAX_PIXEL = 255
MAX_LABEL = np.iinfo(np.int64).max


def read_npz(path: Path) -> RawData:
    """Read x and y, and where they are there x_test, y_test and class_names.

    Without class_names the classes are the labels of y, written as numbers.

    Raises:
        DataError: a damaged file, a missing or unknown array, an object array, pixels that are not uint8
            (n, h, w) or (n, h, w, c), labels that are not integers (n,), or labels with a gap and no
            class_names.
    """
    arrays = _read_arrays(path)
    train = _side(path, arrays, "train", "")
    test = _side(path, arrays, "test", "_test") if "x_test" in arrays else None
    return RawData(train, test, _class_names(path, arrays, train.labels))


def _read_arrays(path: Path) -> dict[str, AnyArray]:
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise fault(path, "is no .npz file, or truncated; write it with numpy.savez_compressed")
    try:
        with np.load(path, allow_pickle=False) as archive:
            _check_array_names(path, archive.files)
            return {name: _read_array(path, archive, name) for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise fault(path, "damaged .npz file; write it again with numpy.savez_compressed") from error


def _read_array(path: Path, archive: np.lib.npyio.NpzFile, name: str) -> AnyArray:
    try:
        array = archive[name]
    except Exception as error:
        if "Object arrays" in str(error):
            msg = f"{name} is an object array, which would have to be unpickled; give plain numbers or text"
            raise fault(path, msg) from error
        # zipfile, zlib and numpy's header parser each raise their own kinds for damaged bytes.
        msg = f"{name} is damaged or truncated; write the file again with numpy.savez_compressed"
        raise fault(path, msg) from error
    if not isinstance(array, np.ndarray):
        raise fault(path, f"{name} is no array; write the file with numpy.savez_compressed")
    return array


def _check_array_names(path: Path, names: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in names]
    if ("x_test" in names) != ("y_test" in names):
        missing += [name for name in ("x_test", "y_test") if name not in names]
    if missing:
        raise fault(path, f"array {listed(missing)} is missing; give x and y, with x_test also y_test")
    unknown = sorted(ascii(name) for name in set(names) - {*REQUIRED, *OPTIONAL})
    if unknown:
        raise fault(path, f"unknown array {listed(unknown)}; use {', '.join((*REQUIRED, *OPTIONAL))}")


def _side(path: Path, arrays: dict[str, AnyArray], title: str, suffix: str) -> RawSide:
    images = _images(path, f"x{suffix}", arrays[f"x{suffix}"])
    labels = _labels(path, f"y{suffix}", arrays[f"y{suffix}"])
    if len(images) != len(labels):
        msg = f"x{suffix} has {len(images)} rows but y{suffix} {len(labels)}; give one label for each image"
        raise fault(path, msg)
    return RawSide(images, labels, title)


def _images(path: Path, name: str, array: AnyArray) -> ImageArray:
    if array.dtype != np.uint8:
        raise fault(path, f"{name} is {array.dtype}{_float_flaw(array)}; give uint8 0-255")
    if array.ndim == GREY_DIMENSIONS:
        array = array[..., np.newaxis]
    if array.ndim != COLOUR_DIMENSIONS or array.shape[3] not in (1, 3):
        planar = array.ndim == COLOUR_DIMENSIONS and array.shape[1] in (1, 3)
        hint = "; the channels seem to come first, so transpose it" if planar else ""
        msg = f"{name} has shape {array.shape}; give (n, h, w) or (n, h, w, c) with 1 or 3 channels{hint}"
        raise fault(path, msg)
    return np.ascontiguousarray(array, dtype=np.uint8)


def _float_flaw(array: AnyArray) -> str:
    if not np.issubdtype(array.dtype, np.floating) or not array.size:
        return ""
    flat = array.reshape(len(array), -1)
    outside = (flat < 0) | (flat > MAX_PIXEL)
    for flaw, wrong in (("is NaN", np.isnan(flat)), ("is outside 0-255", outside)):
        rows = np.flatnonzero(wrong.any(axis=1))
        if rows.size:
            return f" and a pixel of row {rows[0]} {flaw}"
    return ""


def _labels(path: Path, name: str, array: AnyArray) -> LabelArray:
    if not np.issubdtype(array.dtype, np.integer) or array.ndim != 1:
        msg = f"{name} is {array.dtype} of shape {array.shape}; give integers of shape (n,)"
        raise fault(path, msg)
    wrong = np.flatnonzero((array < 0) | (array > MAX_LABEL))
    if wrong.size:
        row = wrong[0]
        raise fault(path, f"{name} row {row} is {array[row]}; labels count from 0 to classes - 1")
    return array.astype(np.int64)


def _class_names(path: Path, arrays: dict[str, AnyArray], labels: LabelArray) -> tuple[str, ...]:
    if "class_names" in arrays:
        names = arrays["class_names"]
        if names.dtype.kind != "U" or names.ndim != 1:
            msg = f"class_names is {names.dtype} of shape {names.shape}; give text of shape (classes,)"
            raise fault(path, msg)
        return tuple(str(name) for name in names)
    present = np.unique(labels)
    gaps = np.flatnonzero(present != np.arange(present.size))
    if gaps.size:
        msg = f"y has no row of class {gaps[0]} but one of class {present[-1]}"
        raise fault(path, f"{msg}; number the classes without gaps, or give class_names")
    return tuple(str(label) for label in present)
