"""Is a downloaded file what the store says it is?"""

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from components.dataset.s3 import Client, RemoteObject
from training.errors import DataError

CHUNK_BYTES = 2**20
MD5_ETAG = re.compile(r"[0-9a-f]{32}(-\d+)?")


def verify(client: Client, item: RemoteObject, path: Path) -> None:
    """Check a downloaded file against the size, ETag and checksums that the store gives for it.

    An ETag is the MD5 of the content, or of its parts' MD5s followed by ``-`` and their number, except
    under SSE-KMS and SSE-C (AWS, "Checking object integrity"); there, and where parts differ in size,
    a checksum of the whole object decides, and the size where the store keeps none.

    Raises:
        DataError: they differ.
    """
    if path.stat().st_size != item.size:
        raise _corrupt(item, f"{path.stat().st_size} bytes came, not {item.size}")
    if multipart_etag(path, 0) == item.etag:
        return
    head = client.head_object(Bucket=item.bucket, Key=item.key, ChecksumMode="ENABLED")
    verdict = _matches_checksum(head, path)
    if verdict is None:
        verdict = _is_encrypted(head) or _matches_parts(client, item, path)
    if not verdict:
        raise _corrupt(item, "its digest differs from the store's")


def _corrupt(item: RemoteObject, text: str) -> DataError:
    return DataError(f"s3://{item.bucket}/{item.key}: {text}; run it again, or upload the object again")


def multipart_etag(path: Path, part_size: int) -> str:
    """Return the ETag of an upload in parts of ``part_size`` bytes; 0 means all at once."""
    digests: list[bytes] = []
    with path.open("rb") as stream:
        while True:
            digest, length = _md5(stream, part_size)
            if digests and not length:
                break
            digests.append(digest)
            if not part_size:
                return digest.hex()
    joined = hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()
    return f"{joined}-{len(digests)}"


def _md5(stream: BinaryIO, limit: int) -> tuple[bytes, int]:
    digest, length = hashlib.md5(usedforsecurity=False), 0
    while chunk := stream.read(min(CHUNK_BYTES, limit - length) if limit else CHUNK_BYTES):
        digest.update(chunk)
        length += len(chunk)
    return digest.digest(), length


def _is_encrypted(head: Mapping[str, Any]) -> bool:
    return "kms" in head.get("ServerSideEncryption", "") or "SSECustomerAlgorithm" in head


def _matches_checksum(head: Mapping[str, Any], path: Path) -> bool | None:
    """Compare a checksum of the whole object; None where the store gives none that Python computes."""
    if head.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    if "ChecksumSHA256" in head:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").digest()
        return bool(base64.b64encode(found).decode() == head["ChecksumSHA256"])
    if "ChecksumCRC32" in head:
        return bool(base64.b64encode(_crc32(path).to_bytes(4, "big")).decode() == head["ChecksumCRC32"])
    return None


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value


def _matches_parts(client: Client, item: RemoteObject, path: Path) -> bool:
    if not MD5_ETAG.fullmatch(item.etag):
        return True  # a store whose ETags are no digests; the size was checked
    if "-" not in item.etag:
        return False
    head = client.head_object(Bucket=item.bucket, Key=item.key, PartNumber=1)
    part_size = int(head["ContentLength"])
    if part_size == item.size and not item.etag.endswith("-1"):
        return True  # a store that has forgotten the parts; the size was checked
    return part_size > 0 and multipart_etag(path, part_size) == item.etag
