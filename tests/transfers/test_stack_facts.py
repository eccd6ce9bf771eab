"""What the code relies on in Channels, daphne, autobahn, Django and redis-py.

None of it is promised by them. Where one of these fails after an upgrade, the place that relies on it
(named in the docstring) is to be looked at, and then the test.
"""

import inspect
from collections.abc import AsyncIterator
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from autobahn.websocket.protocol import WebSocketProtocol as AutobahnProtocol
from channels import consumer as channels_consumer
from channels.consumer import AsyncConsumer
from channels.exceptions import ChannelFull, StopConsumer
from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer  # type: ignore[import-untyped]
from daphne.cli import CommandLineInterface
from daphne.http_protocol import WebRequest
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol as DaphneProtocol
from django.http import FileResponse, StreamingHttpResponse
from redis.asyncio.connection import Connection as RedisConnection
from twisted.internet.abstract import FileDescriptor
from twisted.web.http import HTTPChannel

from agent.wire.errors import CloseCode
from agent.wire.messages import MAX_CHUNK, Chunk
from transfers.consumers import AgentConsumer


def default(function: Any, name: str) -> Any:
    return inspect.signature(function).parameters[name].default


# Channels ----------------------------------------------------------------------------------------


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The times that Channels tidied up database connections, a hop to its one thread each."""
    counted: list[str] = []

    async def aclose_old_connections() -> None:
        counted.append("hop")

    monkeypatch.setattr(channels_consumer, "aclose_old_connections", aclose_old_connections)
    return counted


async def test_channels_tidies_up_database_connections_for_each_message(hops: list[str]) -> None:
    """`AgentConsumer._listen` and `dispatch` are there because of this."""

    class Plain(AsyncConsumer):
        async def websocket_receive(self, message: dict[str, Any]) -> None:
            pass

    await Plain().dispatch({"type": "websocket.receive", "bytes": b"x"})
    assert hops == ["hop"]


async def test_what_a_connection_hears_skips_the_tidying_up(
    hops: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[str | bytes] = []

    async def receive(self: AgentConsumer, data: str | bytes) -> None:
        received.append(data)

    monkeypatch.setattr(AgentConsumer, "_receive", receive)
    consumer = AgentConsumer()
    consumer.attendant = None
    await consumer.dispatch({"type": "websocket.receive", "bytes": b"chunk", "text": None})
    assert (received, hops) == ([b"chunk"], [])
    await consumer.dispatch({"type": "websocket.receive", "text": "message"})
    assert (received, hops) == ([b"chunk", "message"], [])
    with pytest.raises(StopConsumer):
        await consumer.dispatch({"type": "websocket.disconnect", "code": 1000})
    assert hops == []


async def test_the_in_memory_layer_loses_what_does_not_fit_without_a_word() -> None:
    """Why the row is the truth (`dispatch`)."""
    layer = InMemoryChannelLayer(capacity=1)
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "doorbell"})
    await layer.group_send("group", {"type": "doorbell"})
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"type": "doorbell"})
    assert layer.channels[channel].qsize() == 1


async def test_the_in_memory_layer_takes_an_unread_channel_out_of_its_groups() -> None:
    """Why a process joins its group again and again (`dispatch`)."""
    layer = InMemoryChannelLayer(expiry=0)
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "doorbell"})
    await layer.group_send("group", {"type": "doorbell"})
    assert channel not in layer.groups.get("group", {})


async def test_the_in_memory_layer_goes_through_all_channels_for_each_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why there is no channel for each connection (`dispatch`)."""
    layer, cleaned = InMemoryChannelLayer(), []
    monkeypatch.setattr(layer, "_clean_expired", lambda: cleaned.append(True))
    await layer.group_send("group", {"type": "doorbell"})
    assert cleaned


# Autobahn ----------------------------------------------------------------------------------------


class Closing(AutobahnProtocol):
    """As much of a connection as `sendClose` needs."""

    def __init__(self) -> None:
        self.codes: list[int | None] = []

    def sendCloseFrame(self, code: int | None = None, *args: object, **kwargs: object) -> None:
        self.codes.append(code)


