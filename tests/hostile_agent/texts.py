"""Texts that are wrong in form: too long, too deep, too many, or no JSON at all."""

from agent.wire.messages import PROTOCOL, Heartbeat
from tests.hostile_agent.messages import NOBODY, ended, says
from tests.hostile_agent.misbehaviour import misbehaviour
from tests.hostile_agent.scene import Outcome, Scene
from tests.hostile_agent.villain import as_text


@misbehaviour("4008", said="too many heartbeats")
def floods_with_heartbeats(scene: Scene) -> Outcome:
    return says(scene, *[Heartbeat()] * 1000)


@misbehaviour("4008", said="256")
def sends_a_long_heartbeat(scene: Scene) -> Outcome:
    return says(scene, as_text(type="heartbeat", x="x" * 60_000))


@misbehaviour("4008", said="65536")
def sends_a_text_of_a_megabyte(scene: Scene) -> Outcome:
    return says(scene, '"' + "x" * 1_000_000 + '"')


@misbehaviour("4007", said="JSON")
def floods_with_garbage(scene: Scene) -> Outcome:
    return says(scene, *["{" * 1000] * 20_000)


@misbehaviour("4007", said="JSON")
def nests_lists_deeply(scene: Scene) -> Outcome:
    return says(scene, '{"type":"heartbeat","x":' + "[" * 30_000 + "]" * 30_000 + "}")


@misbehaviour("4007", said="JSON")
def nests_objects_deeply(scene: Scene) -> Outcome:
    return says(scene, '{"x":' * 12_000)


@misbehaviour("4007", said="JSON")
def drops_a_bomb_of_quotes(scene: Scene) -> Outcome:
    return says(scene, '"' + '\\"' * 32_000)


@misbehaviour("4007", said="JSON")
def sends_a_number_of_4000_digits(scene: Scene) -> Outcome:
    return says(scene, '{"type":"heartbeat","x":' + "9" * 4000 + "}")


@misbehaviour("4007", said="JSON")
def sends_a_number_that_is_none(scene: Scene) -> Outcome:
    return says(scene, '{"type":"heartbeat","x":NaN}')


@misbehaviour("4007", said="JSON")
def says_a_key_twice(scene: Scene) -> Outcome:
    return says(scene, '{"type":"heartbeat","type":"hello"}')


@misbehaviour("4002", said="unknown type")
def says_what_there_is_no_word_for(scene: Scene) -> Outcome:
    return says(scene, as_text(type="websocket.disconnect"))


@misbehaviour("4002", said="name must have 0 to 255")
def fills_a_field_beyond_its_length(scene: Scene) -> Outcome:
    offer = as_text(
        type="offer", transfer=str(NOBODY), name="n" * 5000, size=1, mtime_ns=0, fingerprint="1"
    )
    return says(scene, offer)


@misbehaviour("4002", said="size must be")
def offers_a_negative_size(scene: Scene) -> Outcome:
    offer = as_text(
        type="offer", transfer=str(NOBODY), name="n", size=-1, mtime_ns=0, fingerprint="1"
    )
    return says(scene, offer)


@misbehaviour("4002", said="surrogate")
def hides_a_lone_surrogate_in_a_field(scene: Scene) -> Outcome:
    with scene.villain() as villain:
        villain.handshake(*scene.client())
        hello = as_text(
            type="hello", protocol=PROTOCOL, agent_version="1", platform="x", hostname="\ud800"
        )
        villain.say(hello)
        return ended(villain)
