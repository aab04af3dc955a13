"""As much of Google's and Azure's storage services as the clients need, in memory: objects by their key."""

from __future__ import annotations

import json
import re
from http.server import BaseHTTPRequestHandler
from itertools import count
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.servers import QuietHandler

BUCKET = "videos"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class _Handler(QuietHandler):
    """Attributes are the class's, of which there is one per server: ``objects``, key to (version, data); ``refusing``,
    whether credentials are refused."""

    objects: dict[str, tuple[int, bytes]]
    refusing: bool
    versions: count[int]

    def put(self, key: str, data: bytes) -> int:
        self.objects[key] = (next(self.versions), data)
        return self.objects[key][0]

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def range_of(self, data: bytes) -> tuple[bytes, str] | None:
        """The part asked for, and what Content-Range says; None where it begins behind the end."""
        asked = _RANGE.fullmatch(self.headers.get("Range") or self.headers["x-ms-range"])
        start = int(asked[1])
        stop = min(int(asked[2] or len(data)) + 1, len(data))
        return None if start >= len(data) else (data[start:stop], f"bytes {start}-{stop - 1}/{len(data)}")


class GoogleHandler(_Handler):
    """Google's JSON interface."""

    def refuse(self, status: int, message: str) -> None:
        body = json.dumps({"error": {"code": status, "message": message}}).encode()
        self.answer(status, body, Content_Type="application/json")

    def resource(self, key: str) -> dict[str, object]:
        version, data = self.objects[key]
        return {"name": key, "size": str(len(data)), "generation": str(version), "bucket": BUCKET}

    def handle_all(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        bucket, _, rest = parts.path.partition("/b/")[2].partition("/o")
        key = unquote(rest.removeprefix("/"))
        data = self.body()
        if self.refusing:
            self.refuse(403, "does not have storage.objects.get access; token=1")
        elif bucket != BUCKET:
            self.refuse(404, "The specified bucket does not exist.")
        elif parts.path.startswith("/upload/"):
            separator = b"--" + self.headers["Content-Type"].partition("boundary=")[2].strip("\"'").encode()
            meta, content = (part.split(b"\r\n\r\n", 1)[1] for part in data.split(separator)[1:3])
            name = json.loads(meta)["name"]
            self.put(name, content.removesuffix(b"\r\n"))
            self.answer(200, json.dumps(self.resource(name)).encode(), Content_Type="application/json")
        elif not key:
            names = sorted(name for name in self.objects if name.startswith(query.get("prefix", "")))
            first = int(query.get("pageToken", 0))
            page = {"items": [self.resource(name) for name in names[first : first + 2]]}  # pages of two
            if len(names) > first + 2:
                page["nextPageToken"] = str(first + 2)
            self.answer(200, json.dumps(page).encode(), Content_Type="application/json")
        elif key not in self.objects:
            self.refuse(404, "No such object")
        elif self.command == "DELETE":
            del self.objects[key]
            self.answer(204)
        elif query.get("alt") == "media":
            self.media(*self.objects[key], query.get("ifGenerationMatch"))
        else:
            self.answer(200, json.dumps(self.resource(key)).encode(), Content_Type="application/json")

    def media(self, version: int, data: bytes, wanted: str | None) -> None:
        part = self.range_of(data)
        if wanted not in (None, str(version)):
            self.refuse(412, "conditionNotMet")
        elif part is None:
            self.refuse(416, "Requested range not satisfiable")
        else:
            self.answer(206, part[0], Content_Range=part[1], X_Goog_Generation=str(version))

    do_GET = do_POST = do_DELETE = handle_all  # noqa: N815


class AzureHandler(_Handler):
    """Azure's interface; ETags stand in quotes in headers, and without them in lists, as the service has it."""

    def refuse(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>signed with 1</Message></Error>".encode()
        self.answer(status, body, Content_Type="application/xml", x_ms_error_code=code)

    def etag(self, version: int) -> str:
        return f"0x8D{version:08X}"

    def handle_all(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        _, _account, container, *rest = unquote(parts.path).split("/", 3)
        key = rest[0] if rest else ""
        data = self.body()
        if self.refusing:
            self.refuse(403, "AuthenticationFailed")
        elif container != BUCKET:
            self.refuse(404, "ContainerNotFound")
        elif query.get("comp") == "list":
            self.list(query.get("prefix", ""), int(query.get("marker", 0)))
        elif self.command == "PUT":
            version = self.put(key, data)
            self.answer(201, ETag=f'"{self.etag(version)}"', Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")
        elif key not in self.objects:
            self.refuse(404, "BlobNotFound")
        elif self.command == "DELETE":
            del self.objects[key]
            self.answer(202)
        else:
            self.blob(*self.objects[key])

    def list(self, prefix: str, first: int) -> None:
        names = sorted(name for name in self.objects if name.startswith(prefix))
        blobs = "".join(
            f"<Blob><Name>{escape(name)}</Name><Properties><Etag>{self.etag(self.objects[name][0])}</Etag>"
            f"<Content-Length>{len(self.objects[name][1])}</Content-Length><BlobType>BlockBlob</BlobType>"
            "</Properties></Blob>"
            for name in names[first : first + 2]
        )
        marker = first + 2 if len(names) > first + 2 else ""
        page = f"<Prefix>{escape(prefix)}</Prefix><Blobs>{blobs}</Blobs><NextMarker>{marker}</NextMarker>"
        body = f"<EnumerationResults>{page}</EnumerationResults>".encode()
        self.answer(200, body, Content_Type="application/xml")

    def blob(self, version: int, data: bytes) -> None:
        headers = {
            "ETag": f'"{self.etag(version)}"',
            "x_ms_blob_type": "BlockBlob",
            "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
        }
        if self.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
            self.refuse(412, "ConditionNotMet")
        elif self.command == "HEAD":
            self.answer(200, data, **headers)
        elif (part := self.range_of(data)) is None:
            self.refuse(416, "InvalidRange")
        else:
            self.answer(206, part[0], Content_Range=part[1], **headers)

    do_GET = do_PUT = do_HEAD = do_DELETE = handle_all  # noqa: N815


def new_service(handler: type[_Handler]) -> type[BaseHTTPRequestHandler]:
    """A handler for one server, with objects of its own."""
    return type(handler.__name__, (handler,), {"objects": {}, "refusing": False, "versions": count(1)})
