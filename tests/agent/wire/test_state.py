"""The tables: for every state, side and message what is allowed, written out here a second time."""

import ast
from itertools import product
from pathlib import Path

import pytest

from agent.wire.errors import ERRORS, CloseCode
from agent.wire.messages import Abort, Message
from agent.wire.state import ENDED_BY, OVER, Link, Side, Stage, next_link, next_stage

from .test_messages import EXAMPLES

STAGES = """
idle       server request  requested
closed     server request  requested
requested  agent  offer    offered
offered    server start    sending
sending    agent  chunk    sending
sending    server ack      sending
sending    agent  end      ended
ended      server ack      ended
ended      server landed   landed

requested  server cancel   stopping
offered    server cancel   stopping
sending    server cancel   stopping
ended      server cancel   stopping
requested  server abort    stopping
offered    server abort    stopping
sending    server abort    stopping
ended      server abort    stopping

requested  agent  abort    closed
offered    agent  abort    closed
sending    agent  abort    closed
ended      agent  abort    closed
stopping   agent  abort    closed
"""

LINKS = """
new        agent  hello      greeted
new        server abort      closed
greeted    server welcome    open
greeted    server abort      closed
greeted    agent  abort      closed
open       agent  heartbeat  open
open       server heartbeat  open
open       server renew      open
open       agent  renewed    open
open       agent  abort      closed
open       server abort      closed
"""


def table(text: str) -> dict[tuple[str, str, str], str]:
    rows = [line.split() for line in text.split("\n") if line]
    return {(state, side, kind): after for state, side, kind, after in rows}


EVERY_MESSAGE = list(EXAMPLES.values())


def name(value: object) -> str:
    return str(getattr(value, "kind", None) or getattr(value, "value", value))


@pytest.mark.parametrize(
    ("stage", "side", "message"), list(product(Stage, Side, EVERY_MESSAGE)), ids=name
)
def test_a_transfer_moves_as_the_table_says(stage: Stage, side: Side, message: Message) -> None:
    after = next_stage(stage, side, message)
    key = (stage.value, side.value, message.kind)
    assert (after and after.value) == table(STAGES).get(key)


@pytest.mark.parametrize(
    ("link", "side", "message"), list(product(Link, Side, EVERY_MESSAGE)), ids=name
)
def test_a_link_moves_as_the_table_says(link: Link, side: Side, message: Message) -> None:
    after = next_link(link, side, message)
    assert (after and after.value) == table(LINKS).get((link.value, side.value, message.kind))


def test_whoever_ended_a_transfer_is_who_said_the_message_that_led_there() -> None:
    for (_, side, _), after in table(STAGES).items():
        if Stage(after) in ENDED_BY:
            assert ENDED_BY[Stage(after)].value == side


def test_an_agent_can_say_no_text_about_a_transfer_again_and_again() -> None:
    """Only a chunk, which costs credit, leaves the state as it is; every text moves it on, and there is
    no way back without a message of the server. So heartbeats are all that has to be counted."""
    steps: dict[str, set[str]] = {}
    for (stage, side, kind), after in table(STAGES).items():
        if side == "agent" and kind != "chunk":
            steps.setdefault(stage, set()).add(after)
    for first, next_ones in steps.items():
        reached = set(next_ones)
        while more := {after for stage in reached for after in steps.get(stage, ())} - reached:
            reached |= more
        assert first not in reached
    again = {key for key, after in table(LINKS).items() if key[1] == "agent" and after == key[0]}
    # `renewed` only answers a `renew`: the session has books of that.
    assert again == {("open", "agent", "heartbeat"), ("open", "agent", "renewed")}


def test_the_tables_here_speak_of_what_there_is() -> None:
    kinds = {message.kind for message in EVERY_MESSAGE}
    for text, states in ((STAGES, Stage), (LINKS, Link)):
        values = {each.value for each in states}
        for (state, side, kind), after in table(text).items():
            assert {state} <= values
            assert after in values
            assert side in ("agent", "server")
            assert kind in kinds


def test_every_stage_can_be_ended_by_either_side() -> None:
    """No transfer can be stuck: the agent may abort it, the server cancel it, wherever it is."""
    for stage in ("requested", "offered", "sending", "ended"):
        assert table(STAGES)[stage, "agent", "abort"] == "closed"
        assert table(STAGES)[stage, "server", "cancel"] == "stopping"


def test_the_peer_of_the_peer_is_oneself() -> None:
    assert Side.AGENT.peer is Side.SERVER
    assert Side.SERVER.peer is Side.AGENT


CODES = [
    "not_found",
    "forbidden",
    "not_a_file",
    "unreadable",
    "source_changed",
    "too_large",
    "busy",
    "checksum_mismatch",
    "storage_full",
    "storage_error",
    "quota_exceeded",
    "protocol_error",
    "timed_out",
    "cancelled",
    "expired",
    "revoked",
    "internal",
]


def test_the_codes_are_those_of_the_design() -> None:
    assert list(ERRORS) == CODES


@pytest.mark.parametrize("code", CODES)
def test_a_code_says_all_there_is_to_say(code: str) -> None:
    info = ERRORS[code]
    assert info.code == code
    assert info.sentence.endswith(".")
    assert 400 <= info.http_status < 600
    assert Abort(None, code).code == code


ROOT = Path(__file__).parents[3]
CODE_ARGUMENT = {"Abort": 1, "Violation": 0, "SourceError": 0}


def codes_used(path: Path) -> set[str]:
    """The codes that this module writes out in a call that takes one."""
    used = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            position = CODE_ARGUMENT.get(node.func.id, len(node.args))
            used |= {
                each.value
                for each in node.args[position : position + 1]
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
    return used


def test_every_code_used_is_in_the_table() -> None:
    sources = [*ROOT.glob("agent/**/*.py"), *ROOT.glob("transfers/**/*.py")]
    used = set().union(*map(codes_used, sources))
    assert "protocol_error" in used
    assert used <= set(ERRORS)


def test_a_socket_is_closed_with_codes_of_our_own() -> None:
    """RFC 6455 section 7.4.2: 4000 to 4999 are for private use."""
    assert {code.name: code.value for code in CloseCode} == {
        "SUPERSEDED": 4001,
        "PROTOCOL_ERROR": 4002,
        "REVOKED": 4003,
        "INVALID_DATA": 4007,
        "POLICY_VIOLATION": 4008,
        "SERVICE_RESTART": 4012,
    }


def test_nothing_begins_again_after_a_landing() -> None:
    assert {kind for stage, _, kind in table(STAGES) if stage == "landed"} == set()
    assert {stage.value for stage in OVER} == {"landed", "closed"}
