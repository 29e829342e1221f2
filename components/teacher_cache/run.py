"""The teacher cache: the clean teacher's logits for every view of every training example."""

from pathlib import Path

from components.progress import progress_bar
from components.step import StepContext, digested, open_inputs
from components.training_step import labelled_images
from training.artefact import publish, seal
from training.bundle import load_bundle
from training.config import Cache
from training.data.views import Views
from training.teacher_cache import CacheInfo, view_scheme, write_cache


def run(
    *, seed: int, cache: Cache, dataset: Path, clean_teacher: Path, out: Path, context: StepContext
) -> None:
    """Publish the cache; see :mod:`training.teacher_cache`.

    Raises:
        ArtefactError: an input that was altered, or logits that the cache's type cannot hold.
    """
    inputs = open_inputs(dataset=dataset, clean_teacher=clean_teacher)
    teacher, described = load_bundle(clean_teacher)
    train = labelled_images(dataset, "train")
    scheme = view_scheme(seed, cache)
    info = CacheInfo(
        views=cache.views,
        examples=len(train),
        classes=len(described.class_names),
        dtype=cache.dtype,
        scheme=scheme,
    )
    with publish(out) as folder, progress_bar("teacher_cache", cache.views * len(train)) as tell:
        write_cache(folder, teacher.to(context.compute.device), Views(train.images, scheme), info, tell)
        config = digested({"seed": seed, "cache": cache})
        seal(folder, "cache", inputs=inputs, config=config, threads=context.compute.threads)
    context.tracker.metrics({"rows": float(cache.views * len(train))})