@pytest.mark.parametrize("code", [1001, 1008, 1011, 1012, 2999, 5000])
def test_autobahn_lets_an_application_close_with_none_of_the_rfc_codes(code: int) -> None:
    """Why ours are those plus 3000 (`CloseCode`)."""
    with pytest.raises(Exception, match="invalid close code"):
        Closing().sendClose(code)


def test_autobahn_refuses_an_enum_for_a_close_code() -> None:
    """Why `AgentConsumer._close` makes it an int."""

    class Code(IntEnum):
        OURS = 4001

    with pytest.raises(Exception, match="must be an integer"):
        Closing().sendClose(Code.OURS)


@pytest.mark.parametrize("code", [1000, *map(int, CloseCode)])
def test_autobahn_takes_all_our_close_codes(code: int) -> None:
    closing = Closing()
    closing.sendClose(code)
    assert closing.codes == [code]


# Daphne ------------------------------------------------------------------------------------------


def test_daphne_takes_messages_of_a_mebibyte_and_a_chunk_fits() -> None:
    """`MAX_CHUNK`, and the system check silentmode.E004."""
    for name in ("websocket_max_message_size", "websocket_max_frame_size"):
        assert default(Server.__init__, name) == 1024**2
        assert default(Server.__init__, name) > MAX_CHUNK + Chunk.HEADER.size


def test_daphne_gives_an_application_5_s_to_let_somebody_in_and_ends_a_connection_after_a_day() -> (
    None
):
    """`GuardedWebSocket.check_timeouts` does neither."""
    options = CommandLineInterface().parser.parse_args(["an.asgi:application"])
    assert options.websocket_connect_timeout == 5
    assert default(Server.__init__, "websocket_timeout") == 86_400


def test_daphne_goes_through_all_connections_every_other_second() -> None:
    """`doorkeeper.Server` has it do so less often, by these names."""
    assert "reactor.callLater(1, self.application_checker)" in inspect.getsource(Server)
    assert "reactor.callLater(2, self.timeout_checker)" in inspect.getsource(Server)


def test_daphne_starts_the_class_that_its_command_names() -> None:
    """`doorkeeper.install`."""
    assert "self.server = self.server_class(" in inspect.getsource(CommandLineInterface.run)


def test_twisted_writes_what_waits_from_two_buffers() -> None:
    """`sockets._write_now`."""
    connection = inspect.getsource(FileDescriptor)
    assert "self._tempDataBuffer.append(data)" in connection
    assert 'dataBuffer = b""' in connection


class Replying(DaphneProtocol):  # type: ignore[misc]  # daphne has no types
    """As much of a connection as `handle_reply` needs."""

    def __init__(self) -> None:
        self.state = self.STATE_OPEN
        self.sent: list[tuple[str | bytes, bool]] = []
        self.closed: list[tuple[Any, ...]] = []

    def serverSend(self, content: str | bytes, binary: bool = False) -> None:
        self.sent.append((content, binary))

    def sendClose(self, *args: Any, **kwargs: Any) -> None:
        self.closed.append((args, kwargs))


def test_daphne_drops_empty_messages() -> None:
    """Why the end of a file is a message, and no chunk is empty."""
    replying = Replying()
    for content in ({"bytes": b""}, {"text": ""}, {"bytes": b"x"}, {"text": "x"}):
        replying.handle_reply({"type": "websocket.send", **content})
    assert replying.sent == [(b"x", True), ("x", False)]


def test_daphne_drops_close_reasons() -> None:
    """Why the reason goes before, in an `abort` (`AgentConsumer._close`)."""
    replying = Replying()
    replying.handle_reply({"type": "websocket.close", "code": 4001, "reason": "superseded"})
    assert replying.closed == [((), {"code": 4001})]


def test_daphne_puts_what_comes_into_a_queue_without_a_bound() -> None:
    """Why `sockets.GuardedWebSocket` counts what waits, and stops reading."""
    assert "input_queue = asyncio.Queue()" in inspect.getsource(Server.create_application)
    assert "put_nowait" in inspect.getsource(DaphneProtocol.onMessage)


