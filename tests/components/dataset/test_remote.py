"""Downloads: from a real S3 server (rclone serve s3), and from one that lies."""

import base64
import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import botocore.loaders
import pytest

from components.dataset.remote import fetch
from components.dataset.s3 import connect
from components.dataset.verification import multipart_etag
from training.errors import DataError

KEY, SECRET = "test-access-key", "test-secret-key"
RCLONE = Path(sys.executable).with_name("rclone")
FILES = {"data/a/1.bin": b"one", "data/a/2.bin": b"", "data/b/3.bin": b"three", "database/x.bin": b"no"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("the S3 server did not start")


@dataclass(frozen=True)
class Server:
    """An S3 server over a folder; its directories are the buckets."""

    folder: Path
    port: int

    def write(self, key: str, content: bytes) -> None:
        path = self.folder / "bucket" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture(scope="module", name="running")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("s3"), free_port())
    command = [str(RCLONE), "serve", "s3", "--config", "", "--auth-key", f"{KEY},{SECRET}"]
    command += ["--addr", f"127.0.0.1:{server.port}", "--dir-cache-time", "0", str(server.folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(server.port)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=10)


LOADER = botocore.loaders.create_loader()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # boto3's description of S3 is then parsed once, not for every client.
    monkeypatch.setattr(botocore.loaders, "create_loader", lambda *_: LOADER)
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def use(monkeypatch: pytest.MonkeyPatch, port: int, secret: str = SECRET, key: str = KEY) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)


@pytest.fixture(name="server")
def _server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    use(monkeypatch, running.port)
    bucket = running.folder / "bucket"
    if bucket.exists():
        for path in sorted(bucket.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    for key, content in FILES.items():
        running.write(key, content)
    return running


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refusal(location: str, into: Path) -> str:
    with pytest.raises(DataError) as caught:
        fetch(location, into)
    message = str(caught.value)
    assert "\n" not in message
    assert SECRET not in message
    assert KEY not in message
    assert not into.exists(), "something was written"
    return message


# --- local paths ----------------------------------------------------------------------------------


def test_a_local_path_is_returned_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"x")
    assert fetch(str(tmp_path / "data.npz"), tmp_path / "into") == tmp_path / "data.npz"
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/no/such/folder", "/no/such/folder: no such file or folder"),
        ("", "empty path"),
        ("gs://bucket/x", "gs:// locations are not supported"),
        (f"https://{KEY}:{SECRET}@host/x", "https:// locations are not supported"),
        (f"s3://{KEY}:{SECRET}@bucket/x", "must not hold credentials"),
        ("s3://", "is no s3 location"),
        ("s3:///data", "is no s3 location"),
        ("s3://bucket/a\nb", "is no s3 location"),
    ],
)
def test_unusable_locations_are_refused(tmp_path: Path, location: str, expected: str) -> None:
    assert expected in refusal(location, tmp_path / "into")


# --- a real server --------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["s3://bucket/data", "s3://bucket/data/"])
def test_a_prefix_is_downloaded_as_a_folder(server: Server, tmp_path: Path, location: str) -> None:
    assert server.port
    folder = fetch(location, tmp_path / "into")
    assert files(folder) == {"a/1.bin": b"one", "a/2.bin": b"", "b/3.bin": b"three"}
    assert list((tmp_path / "into").glob(".partial-*")) == []


@pytest.mark.usefixtures("server")
def test_a_key_is_downloaded_as_a_file(tmp_path: Path) -> None:
    path = fetch("s3://bucket/data/b/3.bin", tmp_path / "into")
    assert path.name == "3.bin"
    assert path.read_bytes() == b"three"


def test_a_whole_bucket_and_a_large_object(server: Server, tmp_path: Path) -> None:
    large = os.urandom(2**20) * 17  # above boto3's threshold of 8 MiB for ranged downloads
    server.write("large.bin", large)
    assert files(fetch("s3://bucket", tmp_path / "into")) == {**FILES, "large.bin": large}


