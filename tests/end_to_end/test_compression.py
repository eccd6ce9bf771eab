"""Files travel compressed where that pays, land whole all the same, and the link stays free for others."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.wire.messages import (
    CODEC_RAW,
    CODEC_ZSTD,
    PROTOCOL,
    Chunk,
    End,
    Hello,
    Landed,
    Welcome,
)
from tests.end_to_end.conftest import StartAgent
from tests.end_to_end.harness import Server, eventually, make_file, sha256
from tests.end_to_end.scripted import ScriptedAgent
from tests.link import Link
from tests.zstd_frames import zstd

MIB = 1 << 20
UPLINK = 2 * MIB
"""Bytes a second: some 16 Mbit/s."""

ITEMS = ("COFFEE", "LATTE", "BURGER", "FRIES", "SALAD", "WRAP", "COLA", "WATER")


def make_csv(path: Path, size: int) -> Path:
    """What a till writes."""
    dice = random.Random(214)
    lines: list[str] = []
    length = 0
    while length < size:
        item = dice.choice(ITEMS)
        lines.append(
            f"2026-11-24T10:{dice.randrange(60):02}:{dice.randrange(60):02}Z,store-214,till-3,"
            f"{len(lines):08},{item},{dice.randrange(1, 4)},{dice.randrange(100, 1500)},CARD\n"
        )
        length += len(lines[-1])
    path.write_text("".join(lines))
    return path


@pytest.fixture
def link(server: Server) -> Iterator[Link]:
    with Link(server.port) as link:
        link.slow_down(UPLINK)
        link.delay(0.02)
        yield link


@pytest.fixture
def token(server: Server) -> str:
    return server.manage("add_client", "client1", "--token")


def test_a_csv_takes_a_fraction_of_its_bytes_on_a_slow_link_and_is_landed_whole(
    server: Server, link: Link, start_agent: StartAgent, token: str, tmp_path: Path
) -> None:
    source = make_csv(tmp_path / "sales.csv", 12 * MIB)
    agent = start_agent("client1", token, link.port, file=source)
    transfer = server.ask("client1")
    server.wait_landed(transfer, source)
    assert link.sent < source.stat().st_size / 2
    wire = server.transfer(transfer)["wire_bytes"]
    assert link.sent * 0.9 < wire < link.sent
    agent.wait_for(f"File sent successfully ({wire / 1e6:.1f} MB for ")


def test_random_bytes_go_as_they_are(
    server: Server, link: Link, start_agent: StartAgent, token: str, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "data.bin", 4 * MIB)
    agent = start_agent("client1", token, link.port, file=source)
    transfer = server.ask("client1")
    server.wait_landed(transfer, source)
    assert server.transfer(transfer)["wire_bytes"] == 4 * MIB
    agent.wait_for("File sent successfully\n")


def test_a_file_of_which_half_gives_way_is_landed_whole(
    server: Server, link: Link, start_agent: StartAgent, token: str, tmp_path: Path
) -> None:
    source = make_csv(tmp_path / "mixed.tar", 4 * MIB)
    with source.open("ab") as file:
        file.write(make_file(tmp_path / "picture", 3 * MIB).read_bytes() + b"," * (4 * MIB))
    start_agent("client1", token, link.port, file=source)
    transfer = server.ask("client1")
    server.wait_landed(transfer, source)
    assert server.transfer(transfer)["wire_bytes"] < 6 * MIB


@pytest.mark.parametrize("killed", ["agent", "server"])
def test_a_compressed_transfer_goes_on_after_a_kill(
    server: Server, link: Link, start_agent: StartAgent, token: str, tmp_path: Path, killed: str
) -> None:
    """And one that began compressed can end raw: a checkpoint counts bytes of the source."""
    source = make_csv(tmp_path / "sales.csv", 40 * MIB)
    link.stall_after(5 * MIB)
    agent = start_agent("client1", token, link.port, file=source)
    transfer = server.ask("client1")
    link.wait_stalled()
    if killed == "agent":
        agent.kill()
    else:
        eventually("a checkpoint", lambda: server.transfer(transfer)["checkpoint"])
        server.program.kill()
        server.environment["SILENTMODE_COMPRESSION"] = "off"
    link.slow_down(None)
    link.flow()
    if killed == "agent":
        server.wait_status(transfer, "interrupted")
        agent = start_agent("client1", token, link.port, file=source)
    else:
        server.start()
    server.wait_landed(transfer, source)
    assert "[client] Resuming at byte" in agent.output


def test_nothing_is_compressed_where_the_setting_is_off(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", SILENTMODE_COMPRESSION="off")
    server.start()
    token = server.manage("add_client", "client1", "--token")
    with ScriptedAgent(server.port, "client1", token) as agent:
        agent.say(Hello(PROTOCOL, "0", "test", "test", (CODEC_ZSTD, CODEC_RAW)))
        agent.hear(Welcome)
        server.ask("client1")
        assert agent.offer("data.bin", 5).codec == CODEC_RAW
    assert server.program.terminate() == 0


def test_an_agent_without_zstd_works_as_before(server: Server, token: str) -> None:
    with ScriptedAgent(server.port, "client1", token) as agent:
        agent.greet()
        transfer = server.ask("client1")
        start = agent.offer("data.bin", 5)
        assert start.codec == CODEC_RAW
        agent.say(Chunk(start.transfer, 0, b"hello"))
        digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        agent.say(End(start.transfer, 5, digest, "1", "data.bin"))
        agent.hear(Landed)
    assert server.transfer(transfer)["wire_bytes"] == 5


def test_raw_and_compressed_chunks_may_alternate(
    server: Server, token: str, tmp_path: Path
) -> None:
    source = make_csv(tmp_path / "sales.csv", 100_000)
    data = source.read_bytes()
    with ScriptedAgent(server.port, "client1", token) as agent:
        agent.say(Hello(PROTOCOL, "0", "test", "test", (CODEC_ZSTD, CODEC_RAW, "lzma")))
        agent.hear(Welcome)
        transfer = server.ask("client1")
        start = agent.offer("sales.csv", len(data))
        assert start.codec == CODEC_ZSTD
        step = len(data) // 5 + 1  # no short rest
        for number, offset in enumerate(range(0, len(data), step)):
            piece = data[offset : offset + step]
            packed = Chunk(start.transfer, offset, zstd(piece), CODEC_ZSTD, len(piece))
            agent.say(packed if number % 2 else Chunk(start.transfer, offset, piece))
        agent.say(End(start.transfer, len(data), sha256(source), "1", "sales.csv"))
        agent.hear(Landed)
    server.wait_landed(transfer, source)


def test_a_cancel_is_not_stuck_behind_what_is_queued_on_a_slow_uplink(
    server: Server, link: Link, start_agent: StartAgent, token: str, tmp_path: Path
) -> None:
    """Random bytes, at 1 Mbit/s: little is on its way when it comes, and no more follows."""
    link.slow_down(MIB / 8)
    source = make_file(tmp_path / "data.bin", 8 * MIB)
    agent = start_agent("client1", token, link.port, file=source)
    transfer = server.ask("client1")
    link.wait_sent(MIB // 2)
    assert server.call("POST", f"/api/v1/transfers/{transfer}/cancel/")[0] == 200
    agent.wait_for("Stopped by the server")
    sent = link.sent
    server.wait_status(transfer, "cancelled")
    quiet(link)
    assert link.sent - sent < MIB // 4, "what it had queued"


def quiet(link: Link) -> None:
    """Wait until nothing passes any more."""
    before = -1
    while before != link.sent:
        before = link.sent
        time.sleep(1.0)