def test_daphnes_send_shows_the_socket_behind_it() -> None:
    """How `sockets.at_its_pace` tells a socket that a message was taken."""
    assert "send=partial(self.handle_reply, protocol)" in inspect.getsource(
        Server.create_application
    )


def test_daphne_makes_its_connections_from_what_the_doorkeeper_puts_in_place() -> None:
    """`doorkeeper.install`."""
    run = inspect.getsource(Server.run)
    assert "self.http_factory = HTTPFactory(self)" in run
    assert "ep.listen(self.http_factory)" in run
    assert "self.ws_factory = WebSocketFactory(self," in run
    assert "protocol = self.server.ws_factory.buildProtocol(" in inspect.getsource(WebRequest)


def test_daphne_leaves_the_http_channel_as_the_producer_of_a_websocket() -> None:
    """`GuardedWebSocket.connectionMade` takes its place, to hear that the peer does not read."""
    assert "registerProducer(self, True)" in inspect.getsource(HTTPChannel.connectionMade)
    assert "nregisterProducer" not in inspect.getsource(WebRequest.process)


def test_a_handshake_that_waits_for_its_answer_has_a_deferred() -> None:
    """`GuardedWebSocket.dataReceived` knows by it that nothing may come yet."""
    assert "self.handshake_deferred = defer.Deferred()" in inspect.getsource(
        DaphneProtocol.onConnect
    )
    assert "del self.handshake_deferred" in inspect.getsource(DaphneProtocol.serverAccept)


def test_autobahn_collects_fragments_and_answers_pings_without_a_bound() -> None:
    """`GuardedWebSocket.onFrameBegin`, `onPing`."""
    assert "self.message_data.extend(payload)" in inspect.getsource(AutobahnProtocol.onMessageFrame)
    assert "self.sendPong(payload)" in inspect.getsource(AutobahnProtocol.onPing)


def test_autobahn_goes_on_as_long_as_processing_says_there_is_more() -> None:
    """`GuardedWebSocket.consumeData` is the same loop, with one more reason to stop."""
    assert "while self.processData() and self.state != WebSocketProtocol.STATE_CLOSED" in (
        inspect.getsource(AutobahnProtocol.consumeData)
    )


def test_twisted_gives_a_request_time_for_as_long_as_something_trickles() -> None:
    """Why `doorkeeper.Channel` has a deadline of its own."""
    assert "self.resetTimeout()" in inspect.getsource(HTTPChannel.dataReceived)
    assert "self._handlingRequest = True" in inspect.getsource(HTTPChannel.allContentReceived)


# Django and redis-py -----------------------------------------------------------------------------


async def test_a_file_response_is_read_into_memory_under_asgi(tmp_path: Path) -> None:
    """Why `content` streams from an async iterator of its own."""
    (tmp_path / "file").write_bytes(b"content")
    response = FileResponse((tmp_path / "file").open("rb"))
    assert not response.is_async
    with pytest.warns(Warning, match="must consume synchronous iterators"):
        assert [part async for part in response] == [b"content"]
    response.close()


async def test_a_response_of_an_async_iterator_is_streamed_under_asgi() -> None:
    read: list[int] = []

    async def blocks() -> AsyncIterator[bytes]:
        for number in range(3):
            read.append(number)
            yield b"block"

    response = StreamingHttpResponse(blocks())
    assert response.is_async
    async for _ in response:
        break
    assert read == [0]


def test_redis_py_would_give_up_just_when_the_layer_still_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why `CHANNEL_LAYERS` names a socket timeout of its own."""
    assert RedisConnection().socket_timeout == RedisChannelLayer.brpop_timeout


def test_our_redis_connections_outlast_the_wait_for_a_message() -> None:
    settings = Path(__file__).resolve().parents[2].joinpath("silentmode/settings.py").read_text()
    seconds = int(settings.partition('"socket_timeout": ')[2].partition("}")[0])
    assert seconds > RedisChannelLayer.brpop_timeout
