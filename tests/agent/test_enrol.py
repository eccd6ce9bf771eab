"""Enrolling a machine, and keeping a new token: what is on the disk, whatever goes wrong."""

import asyncio
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent import credentials, enrol
from agent.cli import main
from agent.credentials import Credentials, take_token
from agent.gate.policy import Policy
from agent.link import Identity, Link, LinkDown
from agent.state_folder import StateFolder, StateFolderError
from agent.transport import Trust
from agent.wire.messages import Abort, Hello, Renew, Renewed, Request, Welcome

from .servers import SECONDS, TRANSFER, Server, gate, serving

CODE = "7Q2MX-0WK4D-11111-22222-33333"
OLD, NEW = "old-token-of-43-characters-" + "o" * 16, "new-token-of-43-characters-" + "n" * 16


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    folder = StateFolder(tmp_path / "state")
    folder.create()
    return folder


@pytest.fixture
def kept(folder: StateFolder) -> StateFolder:
    Credentials("ws://localhost:1", "client1", OLD).keep(folder)
    return folder


# Credentials -------------------------------------------------------------------------------------


def test_what_is_kept_is_read_again(kept: StateFolder) -> None:
    assert Credentials.load(kept) == Credentials("ws://localhost:1", "client1", OLD)
    assert OLD not in repr(Credentials.load(kept))
    assert OLD not in repr(Identity("ws://localhost:1", "client1", OLD, kept_in=kept))


def test_nothing_is_kept_at_first(folder: StateFolder) -> None:
    assert Credentials.load(folder) is None


def test_how_the_server_is_known_is_kept_with_a_new_token_too(folder: StateFolder) -> None:
    trust = Trust(Path("/etc/ca.pem"), (bytes(32), bytes(31) + b"\1"), allow_insecure=True)
    known = Credentials("wss://files.example.com", "client1", OLD, trust)
    known.keep(folder)
    assert Credentials.load(folder) == known
    take_token(folder, NEW)
    assert Credentials.load(folder) == dataclasses.replace(known, token=NEW)


def test_what_was_kept_before_that_is_read(folder: StateFolder) -> None:
    old = {"server": "wss://files.example.com", "client_id": "client1", "token": OLD}
    folder.write_private(credentials.FILE, json.dumps(old).encode())
    assert Credentials.load(folder) == Credentials("wss://files.example.com", "client1", OLD)


@pytest.mark.parametrize(
    ("server", "same"),
    [
        ("wss://files.example.com", True), ("wss://files.example.com:443", True),
        ("wss://FILES.example.com", True), ("ws://files.example.com", False),
        ("wss://files.example.com:8443", False), ("wss://files.example.org", False),
        ("ws://files.example.com:443", False),
    ],
)  # fmt: skip
def test_of_another_server_nothing_is_known(server: str, same: bool) -> None:
    trust = Trust(Path("/etc/ca.pem"))
    known = Credentials("wss://files.example.com", "client1", OLD, trust)
    assert known.trust_in(server) == (trust if same else Trust())


def test_a_url_that_was_mistyped_is_said(folder: StateFolder) -> None:
    Credentials("https://files.example.com", "client1", OLD).keep(folder)
    with pytest.raises(StateFolderError, match=r"credentials\.json: .* it looks like wss://"):
        Credentials.load(folder)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"1", b'{"server": "ws://x"}', b"\xff",
        b'{"server": "ws://x", "client_id": "c", "token": "t", "pins": ["sha256/"]}',
        b'{"server": "ws://x", "client_id": "c", "token": "t", "ca_file": 1}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_said_with_what_to_do(folder: StateFolder, data: bytes) -> None:
    folder.write_private(credentials.FILE, data)
    with pytest.raises(StateFolderError, match="--renew"):
        Credentials.load(folder)


def test_a_new_token_takes_the_place_of_the_old_one(kept: StateFolder) -> None:
    assert take_token(kept, NEW) == NEW
    assert Credentials.load(kept) == Credentials("ws://localhost:1", "client1", NEW)


