"""Serving a landed file: one byte range or all of it, in flat memory (RFC 9110 section 14)."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

from django.http import HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.utils.http import content_disposition_header

BLOCK = 1024 * 1024

UNTRUSTED = "default-src 'none'; frame-ancestors 'none'; sandbox"
"""The Content-Security-Policy of what an agent has sent: should a browser show it all the same, it is
nobody's page and runs nothing."""


class Unsatisfiable(Exception):
    """No byte of the range is in the file."""


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """(first, last) byte that a `Range` header asks for; None where all of the file is to be sent.

    As RFC 9110 lets a server, several ranges and malformed ones are answered with the whole file.
    Raises Unsatisfiable.
    """
    match = re.fullmatch(r"bytes=(\d{0,19})-(\d{0,19})", header.replace(" ", ""))
    if not match or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if not first:
        begin, end = max(0, size - int(last)), size - 1
    else:
        begin, end = int(first), min(int(last or size), size - 1)
        if last and int(last) < begin:
            return None
    if begin > end:
        raise Unsatisfiable
    return begin, end


def file_response(
    path: Path, *, etag: str, wanted: str = "", if_range: str = ""
) -> HttpResponseBase:
    """The file as an attachment. `wanted` and `if_range` are the request's headers.

    Raises FileNotFoundError.
    """
    size = path.stat().st_size
    quoted = f'"{etag}"'
    try:
        asked = byte_range(wanted, size) if wanted and if_range in ("", quoted) else None
    except Unsatisfiable:
        answer = {"code": "range_not_satisfiable", "detail": f"The file has {size} bytes."}
        return JsonResponse(answer, status=416, headers={"Content-Range": f"bytes */{size}"})
    first, last = asked or (0, size - 1)
    # Not FileResponse: under ASGI it reads the whole file into memory (Django 5.2, response.py).
    response = StreamingHttpResponse(
        _blocks(path, first, last + 1),
        status=206 if asked else 200,
        content_type="application/octet-stream",
    )
    response["Content-Length"] = str(last + 1 - first)
    response["Content-Disposition"] = str(content_disposition_header(True, path.name))
    response["X-Content-Type-Options"] = "nosniff"
    response["Content-Security-Policy"] = UNTRUSTED
    response["Accept-Ranges"] = "bytes"
    response["ETag"] = quoted
    if asked:
        response["Content-Range"] = f"bytes {first}-{last}/{size}"
    return response


async def _blocks(path: Path, begin: int, end: int) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        file.seek(begin)
        while begin < end:
            block = await asyncio.to_thread(file.read, min(BLOCK, end - begin))
            if not block:
                return  # cut short behind our back; the client sees it by Content-Length
            begin += len(block)
            yield block