def test_only_what_changed_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    folder = fetch("s3://bucket/data", tmp_path / "into")
    old = {name: (folder / name).stat().st_ino for name in files(folder)}
    server.write("data/b/3.bin", b"THREE")
    server.write("data/c/4.bin", b"four")
    (server.folder / "bucket/data/a/1.bin").unlink()
    assert fetch("s3://bucket/data", tmp_path / "into") == folder
    assert files(folder) == {"a/2.bin": b"", "b/3.bin": b"THREE", "c/4.bin": b"four"}
    assert (folder / "a/2.bin").stat().st_ino == old["a/2.bin"]
    assert (folder / "b/3.bin").stat().st_ino != old["b/3.bin"]


def test_folders_that_lost_their_objects_are_removed(server: Server, tmp_path: Path) -> None:
    folder = fetch("s3://bucket/data", tmp_path / "into")
    (server.folder / "bucket/data/b/3.bin").unlink()
    fetch("s3://bucket/data", tmp_path / "into")
    assert sorted(path.name for path in folder.iterdir()) == ["a"]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("damage", ["truncate", "record"])
def test_damaged_downloads_are_fetched_again(tmp_path: Path, damage: str) -> None:
    folder = fetch("s3://bucket/data", tmp_path / "into")
    (folder / "b/3.bin").write_bytes(b"thr" if damage == "truncate" else b"wrong")
    if damage == "record":
        folder.with_suffix(".json").write_text("{not json")
    fetch("s3://bucket/data", tmp_path / "into")
    assert (folder / "b/3.bin").read_bytes() == b"three"


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("s3://absent-bucket/data", "s3://absent-bucket/data: no such bucket"),
        ("s3://bucket/absent", "s3://bucket/absent: no objects there"),
        ("s3://bucket/dat", "s3://bucket/dat: no objects there"),
        ("s3://bucket/data/a/1.bin/", "no objects there"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, location: str, expected: str) -> None:
    assert expected in refusal(location, tmp_path / "into")


@pytest.mark.parametrize(
    ("key", "secret", "expected"),
    [(KEY, "wrong-secret", "SignatureDoesNotMatch"), ("wrong-access-key", SECRET, "InvalidAccessKeyId")],
)
def test_wrong_keys_are_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, secret: str, expected: str
) -> None:
    use(monkeypatch, server.port, secret, key)
    message = refusal("s3://bucket/data", tmp_path / "into")
    assert f"the store refuses the credentials ({expected})" in message
    assert secret not in message


@pytest.mark.usefixtures("server")
def test_missing_credentials_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "no credentials; set AWS_ACCESS_KEY_ID" in refusal("s3://bucket/data", tmp_path / "into")