@pytest.mark.parametrize("when", ["before the rename", "after it"])
def test_what_counts_is_what_is_on_the_disk_when_keeping_fails(
    kept: StateFolder, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A restarted agent would show that one, so the running one does, too."""
    write = StateFolder.write_private

    def fails(self: StateFolder, name: str, data: bytes) -> None:
        if when == "after it":
            write(self, name, data)
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(StateFolder, "write_private", fails)
    assert take_token(kept, NEW) == (NEW if when == "after it" else OLD)


# A new token over the connection -----------------------------------------------------------------


async def conversation(identity: Identity) -> Link:
    """One connection, to its end."""
    link = Link(identity, gate(Policy(Path("/nonexistent"))))
    async with asyncio.timeout(SECONDS):
        with contextlib.suppress(LinkDown):
            await link.serve()
    return link


async def greet(server: Server) -> Hello:
    hello = await server.hear(Hello)
    await server.say(Welcome("client1", 30, 512 * 1024, "now"))
    return hello


async def test_the_agent_keeps_a_new_token_says_so_and_uses_it(kept: StateFolder) -> None:
    async def script(server: Server) -> None:
        assert (await greet(server)).renewable
        await server.say(Renew(NEW))
        renewed = await server.hear(Renewed)
        assert renewed.token_sha256 == hashlib.sha256(NEW.encode()).hexdigest()
        on_disk = Credentials.load(kept)
        assert on_disk is not None
        assert on_disk.token == NEW, "before it says so"

    async with serving(script) as url:
        link = await conversation(Identity(url, "client1", OLD, kept_in=kept))
    assert link.identity.token == NEW


async def test_a_token_that_cannot_be_kept_is_not_confirmed(
    kept: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, os.strerror(28))

    async def script(server: Server) -> None:
        await greet(server)
        await server.say(Renew(NEW))
        await server.say(Request(TRANSFER, "/nonexistent"))
        await server.hear(Abort)  # the connection goes on, and nothing was confirmed before

    monkeypatch.setattr(StateFolder, "write_private", full)
    async with serving(script) as url:
        link = await conversation(Identity(url, "client1", OLD, kept_in=kept))
    assert link.identity.token == OLD


async def test_an_agent_with_a_token_given_by_hand_says_that_it_keeps_none(tmp_path: Path) -> None:
    async def script(server: Server) -> None:
        assert not (await greet(server)).renewable

    async with serving(script) as url:
        await conversation(Identity(url, "client1", OLD))


# The command -------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def door(*answers: tuple[int, bytes]) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A server that gives these answers, the last one for ever, and the bodies that it was sent."""
    bodies: list[dict[str, Any]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
        bodies.append(json.loads(await reader.readexactly(length)))
        status, body = answers[min(len(bodies), len(answers)) - 1]
        more = b"Location: http://127.0.0.1:1/\r\n" if status == 302 else b""
        writer.write(b"HTTP/1.1 %d X\r\nConnection: close\r\n%s" % (status, more))
        writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", bodies


def accepted(status: str = "active") -> tuple[int, bytes]:
    return 201, json.dumps({"client": "till-1", "status": status}).encode()


def refused(status: int, code: str, detail: str = "No.") -> tuple[int, bytes]:
    return status, json.dumps({"code": code, "detail": detail}).encode()


async def run(url: str, folder: StateFolder, *more: str) -> int:
    return await asyncio.to_thread(
        main, ["enrol", "--server", url, "--state", str(folder.path), "--code", CODE, *more]
    )


async def test_the_server_gets_the_digest_and_the_folder_the_token(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    async with door(accepted()) as (url, bodies):
        assert await run(url, folder) == 0
    kept = Credentials.load(folder)
    assert kept is not None
    assert (kept.server, kept.client_id) == (url, "till-1")
    assert bodies[0]["token_sha256"] == hashlib.sha256(kept.token.encode()).hexdigest()
    assert kept.token not in str(bodies)
    assert kept.token not in "".join(capsys.readouterr())
    assert os.listdir(folder.path) == [credentials.FILE]


async def test_a_pending_machine_is_told_what_it_waits_for(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    async with door(accepted("pending")) as (url, bodies):
        assert await run(url, folder, "--id", "till-1") == 0
    assert bodies[0]["client"] == "till-1"
    assert "waits to be approved" in capsys.readouterr().err


NO_ANSWERS = {
    "an error inside": (500, b"oops"),
    "a proxy": (502, b"<html>"),
    "too many failures": refused(429, "throttled"),
    "a redirect": (302, b""),
    "no JSON": (201, b"<html>"),
    "no client": (201, b"{}"),
    "another shape": (201, b"[]"),
    "a client that is none": (201, b'{"client": 1, "status": "active"}'),
    "deep nesting": (201, b"[" * 60000),
}


@pytest.mark.parametrize("first", NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_after_no_answer_the_same_is_asked_again(
    folder: StateFolder, first: tuple[int, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    async with door(first, accepted()) as (url, bodies):
        assert await run(url, folder) == 1
        assert capsys.readouterr().err.startswith("error: ")
        assert Credentials.load(folder) is None
        assert (folder.path / enrol.DRAFT).stat().st_mode & 0o777 == 0o600
        assert await run(url, folder) == 0
    assert bodies[0] == bodies[1]


async def test_another_code_takes_another_token(folder: StateFolder) -> None:
    async with door(refused(403, "code_used"), accepted()) as (url, bodies):
        assert await run(url, folder) == 3
        assert await run(url, folder, "--code", "other") == 0
    assert bodies[0]["token_sha256"] != bodies[1]["token_sha256"]


async def test_a_refusal_is_said_in_the_servers_words_made_safe(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    async with door(refused(403, "code_used", "Used\x1b[2J.")) as (url, _):
        assert await run(url, folder) == 3
    assert capsys.readouterr().err == "error: Used\\x1b[2J. (code_used)\n"


async def test_nobody_there(folder: StateFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("ws://127.0.0.1:1", folder) == 1
    assert "Try again" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://localhost", "ws://", "ws://localhost/x"])
async def test_a_url_that_makes_no_sense(folder: StateFolder, url: str) -> None:
    assert await run(url, folder) == 2


@pytest.mark.parametrize("typed", ["", "\n", "  \n"])
def test_without_a_code_nothing_is_asked(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert main(["enrol", "--state", str(folder.path)]) == 2


async def test_a_state_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert await run("ws://127.0.0.1:1", StateFolder(tmp_path / "file" / "state")) == 2


async def test_a_draft_that_is_damaged_is_of_no_matter(folder: StateFolder) -> None:
    folder.write_private(enrol.DRAFT, b"{")
    async with door(accepted()) as (url, _):
        assert await run(url, folder) == 0


async def test_what_enrolment_was_told_of_the_server_is_kept_over_the_next_one(
    folder: StateFolder,
) -> None:
    async with door(accepted()) as (url, _):
        assert await run(url, folder, "--allow-insecure") == 0
        assert await run(url, folder, "--force") == 0
    kept = Credentials.load(folder)
    assert kept is not None
    assert kept.trust == Trust(allow_insecure=True)
