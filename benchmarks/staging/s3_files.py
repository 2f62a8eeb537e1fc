"""A folder as an S3 server that is quick enough to measure clients against: bodies go out by sendfile.

    python benchmarks/staging/s3_files.py FOLDER PORT

serves FOLDER/BUCKET/KEY on loopback: GetObject with ranges, HeadObject, ListObjectsV2, and PutObject with
`If-None-Match: *`. Signatures are not checked. For measurements only.
"""

from __future__ import annotations

import os
import re
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

ROOT = Path(sys.argv[1])
META = ".meta"


class Handler(BaseHTTPRequestHandler):
    """One connection, in a thread of its own."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the base class's name
        """Says nothing: a line a request would be measured too."""

    def do_HEAD(self) -> None:  # named by the base class
        """HeadObject."""
        self._object(with_body=False)

    def do_GET(self) -> None:
        """GetObject or ListObjectsV2."""
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._list(query.get("prefix", [""])[0])
        else:
            self._object(with_body=True)

    def do_PUT(self) -> None:
        """PutObject, also with the chunked encoding that carries a trailing checksum."""
        path = self._place()
        content = self._content()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb" if self.headers.get("If-None-Match") == "*" else "wb") as file:
                file.write(content)
        except FileExistsError:
            body = b"<Error><Code>PreconditionFailed</Code></Error>"
            return self._answer(HTTPStatus.PRECONDITION_FAILED, body)
        metadata = {
            name: value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")
        }
        lines = "".join(f"{name}: {value}\n" for name, value in metadata.items())
        path.with_name(path.name + META).write_text(lines)
        return self._answer(HTTPStatus.OK, b"")

    def _place(self) -> Path:
        return ROOT / unquote(urlsplit(self.path).path).lstrip("/")

    def _content(self) -> bytes:
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return self.rfile.read(int(self.headers["Content-Length"]))
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # the trailer
            pass
        return content

    def _answer(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _list(self, prefix: str) -> None:
        bucket = self._place()
        keys = {str(path.relative_to(bucket)): path for path in sorted(bucket.rglob("*")) if path.is_file()}
        rows = [
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{path.stat().st_size:032x}&quot;</ETag><Size>{path.stat().st_size}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key, path in keys.items()
            if key.startswith(prefix) and not key.endswith(META)
        ]
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket.name}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(rows)}</KeyCount>"
            f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{''.join(rows)}</ListBucketResult>"
        )
        self._answer(HTTPStatus.OK, body.encode())

    def _object(self, *, with_body: bool) -> None:
        path = self._place()
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            body = b"<Error><Code>NoSuchKey</Code></Error>" if with_body else b""
            return self._answer(HTTPStatus.NOT_FOUND, body)
        try:
            size = os.fstat(file).st_size
            first, last = 0, size - 1
            part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if part:
                first, last = int(part[1]), min(int(part[2] or last), last)
            self.send_response(HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK)
            if part:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            for name, value in (
                ("Content-Length", str(last - first + 1)),
                ("Content-Type", "binary/octet-stream"),
                ("ETag", f'"{size:032x}"'),
                ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
            ):
                self.send_header(name, value)
            meta = path.with_name(path.name + META)
            for line in meta.read_text().splitlines() if meta.is_file() else ():
                self.send_header(*line.split(": ", 1))
            self.end_headers()
            while with_body and first <= last:
                first += os.sendfile(self.connection.fileno(), file, first, last - first + 1)
        finally:
            os.close(file)
        return None


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
