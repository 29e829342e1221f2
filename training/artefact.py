"""Artefacts: folders with a manifest of digests, published whole or not at all.

What is digested: file contents, input artefacts, validated configuration, package source, thread count.
What is not: time, host, path, commit. Two runs of the same thing therefore have the same digest.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from training.errors import ArtefactError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SOURCE_PACKAGES = ("components", "pipelines", "training")

Kind: TypeAlias = Literal["snapshot", "teacher", "cache", "student", "evaluation", "decision"]


class FileDigest(BaseModel):
    """Content of one file of an artefact: sha256 in hexadecimal and size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    size: int


class Manifest(BaseModel):
    """What an artefact is made of and from; see :data:`MANIFEST`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int
    kind: Kind
    files: dict[str, FileDigest]
    volatile: list[str]
    inputs: dict[str, str]
    config: dict[str, object]
    source: str
    threads: int

    @property
    def digest(self) -> str:
        """Sha256 of the canonical JSON of this manifest, in hexadecimal."""
        return digest_json(self.model_dump(mode="json", exclude={"volatile"}))


def canonical_json(value: object) -> str:
    """Return JSON text that is equal for equal values: sorted keys, no white space, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_json(value: object) -> str:
    """Return the sha256 of ``canonical_json(value)``, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write indented, key-sorted JSON; equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


@functools.cache
def source_digest() -> str:
    """Return the sha256 over the Python and template source of Temper's packages, by relative name."""
    root = Path(__file__).resolve().parent.parent
    names = sorted(
        path.relative_to(root).as_posix()
        for package in SOURCE_PACKAGES
        for suffix in ("py", "html", "md")
        for path in (root / package).rglob(f"*.{suffix}")
    )
    return digest_json({name: digest_file(root / name) for name in names})


@contextlib.contextmanager
def publish(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``out`` and rename it to ``out`` when the body succeeds.

    On any error ``out`` stays as it was and the temporary folder is removed.
    """
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    partial.chmod(0o755)
    try:
        yield partial
        _replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: Path, out: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent))
    out.rename(old / out.name)
    partial.rename(out)
    shutil.rmtree(old)


def seal(
    folder: Path,
    kind: Kind,
    *,
    inputs: Mapping[str, Manifest],
    config: Mapping[str, object],
    threads: int,
    volatile: tuple[str, ...] = (),
) -> Manifest:
    """Write the manifest of every file in ``folder`` and return it.

    Args:
        folder: the folder that :func:`publish` gave.
        kind: what the artefact is.
        inputs: the manifests of the artefacts it was made from, by name.
        config: the validated configuration that shaped it, as JSON values.
        threads: the number of torch threads that made it.
        volatile: names of files that tell of one execution (a registry version) and are not digested.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        kind=kind,
        files={
            name: FileDigest(sha256=digest_file(path), size=path.stat().st_size)
            for name, path in names.items()
            if name not in volatile
        },
        volatile=sorted(volatile),
        inputs={name: manifest.digest for name, manifest in inputs.items()},
        config=dict(config),
        source=source_digest(),
        threads=threads,
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def read_manifest(folder: Path, kind: Kind) -> Manifest:
    """Read a manifest without checking the files it names.

    Raises:
        ArtefactError: no artefact there, an unreadable manifest, another kind or schema version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        msg = f"{folder}: no {kind} artefact there ({MANIFEST} is missing); run the step that makes it"
        raise ArtefactError(msg)
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        msg = f"{path}: not a manifest of this version of Temper; make the {kind} again"
        raise ArtefactError(msg) from error
    if manifest.schema_version != SCHEMA_VERSION:
        msg = f"{path}: schema version {manifest.schema_version}, but this Temper reads {SCHEMA_VERSION}"
        raise ArtefactError(msg)
    if manifest.kind != kind:
        msg = f"{folder}: is a {manifest.kind}, but a {kind} is needed here"
        raise ArtefactError(msg)
    return manifest


def open_artefact(folder: Path, kind: Kind) -> Manifest:
    """Read a manifest and check every file against it.

    Raises:
        ArtefactError: as :func:`read_manifest`; also a file that is missing, extra, or altered.
    """
    manifest = read_manifest(folder, kind)
    known = {*manifest.files, *manifest.volatile, MANIFEST}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in known:
            msg = f"{path}: is not in the {kind}'s manifest; remove it, or make the {kind} again"
            raise ArtefactError(msg)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            msg = f"{path}: is in the {kind}'s manifest but missing; make the {kind} again"
            raise ArtefactError(msg)
        if path.stat().st_size != expected.size or digest_file(path) != expected.sha256:
            msg = f"{path}: altered since the {kind} was made (its sha256 differs); make the {kind} again"
            raise ArtefactError(msg)
    return manifest


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and make it durable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