def test_half_credentials_are_named(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.port
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no credentials; set AWS_ACCESS_KEY_ID" in refusal("s3://bucket/data", tmp_path / "into")


def test_a_dead_port_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    use(monkeypatch, port)
    assert f"cannot reach 127.0.0.1:{port}; check" in refusal("s3://bucket/data", tmp_path / "into")


@pytest.mark.parametrize(
    "endpoint", ["nonsense", "http://user:hunter2@127.0.0.1:x", "127.0.0.1:9000", "http://[x"]
)
def test_a_malformed_endpoint_is_refused_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    use(monkeypatch, 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    message = refusal("s3://bucket/data", tmp_path / "into")
    assert "AWS_ENDPOINT_URL" in message
    assert "hunter2" not in message


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    assert server.port
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"s3://bucket/data: cannot write .*/file"):
        fetch("s3://bucket/data", tmp_path / "file" / "into")


def test_progress_is_shown_only_when_it_is_worth_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.port
    fetch("s3://bucket/data", tmp_path / "quiet")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("components.dataset.remote.QUIET_BYTES", 1)
    fetch("s3://bucket/data", tmp_path / "loud")
    out, err = capsys.readouterr()
    assert out == ""
    assert "download" in err
    assert SECRET not in err


# --- a server that lies ---------------------------------------------------------------------------


@dataclass
class Lie:
    """What the lying server says: entries of its listing, the content of each object, extra headers."""

    entries: list[tuple[str, int, str]] = field(default_factory=list)
    content: bytes = b""
    parts: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    fail: tuple[int, str] | None = None
    short: int = 0

    def listing(self) -> bytes:
        body = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>&quot;{etag}&quot;</ETag></Contents>"
            for key, size, etag in self.entries
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{body}</ListBucketResult>".encode()


class Handler(http.server.BaseHTTPRequestHandler):
    lie: Lie

    def do_GET(self) -> None:
        if self.lie.fail:
            status, code = self.lie.fail
            self._answer(status, f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode())
        elif "list-type" in self.path:
            self._answer(200, self.lie.listing())
        else:
            self._answer(200, self.lie.content, self.lie.short)

    def do_HEAD(self) -> None:
        number = "partNumber=" in self.path
        size = self.lie.parts[0] if number and self.lie.parts else len(self.lie.content)
        self._head(200, size)

    def _answer(self, status: int, body: bytes, short: int = 0) -> None:
        self._head(status, len(body))
        self.wfile.write(body[: len(body) - short])
        if short:
            self.connection.shutdown(socket.SHUT_RDWR)

    def _head(self, status: int, size: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        for name, value in self.lie.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:  # noqa: ANN401
        """Say nothing."""


@pytest.fixture(name="lie")
def _lie(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lie]:
    lie = Lie()
    handler = type("Lying", (Handler,), {"lie": lie})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        use(monkeypatch, server.server_address[1])
        yield lie
        server.shutdown()
        thread.join()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize(
    "key",
    [
        "data/../../evil",
        "data//etc/passwd",
        "data/./x",
        "data/a/../b",
        "data/..",
        "data/a\u2028b",
        "data/a\x7f",
    ],
)
def test_keys_that_leave_the_folder_are_refused(lie: Lie, tmp_path: Path, key: str) -> None:
    lie.entries = [("data/good", 4, md5(b"good")), (key, 4, md5(b"evil"))]
    assert "is no path below its folder" in refusal("s3://bucket/data/", tmp_path / "into")
    assert list(tmp_path.iterdir()) == []


def test_a_single_key_cannot_leave_the_folder(lie: Lie, tmp_path: Path) -> None:
    lie.entries = [("data/..", 4, md5(b"evil"))]
    assert "is no path below its folder" in refusal("s3://bucket/data/..", tmp_path / "into")


def test_an_object_that_is_also_a_folder_is_refused(lie: Lie, tmp_path: Path) -> None:
    lie.entries = [("data/a", 1, "x"), ("data/a/b", 1, "x")]
    assert "'a' is an object and, for 'data/a/b', a folder" in refusal("s3://bucket/data/", tmp_path / "into")


def test_folder_markers_are_skipped(lie: Lie, tmp_path: Path) -> None:
    lie.entries, lie.content = [("data/", 0, md5(b"")), ("data/x", 4, md5(b"good"))], b"good"
    assert files(fetch("s3://bucket/data/", tmp_path / "into")) == {"x": b"good"}


CONTENT = bytes(range(256)) * 50
PARTS = [CONTENT[:5000], CONTENT[5000:10000], CONTENT[10000:]]
PART_MD5 = hashlib.md5(b"".join(bytes.fromhex(md5(part)) for part in PARTS), usedforsecurity=False)
MULTIPART = f"{PART_MD5.hexdigest()}-3"
CRC32 = base64.b64encode(zlib.crc32(CONTENT).to_bytes(4, "big")).decode()
SHA256 = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
WRONG = base64.b64encode(b"\0" * 4).decode()


def test_multipart_etags_follow_the_parts(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    assert multipart_etag(tmp_path / "x", 5000) == MULTIPART
    assert multipart_etag(tmp_path / "x", 0) == md5(CONTENT)
    assert multipart_etag(tmp_path / "x", 6400).endswith("-2")


@pytest.mark.parametrize(
    ("etag", "parts", "headers"),
    [
        (md5(CONTENT), [], {}),
        (MULTIPART, [5000], {}),
        (f"{'0' * 32}-3", [12800], {}),
        (f"{'0' * 32}-3", [5000], {"x-amz-checksum-crc32": CRC32, "x-amz-checksum-type": "FULL_OBJECT"}),
        (f"{'0' * 32}-3", [5000], {"x-amz-checksum-sha256": SHA256}),
        (MULTIPART, [5000], {"x-amz-checksum-crc32": WRONG, "x-amz-checksum-type": "COMPOSITE"}),
        ("0" * 32, [], {"x-amz-server-side-encryption": "aws:kms"}),
        ("no-digest-at-all", [], {}),
    ],
)
def test_whole_objects_pass(
    lie: Lie, tmp_path: Path, etag: str, parts: list[int], headers: dict[str, str]
) -> None:
    lie.entries, lie.content = [("data/x", len(CONTENT), etag)], CONTENT
    lie.parts, lie.headers = parts, headers
    path = fetch("s3://bucket/data/x", tmp_path / "into")
    assert path.read_bytes() == CONTENT
    assert json.loads(path.parent.with_suffix(".json").read_text()) == {"x": etag}


@pytest.mark.parametrize(
    ("etag", "parts", "headers"),
    [
        ("0" * 32, [], {}),
        (f"{'0' * 32}-3", [5000], {}),
        (MULTIPART, [6400], {}),
        (MULTIPART, [5000], {"x-amz-checksum-crc32": WRONG}),
        ("0" * 32, [], {"x-amz-server-side-encryption": "aws:kms", "x-amz-checksum-sha256": WRONG}),
    ],
)
def test_corrupt_objects_are_refused_and_not_kept(
    lie: Lie, tmp_path: Path, etag: str, parts: list[int], headers: dict[str, str]
) -> None:
    lie.entries, lie.content = [("data/x", len(CONTENT), etag)], CONTENT
    lie.parts, lie.headers = parts, headers
    with pytest.raises(DataError, match="s3://bucket/data/x: its digest differs from the store's"):
        fetch("s3://bucket/data/x", tmp_path / "into")
    assert files(tmp_path) == {}


def test_objects_of_another_size_are_refused(lie: Lie, tmp_path: Path) -> None:
    lie.entries, lie.content = [("data/x", len(CONTENT) + 1, md5(CONTENT))], CONTENT
    with pytest.raises(DataError, match="s3://bucket/data/x: 12800 bytes came, not 12801"):
        fetch("s3://bucket/data/x", tmp_path / "into")
    assert files(tmp_path) == {}


def test_what_arrived_before_a_failure_is_kept(lie: Lie, tmp_path: Path) -> None:
    lie.content = b"good"
    lie.entries = [("data/a", 4, md5(b"good")), ("data/b", 4, "0" * 32)]
    with pytest.raises(DataError, match="s3://bucket/data/b"):
        fetch("s3://bucket/data/", tmp_path / "into")
    kept = files(tmp_path / "into")
    assert sorted(Path(name).name for name in kept if not name.endswith(".json")) == ["a"]
    assert [json.loads(value) for name, value in kept.items() if name.endswith(".json")] == [
        {"a": md5(b"good")}
    ]


def test_a_connection_that_breaks_off_is_refused(lie: Lie, tmp_path: Path) -> None:
    lie.entries, lie.content, lie.short = [("data/x", len(CONTENT), md5(CONTENT))], CONTENT, 100
    with pytest.raises(DataError, match="s3://bucket/data/x: the download broke off"):
        fetch("s3://bucket/data/x", tmp_path / "into")
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", "access denied (AccessDenied); these credentials need s3:ListBucket"),
        (403, "ExpiredToken", "the store refuses the credentials (ExpiredToken)"),
        (412, "PreconditionFailed", "an object changed during the download"),
        (503, "SlowDown", "answered 'SlowDown'; check"),
        (400, "Odd\nthing", "answered 'Odd\\nthing'"),
    ],
)
def test_refusals_of_the_store_are_explained(
    lie: Lie, tmp_path: Path, status: int, code: str, expected: str
) -> None:
    lie.fail = (status, code)
    assert expected in refusal("s3://bucket/data", tmp_path / "into")


def test_an_answer_that_is_not_s3_is_refused(
    lie: Lie, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lie, "listing", lambda: b"<html>a login page")
    assert "answered '500'; check AWS_ENDPOINT_URL" in refusal("s3://bucket/data", tmp_path / "into")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_own_endpoint_is_addressed_by_path(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "https://store.example")
    assert connect().meta.config.s3["addressing_style"] == "path"


def test_the_environment_decides_checksums_and_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = connect().meta.config
    assert quiet.request_checksum_calculation == quiet.response_checksum_validation == "when_required"
    assert quiet.retries["mode"] == "standard"
    assert quiet.retries["total_max_attempts"] == 1
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_supported")
    monkeypatch.setenv("AWS_RETRY_MODE", "legacy")
    told = connect().meta.config
    assert told.request_checksum_calculation == told.response_checksum_validation == "when_supported"
    assert told.retries["mode"] == "legacy"
