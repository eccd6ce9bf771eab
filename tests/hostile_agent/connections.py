"""Connections that are too many, too slow, or not let in; and what they say before they are agents."""

import contextlib
import json
import time

from tests.end_to_end.harness import eventually
from tests.hostile_agent.frames import pour, slowly
from tests.hostile_agent.misbehaviour import misbehaviour
from tests.hostile_agent.scene import MIB, SETTINGS, Outcome, Scene
from tests.hostile_agent.villain import Gone, Refused, Villain

CROWD, GUESSERS = "127.0.0.67", "127.0.0.68"
"""Addresses that use up what one address may: not those of the other villains."""


def knocks(scene: Scene, client: str, token: str, **headers: str) -> Outcome:
    """A handshake, and how it is refused."""
    with scene.villain() as villain:
        try:
            villain.handshake(client, token, **headers)
        except Refused as refused:
            return Outcome(str(refused.status), "refused before it is accepted")
    return Outcome("101", "let in")


@misbehaviour("403")
def gives_a_wrong_token(scene: Scene) -> Outcome:
    return knocks(scene, scene.client()[0], "wrong")


@misbehaviour("403")
def gives_no_token(scene: Scene) -> Outcome:
    return knocks(scene, *scene.client(), Authorization="")


@misbehaviour("403")
def comes_by_the_honest_agents_id(scene: Scene) -> Outcome:
    return knocks(scene, "honest", scene.client()[1])


@misbehaviour("403", "404")
def comes_by_an_id_that_is_a_path(scene: Scene) -> Outcome:
    return knocks(scene, "../../admin", scene.client()[1])


@misbehaviour("403")
def comes_by_an_id_of_control_characters(scene: Scene) -> Outcome:
    outcome = knocks(scene, "x\r\n[server] \x1b[2J\u202e", scene.client()[1])
    assert "\x1b" not in scene.server.program.output
    return outcome


@misbehaviour("403")
def comes_from_a_browser(scene: Scene) -> Outcome:
    return knocks(scene, *scene.client(), Origin="https://evil.example")


@misbehaviour("403")
def does_not_speak_our_protocol(scene: Scene) -> Outcome:
    return knocks(scene, *scene.client(), Sec_WebSocket_Protocol="chat")


@misbehaviour("reset", slow=True)
def speaks_before_it_is_answered(scene: Scene) -> Outcome:
    """What comes before the handshake is answered would be collected in memory; it is not read at all."""
    client, token = scene.client()
    with scene.villain() as villain:
        villain.send(villain.ask_in(client, token))
        sent = pour(villain, [bytes(MIB)] * 200)
        heard, _ = villain.until_closed()
    assert sent < 100, f"{sent} MiB were taken"
    return Outcome("reset", f"{sent:.0f} MiB were sent, {len(heard)} bytes answered")


@misbehaviour("reset", slow=True)
def shakes_hands_twice(scene: Scene) -> Outcome:
    client, token = scene.client()
    with scene.villain() as villain:
        pour(villain, [villain.ask_in(client, token)] * 3)
        heard, _ = villain.until_closed()
    return Outcome("reset", f"{heard.count(b'HTTP/1.1 101')} handshakes were answered")


@misbehaviour("reset", slow=True)
def connects_and_says_nothing(scene: Scene) -> Outcome:
    with scene.villain() as villain:
        _, seconds = villain.until_closed()
    return Outcome("reset", f"after {seconds:.0f} s")


def _trickles(scene: Scene, beginning: bytes) -> Outcome:
    since = time.monotonic()
    with scene.villain() as villain:
        villain.send(beginning)
        pour(villain, slowly(b"X-Slow: loris\r\n" * 100, every=0.5), seconds=120.0)
    return Outcome("reset", f"after {time.monotonic() - since:.0f} s")


