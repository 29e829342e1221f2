"""Data to a snapshot: read the source, divide it, put it through the data gate, publish."""

from pathlib import Path

from pydantic import ValidationError

from components.dataset.remote import fetch
from components.step import StepContext, digested
from training.artefact import digest_json, publish, seal, write_atomic
from training.config import Data, Digits
from training.data.gate import ClassCounts
from training.data.snapshot import SnapshotInfo, write_snapshot
from training.data.sources import load_source
from training.errors import DataError


def run(*, data: Data, out: Path, context: StepContext) -> None:
    """Publish a snapshot.

    The class counts of the last accepted snapshot of the same source are kept in the state folder; the
    data gate compares with them.

    Raises:
        DataError: a source that cannot be read, or that the data gate refuses; nothing is published.
    """
    source = data.source
    root = None if isinstance(source, Digits) else fetch(source.path, context.state / "downloads")
    raw = load_source(source, root)
    last = context.state / "snapshots" / f"{digest_json(_identity(data))[:16]}.json"
    with publish(out) as folder:
        info = write_snapshot(folder, raw, data, _last_counts(last))
        seal(folder, "snapshot", inputs={}, config=digested({"data": data}), threads=context.compute.threads)
    write_atomic(last, info.class_counts.model_dump_json().encode())
    _track(info, context)


def _identity(data: Data) -> dict[str, object]:
    """What makes two snapshots comparable: the same source and the same rules of division."""
    return {"source": data.source.model_dump(mode="json"), "limits": data.limits.model_dump(mode="json")}


def _last_counts(path: Path) -> ClassCounts | None:
    if not path.is_file():
        return None
    try:
        return ClassCounts.model_validate_json(path.read_bytes())
    except ValidationError as error:
        msg = f"{path}: not the class counts of a snapshot; remove it, then the next snapshot is the first"
        raise DataError(msg) from error


def _track(info: SnapshotInfo, context: StepContext) -> None:
    counts = {f"examples_{side}": float(sum(counts)) for side, counts in info.counts.items()}
    context.tracker.metrics({**counts, "classes": float(len(info.class_names))})
