"""Brings data to this computer: a local path as it is, s3://bucket/prefix by download.

Every object is checked against what the store says of it before it takes its name, and nothing that a
store sends can leave its folder.
"""

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from components.dataset.s3 import Client, RemoteObject, connect, explained, list_objects
from components.dataset.verification import verify
from training.artefact import digest_json, write_atomic
from training.errors import DataError

SCHEME = "s3://"
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
QUIET_BYTES = 64 * 2**20

Advance: TypeAlias = Callable[[int], None]


def fetch(location: str, into: Path) -> Path:
    """Return the local path of ``location``, after downloading it where it is remote.

    Args:
        location: a path on this computer, or s3://bucket/key, or s3://bucket/prefix for all below it.
        into: the folder that keeps downloads; an object already there with the same size and ETag is
            not downloaded again, and one that is gone from the store is removed.

    Raises:
        DataError: a path that does not exist, a location of another form, a store that refuses or cannot
            be reached, no objects, keys that would leave the folder, or content that fails its check.
    """
    if not location.startswith(SCHEME):
        return _check_local(location)
    bucket, prefix = _parse(location)
    with explained(location):
        client = connect()
        objects, single = list_objects(client, bucket, prefix)
        if not objects:
            msg = f"{location}: no objects there; correct the location, or upload the data"
            raise DataError(msg)
        store = into / digest_json(location)[:16]
        _synchronise(client, objects, store)
    return store / objects[0].name if single else store


def _check_local(location: str) -> Path:
    if "://" in location:
        # The rest may hold a password.
        scheme = location.partition("://")[0]
        msg = f"{scheme}:// locations are not supported; give a path or s3://bucket/prefix"
        raise DataError(msg)
    if not location or not Path(location).exists():
        msg = f"{location or 'empty path'}: no such file or folder; correct the path, or put the data there"
        raise DataError(msg)
    return Path(location)


def _parse(location: str) -> tuple[str, str]:
    bucket, _, prefix = location.removeprefix(SCHEME).partition("/")
    if "@" in bucket:
        msg = "an s3:// location must not hold credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise DataError(msg)
    if not BUCKET.fullmatch(bucket) or not location.isprintable():
        msg = f"{location!a}: is no s3 location; write s3://bucket/key or s3://bucket/prefix"
        raise DataError(msg)
    return bucket, prefix


def _synchronise(client: Client, objects: list[RemoteObject], store: Path) -> None:
    """Make ``store`` hold just these objects; ``store.json`` beside it says which ETags were verified."""
    record = store.with_suffix(".json")
    known = _read_record(record)
    _prune(store, {item.name for item in objects})
    present = {item.name: item.etag for item in objects if _is_present(store, item, known)}
    missing = [item for item in objects if item.name not in present]
    try:
        for item in _download(client, missing, store):
            present[item.name] = item.etag
    finally:
        if present != known:
            write_atomic(record, json.dumps(present, sort_keys=True, indent=2).encode())


def _read_record(path: Path) -> dict[str, str]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_present(store: Path, item: RemoteObject, known: Mapping[str, str]) -> bool:
    path = store / item.name
    return path.is_file() and path.stat().st_size == item.size and known.get(item.name) == item.etag


def _prune(store: Path, names: set[str]) -> None:
    for path in sorted(store.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(store).as_posix() not in names:
            path.unlink()


def _download(client: Client, objects: list[RemoteObject], store: Path) -> Iterator[RemoteObject]:
    """Download several objects at once; each is yielded when it is verified and has its name."""
    if not objects:
        return
    store.parent.mkdir(parents=True, exist_ok=True)
    config = TransferConfig(preferred_transfer_client="classic")
    with (
        tempfile.TemporaryDirectory(prefix=".partial-", dir=store.parent) as partial,
        _progress(sum(item.size for item in objects)) as advance,
        create_transfer_manager(client, config) as manager,
    ):
        paths = [Path(partial) / str(number) for number in range(len(objects))]
        futures = [
            manager.download(item.bucket, item.key, str(path), subscribers=[_Known(item, advance)])
            for item, path in zip(objects, paths, strict=True)
        ]
        for item, path, future in zip(objects, paths, futures, strict=True):
            future.result()
            verify(client, item, path)
            (store / item.name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(store / item.name)
            yield item


class _Known:
    """Tells the transfer manager what the listing said, so that it asks no HEAD; passes on progress."""

    def __init__(self, item: RemoteObject, advance: Advance) -> None:
        self.item = item
        self.advance = advance

    def on_queued(self, future: Any, **_: object) -> None:  # noqa: ANN401 - s3transfer is untyped
        """Provide size and ETag; parts of a large object are then asked for under this ETag only."""
        future.meta.provide_transfer_size(self.item.size)
        future.meta.provide_object_etag(f'"{self.item.etag}"')

    def on_progress(self, bytes_transferred: int, **_: object) -> None:
        """Advance the bar; a repeated part counts back first."""
        self.advance(bytes_transferred)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Advance]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    hidden = not console.is_terminal and total < QUIET_BYTES
    with Progress(*columns, console=console, disable=hidden) as progress:
        task = progress.add_task("download", total=total)
        yield lambda count: progress.advance(task, count)
