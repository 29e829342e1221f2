"""The clean teacher's logits for natural training inputs: computed once, memory-mapped, never stale."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from training.artefact import Manifest, open_artefact, write_json
from training.attacks.gradients import frozen
from training.config import Cache, Section
from training.data.views import Views, ViewScheme
from training.errors import ArtefactError
from training.randomness import IntArray, derive_seed

LOGITS = "logits.npy"
SCHEME = "cache.json"

_ROWS_AT_A_TIME = 512
_WORDS = {"dataset": "snapshot", "clean_teacher": "teacher"}


class CacheInfo(Section):
    """What a cache holds: ``views`` views, drawn by ``scheme``, of ``examples`` training examples."""

    views: int
    examples: int
    classes: int
    dtype: Literal["float32", "float16"]
    scheme: ViewScheme


def view_scheme(seed: int, cache: Cache) -> ViewScheme:
    """Return how the views of the training images are drawn; the student sees the very same."""
    return ViewScheme(seed=derive_seed(seed, "views"), augmentation=cache.augmentation)


def write_cache(
    folder: Path,
    teacher: nn.Module,
    views: Views,
    info: CacheInfo,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Write logits.npy, shape (views, examples, classes), and cache.json into an existing folder.

    Args:
        folder: where to write.
        teacher: from images in [0, 1] to logits.
        views: the training images under ``info.scheme``.
        info: the shape and type to write. float16 rounds each logit by at most 2^-11 of its size.
        progress: told the number of rows written, now and then.

    Raises:
        ArtefactError: a logit that is not finite, or that float16 cannot hold.
    """
    shape = (info.views, info.examples, info.classes)
    array = open_memmap(folder / LOGITS, mode="w+", dtype=np.dtype(info.dtype), shape=shape)
    device = next(teacher.parameters()).device
    with frozen(teacher), torch.no_grad():
        for view in range(info.views):
            for start in range(0, info.examples, _ROWS_AT_A_TIME):
                rows = np.arange(start, min(start + _ROWS_AT_A_TIME, info.examples))
                logits = teacher(views.batch(rows, view).to(device)).float().cpu().numpy()
                with np.errstate(over="ignore"):
                    array[view, rows] = logits
                if not np.isfinite(array[view, rows]).all():
                    msg = (
                        f"the teacher's logits for rows {start}.. do not fit {info.dtype} (NaN, infinity or "
                    )
                    msg += "overflow); use cache.dtype float32, or another teacher"
                    raise ArtefactError(msg)
                progress(len(rows))
    array.flush()
    write_json(folder / SCHEME, info.model_dump(mode="json"))


class TeacherCache:
    """A cache opened for reading; rows stay on disk until they are asked for."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self.info = CacheInfo.model_validate_json((folder / SCHEME).read_bytes())
        self._logits = np.load(folder / LOGITS, mmap_mode="r", allow_pickle=False)
        expected = (self.info.views, self.info.examples, self.info.classes)
        if self._logits.shape != expected or self._logits.dtype != np.dtype(self.info.dtype):
            msg = f"{folder / LOGITS}: is {self._logits.dtype} {self._logits.shape}, but {SCHEME} says "
            msg += f"{self.info.dtype} {expected}; run step teacher_cache again"
            raise ArtefactError(msg)

    def logits(self, rows: IntArray, view: int) -> Tensor:
        """Return the teacher's logits for view ``view`` of examples ``rows``: float32, (b, classes)."""
        return torch.from_numpy(self._logits[view, rows].astype(np.float32))


def open_cache(
    folder: Path, *, dataset: Manifest, clean_teacher: Manifest, scheme: ViewScheme
) -> TeacherCache:
    """Open a cache and refuse one that was made of something else.

    Args:
        folder: the cache artefact.
        dataset: the snapshot it must belong to.
        clean_teacher: the teacher it must belong to.
        scheme: the views that the configuration in force asks for.

    Raises:
        ArtefactError: an altered cache, or a stale one; the message names what differs.
    """
    cache = TeacherCache(folder, open_artefact(folder, "cache"))
    for name, wanted in (("dataset", dataset), ("clean_teacher", clean_teacher)):
        made_of = cache.manifest.inputs.get(name)
        if made_of != wanted.digest:
            msg = f"{folder}: stale cache, made of another {_WORDS[name]} (digest {str(made_of)[:12]}, "
            msg += f"not {wanted.digest[:12]}); run step teacher_cache again"
            raise ArtefactError(msg)
    if cache.info.scheme != scheme:
        msg = f"{folder}: stale cache, made with another view scheme ({cache.info.scheme}, "
        msg += f"not {scheme}); run step teacher_cache again"
        raise ArtefactError(msg)
    return cache
