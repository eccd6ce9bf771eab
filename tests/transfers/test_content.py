"""Serving a landed file: which bytes a `Range` asks for, and the headers that say so."""

import tracemalloc
from pathlib import Path

import pytest
from django.http import HttpResponseBase, StreamingHttpResponse
from hypothesis import given
from hypothesis import strategies as st

from transfers import content
from transfers.content import Unsatisfiable, byte_range, file_response

DATA = bytes(range(10))


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("bytes=0-9", (0, 9)),
        ("bytes=0-0", (0, 0)),
        ("bytes=9-9", (9, 9)),
        ("bytes=3-6", (3, 6)),
        ("bytes=3-", (3, 9)),
        ("bytes=0-", (0, 9)),
        ("bytes=3-10", (3, 9)),
        ("bytes=3-999999999999", (3, 9)),
        ("bytes=-1", (9, 9)),
        ("bytes=-10", (0, 9)),
        ("bytes=-11", (0, 9)),
        ("bytes = 3 - 6", (3, 6)),
        ("bytes=003-006", (3, 6)),
    ],
)
def test_a_range_names_its_first_and_last_byte(header: str, wanted: tuple[int, int]) -> None:
    assert byte_range(header, 10) == wanted


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=6-3",
        "bytes=99-98",
        "bytes=0-1,3-4",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=1-2-3",
        "bytes=0x1-0x2",
        "bytes=1.5-2",
        "lines=0-1",
        "bytes=" + "9" * 5000 + "-",
        "bytes=²-",
        "bytes=0-1\n",
    ],
)
def test_several_ranges_and_malformed_ones_are_answered_with_the_whole_file(header: str) -> None:
    assert byte_range(header, 10) is None


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-10", "bytes=99-100", "bytes=-0"])
def test_a_range_beyond_the_end_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        byte_range(header, 10)


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0"])
def test_no_range_of_an_empty_file_can_be_satisfied(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        byte_range(header, 0)


@given(st.text(max_size=40) | st.from_regex(r"bytes=\d*-\d*"), st.integers(0, 2**63))
def test_no_header_leads_outside_of_the_file(header: str, size: int) -> None:
    try:
        wanted = byte_range(header, size)
    except Unsatisfiable:
        return
    if wanted is not None:
        first, last = wanted
        assert 0 <= first <= last < size


@pytest.fixture
def path(data_dir: Path) -> Path:
    path = data_dir / "downloads/till 1.db"
    path.write_bytes(DATA)
    return path


async def body(response: HttpResponseBase) -> bytes:
    assert isinstance(response, StreamingHttpResponse)
    return b"".join([block async for block in response])


async def test_the_whole_file_is_an_attachment_that_no_browser_interprets(path: Path) -> None:
    response = file_response(path, etag="abc")
    assert response.status_code == 200
    assert dict(response.items()) == {
        "Content-Type": "application/octet-stream",
        "Content-Length": "10",
        "Content-Disposition": 'attachment; filename="till 1.db"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
        "Accept-Ranges": "bytes",
        "ETag": '"abc"',
    }
    assert await body(response) == DATA


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ('a"b.db', r'filename="a\"b.db"'),
        ("a\\b.db", r'filename="a\\b.db"'),
        ('"; filename=evil.exe', r'filename="\"; filename=evil.exe"'),
        ("kasse-zürich.db", "filename*=utf-8''kasse-z%C3%BCrich.db"),
        ("日本.db", "filename*=utf-8''%E6%97%A5%E6%9C%AC.db"),
        ("a\u202egpj.exe", "filename*=utf-8''a%E2%80%AEgpj.exe"),
        ("a\r\nSet-Cookie: x=1", "filename*=utf-8''a%0D%0ASet-Cookie%3A%20x%3D1"),
        ("a\x1b[2J\x7f", "filename*=utf-8''a%1B%5B2J%7F"),
        ("100%.db", 'filename="100%.db"'),
    ],
)
def test_a_name_cannot_leave_its_parameter(data_dir: Path, name: str, header: str) -> None:
    """RFC 6266: quoted where that is possible, else as RFC 8187 has it."""
    path = data_dir / "downloads" / name
    path.write_bytes(DATA)
    response = file_response(path, etag="abc")
    assert response["Content-Disposition"] == f"attachment; {header}"


async def test_a_range_of_the_file_says_which(path: Path) -> None:
    response = file_response(path, etag="abc", wanted="bytes=3-6")
    assert response.status_code == 206
    assert response["Content-Range"] == "bytes 3-6/10"
    assert response["Content-Length"] == "4"
    assert await body(response) == DATA[3:7]


async def test_an_empty_file_is_served(path: Path) -> None:
    path.write_bytes(b"")
    response = file_response(path, etag="abc")
    assert (response.status_code, response["Content-Length"]) == (200, "0")
    assert await body(response) == b""


def test_a_range_beyond_the_end_is_told_the_size(path: Path) -> None:
    response = file_response(path, etag="abc", wanted="bytes=10-")
    assert (response.status_code, response["Content-Range"]) == (416, "bytes */10")


@pytest.mark.parametrize(
    ("if_range", "status"),
    [('"abc"', 206), ("", 206), ('"old"', 200), ('W/"abc"', 200), ("abc", 200)],
)
def test_a_range_is_of_the_file_that_was_begun_or_it_is_all_of_it(
    path: Path, if_range: str, status: int
) -> None:
    """If-Range: half of one file is never continued with half of another."""
    response = file_response(path, etag="abc", wanted="bytes=3-", if_range=if_range)
    assert response.status_code == status


def test_a_file_that_was_removed_is_not_found(path: Path) -> None:
    path.unlink()
    with pytest.raises(FileNotFoundError):
        file_response(path, etag="abc")


async def test_a_file_that_gets_shorter_while_it_is_served_ends(path: Path) -> None:
    response = file_response(path, etag="abc")
    path.write_bytes(b"abc")
    assert await body(response) == b"abc"


async def test_memory_does_not_grow_with_the_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(64 * content.BLOCK)
    response = file_response(path, etag="abc")
    assert isinstance(response, StreamingHttpResponse)
    size = 0
    tracemalloc.start()
    try:
        async for block in response:
            assert isinstance(block, bytes)
            size += len(block)
        assert tracemalloc.get_traced_memory()[1] < 8 * content.BLOCK
    finally:
        tracemalloc.stop()
    assert size == 64 * content.BLOCK
