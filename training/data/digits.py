"""The 1,797 handwritten digits embedded in scikit-learn (UCI ML, test part of Alpaydin and Kaynak 1998)."""

import numpy as np

from training.data.raw import RawData, RawSide

MAX_INK = 16


def read_digits() -> RawData:
    """Return the digits as grey images, shape (1797, 8, 8, 1); ink 0..16 becomes round(v 255 / 16)."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import, and for this source alone

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / MAX_INK)).astype(np.uint8)[..., np.newaxis]
    labels = np.asarray(bunch.target, dtype=np.int64)
    return RawData(RawSide(images, labels), None, tuple(str(digit) for digit in range(10)))
