"""The teacher cache: what the teacher says of that very view, and never another teacher's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from training.artefact import Manifest, publish, seal
from training.config import Augmentation, Cache, Section
from training.data.views import Views, ViewScheme
from training.errors import ArtefactError
from training.models.classifier import Classifier
from training.teacher_cache import LOGITS, SCHEME, CacheInfo, open_cache, view_scheme, write_cache
from training.validation import LabelledImages

CACHE = Cache(views=3, augmentation=Augmentation(shift=2, horizontal_flip=True))
SCHEME_IN_FORCE = view_scheme(0, CACHE)
COUNT = 30


class Made(Section):
    folder: Path
    dataset: Manifest
    clean_teacher: Manifest


def manifest(out: Path, content: str) -> Manifest:
    with publish(out) as folder:
        (folder / "content").write_text(content)
        return seal(folder, "snapshot", inputs={}, config={}, threads=1)


def make(tmp_path: Path, teacher: nn.Module, views: Views, dtype: str = "float32") -> Made:
    info = CacheInfo.model_validate(
        {"views": 3, "examples": len(views), "classes": 10, "dtype": dtype, "scheme": SCHEME_IN_FORCE}
    )
    inputs = {name: manifest(tmp_path / name, name) for name in ("dataset", "clean_teacher")}
    with publish(tmp_path / "cache") as folder:
        write_cache(folder, teacher, views, info)
        seal(folder, "cache", inputs=inputs, config={}, threads=1)
    return Made(folder=tmp_path / "cache", **inputs)


@pytest.fixture(name="views")
def _views(digits: LabelledImages) -> Views:
    return Views(digits.images[:COUNT], SCHEME_IN_FORCE)


class Shifted(nn.Module):
    """The teacher with logits moved to where a type does not hold them."""

    def __init__(self, teacher: nn.Module, by: float) -> None:
        super().__init__()
        self.teacher = teacher
        self.by = by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.teacher(x)
        return logits + self.by


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2**-11)])
def test_a_row_is_what_the_teacher_says_of_that_very_view(
    tmp_path: Path, trained: Classifier, views: Views, dtype: str, tolerance: float
) -> None:
    made = make(tmp_path, trained, views, dtype)
    cache = open_cache(
        made.folder, dataset=made.dataset, clean_teacher=made.clean_teacher, scheme=SCHEME_IN_FORCE
    )
    rows = np.array([29, 3, 11, 3])
    for view in range(3):
        with torch.no_grad():
            live = trained.eval()(views.batch(rows, view)).float()
        found = cache.logits(rows, view)
        assert found.dtype == torch.float32
        assert torch.allclose(found, live, rtol=tolerance * 1.001, atol=1e-7)
        others = cache.logits(rows, (view + 1) % 3)
        assert not torch.allclose(found, others, rtol=0.01)


def test_rows_stay_on_disk(tmp_path: Path, trained: Classifier, views: Views) -> None:
    made = make(tmp_path, trained, views)
    cache = open_cache(
        made.folder, dataset=made.dataset, clean_teacher=made.clean_teacher, scheme=SCHEME_IN_FORCE
    )
    assert isinstance(cache._logits, np.memmap)
    assert not cache._logits.flags.writeable


def test_more_rows_than_fit_at_once_are_all_written(
    tmp_path: Path, trained: Classifier, digits: LabelledImages
) -> None:
    views = Views(digits.images[:1100], SCHEME_IN_FORCE)
    told: list[int] = []
    info = CacheInfo(views=2, examples=1100, classes=10, dtype="float32", scheme=SCHEME_IN_FORCE)
    write_cache(tmp_path, trained, views, info, told.append)
    logits = np.load(tmp_path / LOGITS)
    rows = np.array([0, 511, 512, 1023, 1024, 1099])
    for view in (0, 1):
        with torch.no_grad():
            live = trained(views.batch(rows, view))
        assert np.allclose(logits[view, rows], live.numpy(), rtol=1e-5, atol=1e-7)
    assert sum(told) == 2 * 1100


@pytest.mark.parametrize(
    ("name", "word"), [("dataset", "another snapshot"), ("clean_teacher", "another teacher")]
)
def test_a_cache_of_something_else_is_refused_by_name(
    tmp_path: Path, trained: Classifier, views: Views, name: str, word: str
) -> None:
    made = make(tmp_path, trained, views)
    inputs = {"dataset": made.dataset, "clean_teacher": made.clean_teacher}
    inputs[name] = manifest(tmp_path / "another", "another")
    with pytest.raises(ArtefactError, match=f"stale cache, made of {word}"):
        open_cache(made.folder, **inputs, scheme=SCHEME_IN_FORCE)


@pytest.mark.parametrize(
    "scheme",
    [
        SCHEME_IN_FORCE.model_copy(update={"seed": 1}),
        SCHEME_IN_FORCE.model_copy(update={"augmentation": Augmentation()}),
        SCHEME_IN_FORCE.model_copy(update={"version": 2}),
    ],
)
def test_a_cache_of_other_views_is_refused(
    tmp_path: Path, trained: Classifier, views: Views, scheme: ViewScheme
) -> None:
    made = make(tmp_path, trained, views)
    with pytest.raises(ArtefactError, match="stale cache, made with another view scheme"):
        open_cache(made.folder, dataset=made.dataset, clean_teacher=made.clean_teacher, scheme=scheme)


@pytest.mark.parametrize("name", [LOGITS, SCHEME])
def test_an_altered_cache_is_refused(tmp_path: Path, trained: Classifier, views: Views, name: str) -> None:
    made = make(tmp_path, trained, views)
    content = bytearray((made.folder / name).read_bytes())
    content[-2] ^= 1
    (made.folder / name).write_bytes(content)
    with pytest.raises(ArtefactError, match=f"{name}: altered"):
        open_cache(
            made.folder, dataset=made.dataset, clean_teacher=made.clean_teacher, scheme=SCHEME_IN_FORCE
        )


def test_an_array_of_another_shape_is_refused_even_when_sealed(
    tmp_path: Path, trained: Classifier, views: Views
) -> None:
    made = make(tmp_path, trained, views)
    plain = json.loads((made.folder / SCHEME).read_text())
    inputs = {"dataset": made.dataset, "clean_teacher": made.clean_teacher}
    with publish(made.folder) as folder:
        np.save(folder / LOGITS, np.zeros((3, COUNT, 9), np.float32))
        (folder / SCHEME).write_text(json.dumps(plain))
        seal(folder, "cache", inputs=inputs, config={}, threads=1)
    with pytest.raises(ArtefactError, match=r"\(3, 30, 9\), but cache\.json says float32 \(3, 30, 10\)"):
        open_cache(made.folder, **inputs, scheme=SCHEME_IN_FORCE)


@pytest.mark.parametrize(
    ("dtype", "by"), [("float16", 70_000.0), ("float16", -70_000.0), ("float32", float("nan"))]
)
def test_logits_that_the_type_cannot_hold_are_refused(
    tmp_path: Path, trained: Classifier, views: Views, dtype: str, by: float
) -> None:
    with pytest.raises(ArtefactError, match=f"do not fit {dtype}"):
        make(tmp_path, Shifted(trained, by), views, dtype)
    assert not (tmp_path / "cache").exists()


def test_large_logits_that_float32_holds_are_kept(tmp_path: Path, trained: Classifier, views: Views) -> None:
    assert make(tmp_path, Shifted(trained, 70_000.0), views, "float32").folder.is_dir()


def test_the_teacher_is_left_as_it_was(tmp_path: Path, trained: Classifier, views: Views) -> None:
    trained.train()
    make(tmp_path, trained, views)
    assert all(module.training for module in trained.modules())
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_the_views_of_a_seed_are_the_same_for_cache_and_student() -> None:
    assert view_scheme(3, CACHE) == view_scheme(3, CACHE.model_copy(update={"views": 9, "dtype": "float16"}))
    assert view_scheme(3, CACHE) != view_scheme(4, CACHE)
