"""The schema that data from any source must meet before it is divided."""

import numpy as np

from training.data.messages import fault, listed, printable
from training.data.raw import RawData, RawSide

CHANNELS = (1, 3)
MIN_CLASSES = 2
IMAGE_DIMENSIONS = 4


def check_schema(raw: RawData, where: str = "data") -> None:
    """Check classes, dtypes, shapes and labels.

    Args:
        raw: what a source was read into.
        where: the path or source that an error names.

    Raises:
        DataError: fewer than two classes, names that repeat or cannot be printed, images that are not
            uint8 (n, h, w, 1 or 3), sets of different shapes, a label outside 0..classes-1, or a class
            without a training image.
    """
    _check_class_names(raw.class_names, where)
    for part in raw.parts:
        _check_arrays(part, where)
        _check_labels(part, raw.class_names, where)
    if raw.test is not None and raw.train.images.shape[1:] != raw.test.images.shape[1:]:
        msg = (
            f"train images have shape {raw.train.images.shape[1:]} but test images "
            f"{raw.test.images.shape[1:]}; give both one height, width and channels"
        )
        raise fault(where, msg)
    counts = np.bincount(raw.train.labels, minlength=len(raw.class_names))
    empty = [raw.class_names[index] for index in np.flatnonzero(counts == 0)]
    if empty:
        raise fault(where, f"no train images of class {listed(empty)}; add some or drop the class")


def _check_class_names(names: tuple[str, ...], where: str) -> None:
    if len(names) < MIN_CLASSES:
        shown = f" ({printable(names[0])})" if names else ""
        raise fault(where, f"{len(names)} class{shown}; a classifier needs at least {MIN_CLASSES}")
    for name in names:
        if not name.strip() or not name.isprintable():
            raise fault(where, f"class name {name!a} is empty or cannot be printed; rename it")
    if len(set(names)) != len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise fault(where, f"class name {listed(repeated)} stands twice; give each class its own")


def _check_arrays(part: RawSide, where: str) -> None:
    images, labels = part.images, part.labels
    if images.dtype != np.uint8 or labels.dtype != np.int64:
        msg = f"{part.title} images are {images.dtype} and labels {labels.dtype}; give uint8 and int64"
        raise fault(where, msg)
    if images.ndim != IMAGE_DIMENSIONS or images.shape[3] not in CHANNELS or 0 in images.shape:
        msg = f"{part.title} images have shape {images.shape}; give (n, height, width, 1 or 3), none 0"
        raise fault(where, msg)
    if labels.shape != (len(images),):
        msg = f"{len(images)} {part.title} images, but labels of shape {labels.shape}; give one for each"
        raise fault(where, msg)
    if part.names is not None and len(part.names) != len(images):
        raise fault(where, f"{len(images)} {part.title} images, but {len(part.names)} names; name each")


def _check_labels(part: RawSide, class_names: tuple[str, ...], where: str) -> None:
    wrong = np.flatnonzero((part.labels < 0) | (part.labels >= len(class_names)))
    if wrong.size:
        rows = listed([f"{part.row_name(row)} (label {part.labels[row]})" for row in wrong.tolist()])
        msg = f"labels must be 0 to {len(class_names) - 1} for {len(class_names)} classes, but {rows}"
        raise fault(where, f"{msg}; correct or remove them")