@misbehaviour("reset", slow=True)
def trickles_the_header_of_its_handshake(scene: Scene) -> Outcome:
    return _trickles(scene, b"GET /ws/agent/x/ HTTP/1.1\r\n")


@misbehaviour("reset", slow=True)
def trickles_the_body_of_a_request(scene: Scene) -> Outcome:
    return _trickles(scene, b"POST /download/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n")


@misbehaviour("reset", slow=True)
def trickles_a_second_request(scene: Scene) -> Outcome:
    return _trickles(scene, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\n")


@misbehaviour("400", "reset")
def sends_a_header_of_a_megabyte(scene: Scene) -> Outcome:
    with scene.villain() as villain:
        pour(villain, [b"GET / HTTP/1.1\r\nX: ", b"x" * MIB])
        return Outcome(_status(villain))


@misbehaviour("413", "reset")
def announces_a_body_of_a_terabyte(scene: Scene) -> Outcome:
    with scene.villain() as villain:
        villain.send(
            b"POST /download/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1099511627776\r\n\r\n"
        )
        pour(villain, [bytes(MIB)] * 64)
        return Outcome(_status(villain))


@misbehaviour("413", "reset")
def sends_a_body_in_pieces_without_end(scene: Scene) -> Outcome:
    with scene.villain() as villain:
        villain.send(
            b"POST /download/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        pour(villain, [b"100000\r\n" + bytes(MIB) + b"\r\n"] * 64)
        return Outcome(_status(villain))


def _status(villain: Villain) -> str:
    try:
        return str(villain.status())
    except Gone:
        return "reset"


@misbehaviour("reset", said="200 stayed", slow=True)
def opens_thousands_of_connections(scene: Scene) -> Outcome:
    with contextlib.ExitStack() as crowd:
        villains = []
        for _ in range(2000):
            with contextlib.suppress(ConnectionError):  # refused before `connect` has returned
                villains.append(crowd.enter_context(scene.villain(CROWD)))
        # Before the landing: 20 s after they came, those that stay are sent away, too, as too slow.
        most = int(SETTINGS["SILENTMODE_CONNECTIONS_PER_ADDRESS"])
        eventually("no more than may stay", lambda: sum(map(_is_open, villains)) <= most)
        stayed = sum(map(_is_open, villains))
        scene.land_one()
    assert stayed == most
    return Outcome("reset", f"{stayed} stayed of 2000")


def _is_open(villain: Villain) -> bool:
    villain.socket.setblocking(False)
    try:
        return villain.socket.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


@misbehaviour("open", said="100 welcomes")
def reconnects_again_and_again(scene: Scene) -> Outcome:
    client, token = scene.client()
    for _ in range(100):
        with scene.villain() as villain:
            villain.greet(client, token)
    return Outcome("open", "100 welcomes")


@misbehaviour("403", said="429, Retry-After")
def guesses_tokens(scene: Scene) -> Outcome:
    """Beyond its failures its address is refused from memory, and a till behind it is let in."""
    client, token = scene.client()
    for number in range(200):
        with scene.villain(GUESSERS) as villain, contextlib.suppress(Refused):
            villain.handshake(client, f"guess {number}")
    # One more guess is looked at each second (`Failures`), so this one may be it: not the next, then.
    answer = eventually("a guess is refused from memory", lambda: _guess_in_the_open(scene))
    assert b"Retry-After: " in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "too_many_failures"
    with scene.villain(GUESSERS) as neighbour:
        neighbour.greet(client, token)
    return Outcome("403", "429, Retry-After; a neighbour is let in")


def _guess_in_the_open(scene: Scene) -> bytes | None:
    """The answer to one, read whole, if it is 429: a GET, as a refused handshake may be cut short."""
    with scene.villain(GUESSERS) as villain:
        villain.send(
            b"GET /ws/agent/x/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n"
            b"Connection: close\r\n\r\n"
        )
        answer, _ = villain.until_closed()
    return answer if answer.startswith(b"HTTP/1.1 429") else None
