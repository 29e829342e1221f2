"""An S3-compatible store, as boto3 reaches it: the client, its errors in one line, its listing.

Endpoint, region and credentials are boto3's own (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, profiles, roles).
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from s3transfer.exceptions import RetriesExceededError

from training.errors import DataError

CONNECT_SECONDS = 10
READ_SECONDS = 60

Client: TypeAlias = Any


@dataclass(frozen=True)
class RemoteObject:
    """An object of a store: its key, its name below the folder, size in bytes, and ETag without quotes."""

    bucket: str
    key: str
    name: str
    size: int
    etag: str


def connect(**overrides: object) -> Client:
    """Return an S3 client configured by the environment; what it leaves open suits S3-compatible stores.

    Args:
        **overrides: options of botocore's Config that come before ours.

    Raises:
        DataError: an endpoint that is no URL.
    """
    options: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
    if "AWS_RETRY_MODE" not in os.environ:
        options["retries"] = {"mode": "standard"}
    # Older S3-compatible stores mishandle the checksums that boto3 adds unless told otherwise.
    if "AWS_REQUEST_CHECKSUM_CALCULATION" not in os.environ:
        options["request_checksum_calculation"] = "when_required"
    if "AWS_RESPONSE_CHECKSUM_VALIDATION" not in os.environ:
        options["response_checksum_validation"] = "when_required"
    if _endpoint():
        options["s3"] = {"addressing_style": "path"}
    session = boto3.session.Session()
    try:
        return session.client("s3", config=Config(**options | overrides))
    except ValueError as error:
        msg = f"boto3 refuses the endpoint {endpoint_host()}; write AWS_ENDPOINT_URL as http://host:port"
        raise DataError(msg) from error


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")


@contextlib.contextmanager
def explained(location: str) -> Iterator[None]:
    """Turn what boto3 and the file system raise into a DataError of one line, without any secret."""
    try:
        yield
    except (BotoCoreError, ClientError, RetriesExceededError) as error:
        msg = f"{location}: {_explain(error)}"
        raise DataError(msg) from error
    except OSError as error:
        where = error.filename or "the download"
        msg = f"{location}: cannot write {where} ({error.strerror}); make room, or choose another folder"
        raise DataError(msg) from error


def _explain(error: Exception) -> str:
    # Never the library's own text: it may hold endpoints with passwords, signatures or key ids.
    match error:
        case ClientError():
            return _explain_response(str(error.response.get("Error", {}).get("Code", "")))
        case NoCredentialsError() | PartialCredentialsError():
            return "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role"
        case RetriesExceededError():
            return "the download broke off again and again; check the network and run it again"
        case NoConnectionError() | HTTPClientError():
            return f"cannot reach {endpoint_host()}; check AWS_ENDPOINT_URL and the network"
    return f"{type(error).__name__} from boto3; check AWS_ENDPOINT_URL and the other AWS_ variables"


def endpoint_host() -> str:
    """Return host and port of the endpoint, without a user or password that stand before them."""
    try:
        parts = urlsplit(_endpoint())
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the S3 endpoint"
    return f"{parts.hostname}{port}" if parts.hostname else "the S3 endpoint"


def _explain_response(code: str) -> str:
    if code == "NoSuchBucket":
        return "no such bucket; correct the location or AWS_ENDPOINT_URL"
    if code in {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}:
        return f"the store refuses the credentials ({code}); correct AWS_ACCESS_KEY_ID and its secret"
    if code in {"AccessDenied", "403", "AllAccessDisabled"}:
        return f"access denied ({code}); these credentials need s3:ListBucket and s3:GetObject there"
    if code in {"404", "NoSuchKey", "412", "PreconditionFailed"}:
        return f"an object changed during the download ({code}); run it again"
    if code in {"301", "PermanentRedirect", "AuthorizationHeaderMalformed"}:
        return f"the bucket is in another region ({code}); set AWS_DEFAULT_REGION"
    return f"{endpoint_host()} answered {code!a}; check AWS_ENDPOINT_URL, the location and the store"


def list_objects(client: Client, bucket: str, prefix: str) -> tuple[list[RemoteObject], bool]:
    """Return the objects at or below a prefix, by name, and whether ``prefix`` is the key of just one.

    Raises:
        DataError: a key that is no path below the prefix, or an object that is also a folder.
    """
    if prefix and not prefix.endswith("/"):
        # A key that is the prefix itself sorts before all others with this prefix.
        page = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        for entry in page.get("Contents", []):
            if entry["Key"] == prefix:
                return [_to_object(bucket, entry, PurePosixPath(prefix).name)], True
        prefix += "/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    found = [
        _to_object(bucket, entry, entry["Key"].removeprefix(prefix))
        for page in pages
        for entry in page.get("Contents", [])
        if not entry["Key"].endswith("/")  # what consoles put where they show a folder
    ]
    _check_nesting(found)
    return sorted(found, key=lambda item: item.name), False


def _to_object(bucket: str, entry: Mapping[str, Any], name: str) -> RemoteObject:
    parts = name.split("/")
    if not name.isprintable() or any(part in {"", ".", ".."} for part in parts):
        msg = f"s3://{bucket}: object key {entry['Key']!a} is no path below its folder; rename or remove it"
        raise DataError(msg)
    return RemoteObject(bucket, entry["Key"], name, int(entry["Size"]), entry.get("ETag", "").strip('"'))


def _check_nesting(objects: list[RemoteObject]) -> None:
    names = {item.name for item in objects}
    for item in objects:
        for parent in PurePosixPath(item.name).parents:
            if str(parent) in names:
                msg = (
                    f"s3://{item.bucket}: {str(parent)!a} is an object and, for {item.key!a}, a folder; "
                    "rename one of them"
                )
                raise DataError(msg)
