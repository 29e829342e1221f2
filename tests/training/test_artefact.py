"""Artefacts: whole or not at all, and refused by name when they are not what they say."""

import json
import os
from pathlib import Path

import pytest

from training.artefact import (
    MANIFEST,
    Manifest,
    canonical_json,
    open_artefact,
    publish,
    read_manifest,
    seal,
    source_digest,
    write_atomic,
    write_json,
)
from training.errors import ArtefactError


def make(out: Path, content: str = "a", **more: object) -> Manifest:
    with publish(out) as folder:
        (folder / "sub").mkdir()
        (folder / "one.txt").write_text(content)
        (folder / "sub" / "two.txt").write_text("b")
        return seal(folder, "teacher", inputs={}, config={"x": 1, **more}, threads=1)


def break_off(out: Path) -> None:
    with publish(out) as folder:
        (folder / "half").write_text("half")
        raise KeyError


def test_a_published_artefact_opens_with_the_manifest_it_was_sealed_with(tmp_path: Path) -> None:
    manifest = make(tmp_path / "out")
    assert open_artefact(tmp_path / "out", "teacher") == manifest
    assert set(manifest.files) == {"one.txt", "sub/two.txt"}
    assert manifest.source == source_digest()


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        break_off(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_what_was_published_before(tmp_path: Path) -> None:
    manifest = make(tmp_path / "out")
    with pytest.raises(KeyError):
        break_off(tmp_path / "out")
    assert open_artefact(tmp_path / "out", "teacher") == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_to_be_seen_until_the_end(tmp_path: Path) -> None:
    with publish(tmp_path / "deep" / "out") as folder:
        (folder / "half").write_text("half")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "half").is_file()


def test_publishing_again_replaces_the_whole_folder(tmp_path: Path) -> None:
    make(tmp_path / "out")
    (tmp_path / "out" / "leftover").write_text("x")
    manifest = make(tmp_path / "out", "other")
    assert open_artefact(tmp_path / "out", "teacher") == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_digest_does_not_depend_on_path_or_time(tmp_path: Path) -> None:
    first = make(tmp_path / "1")
    second = make(tmp_path / "other" / "place")
    os.utime(tmp_path / "1" / "one.txt", (0, 0))
    assert first.digest == second.digest == open_artefact(tmp_path / "1", "teacher").digest
    texts = [(folder / MANIFEST).read_bytes() for folder in (tmp_path / "1", tmp_path / "other" / "place")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("change", ["content", "config", "threads", "inputs"])
def test_the_digest_depends_on_what_shaped_it(tmp_path: Path, change: str) -> None:
    first = make(tmp_path / "1")
    with publish(tmp_path / "2") as folder:
        (folder / "sub").mkdir()
        (folder / "one.txt").write_text("z" if change == "content" else "a")
        (folder / "sub" / "two.txt").write_text("b")
        second = seal(
            folder,
            "teacher",
            inputs={"dataset": first} if change == "inputs" else {},
            config={"x": 2 if change == "config" else 1},
            threads=2 if change == "threads" else 1,
        )
    assert first.digest != second.digest


def test_volatile_files_are_kept_but_not_digested(tmp_path: Path) -> None:
    digests = []
    for number in (1, 2):
        with publish(tmp_path / str(number)) as folder:
            (folder / "registered.json").write_text(str(number))
            manifest = seal(
                folder, "decision", inputs={}, config={}, threads=1, volatile=("registered.json",)
            )
        digests.append(manifest.digest)
        assert open_artefact(tmp_path / str(number), "decision") == manifest
    with publish(tmp_path / "3") as folder:
        digests.append(seal(folder, "decision", inputs={}, config={}, threads=1).digest)
    assert len(set(digests)) == 1


@pytest.mark.parametrize("content", ["z", "ab", ""])
def test_an_altered_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    make(tmp_path / "out")
    (tmp_path / "out" / "one.txt").write_text(content)
    with pytest.raises(ArtefactError, match=r"one\.txt: altered"):
        open_artefact(tmp_path / "out", "teacher")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path / "out")
    (tmp_path / "out" / "sub" / "two.txt").unlink()
    with pytest.raises(ArtefactError, match=r"two\.txt: .*missing"):
        open_artefact(tmp_path / "out", "teacher")


@pytest.mark.parametrize("name", ["three.txt", "sub/three.txt", ".hidden"])
def test_an_extra_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    make(tmp_path / "out")
    (tmp_path / "out" / name).write_text("x")
    with pytest.raises(ArtefactError, match=r"is not in the teacher's manifest"):
        open_artefact(tmp_path / "out", "teacher")


def test_another_kind_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "out")
    with pytest.raises(ArtefactError, match="is a teacher, but a student is needed"):
        open_artefact(tmp_path / "out", "student")


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no cache artefact there"):
        read_manifest(tmp_path, "cache")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "teacher"}', "\x00", "[" * 100_000])
def test_an_unreadable_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ArtefactError, match="not a manifest"):
        read_manifest(tmp_path, "teacher")


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "out")
    plain = json.loads((tmp_path / "out" / MANIFEST).read_text())
    write_json(tmp_path / "out" / MANIFEST, {**plain, "schema_version": 2})
    with pytest.raises(ArtefactError, match="schema version 2"):
        open_artefact(tmp_path / "out", "teacher")


def test_canonical_json_is_equal_for_equal_values_and_refuses_nan() -> None:
    assert canonical_json({"b": 1, "a": [1.5]}) == canonical_json({"a": [1.5], "b": 1}) == '{"a":[1.5],"b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file"
    write_atomic(path, b"old")

    def full_disk(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [found.name for found in path.parent.iterdir()] == ["file"]
