"""The table of faults: how each is done at a given moment, how it ends, and what may come of it."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from tests.end_to_end.harness import AgentProgram, eventually
from tests.link import Spoil

from . import disk
from .plan import CHECKPOINT, COMPLETED, WINDOW, Act, Fault, nothing
from .scene import Hit, Scene

STOP_SECONDS = 10.0
"""From a SIGTERM to the end of agent or server."""

TOLD_SECONDS = 1.0
"""From the API's answer to a cancel until the agent says that it was stopped."""

FEW_BYTES = (1, 7, 64, 1500, 64 * 1024)

# The link ---------------------------------------------------------------------------------------


def cut(scene: Scene, hit: Hit) -> None:
    scene.link.cut()


def black_hole(scene: Scene, hit: Hit) -> None:
    scene.link.black_hole()


def heal(scene: Scene, hit: Hit) -> None:
    scene.link.heal()


def stall(scene: Scene, hit: Hit) -> None:
    scene.link.stall_after(scene.link.sent)


def flow(scene: Scene, hit: Hit) -> None:
    scene.link.flow()


def delay(scene: Scene, hit: Hit) -> None:
    scene.link.delay(hit.strike.throw().uniform(0.02, 0.3))


def throttle(scene: Scene, hit: Hit) -> None:
    scene.link.slow_down(max(scene.plan.size / hit.strike.throw().uniform(2, 6), 8 * 1024))


def spoil(kind: Literal["flip", "truncate", "duplicate", "reorder"]) -> Act:
    """Have it done once to the bytes of one way of the link."""

    def arm(scene: Scene, hit: Hit) -> None:
        dice = hit.strike.throw()
        length, bit = dice.choice(FEW_BYTES), dice.randrange(8)
        if kind != "flip":
            scene.note(f"to come: {kind} {length} bytes")
        planned = Spoil(kind, hit.strike.at[0], length=length, bit=bit)
        happened = scene.link.spoil(hit.strike.way, planned)
        hit.call_off = happened.set
        scene.begin_when(hit, happened.wait)

    return arm


# The agent --------------------------------------------------------------------------------------


def signal_agent(number: signal.Signals, *, ends: bool = False) -> Act:
    def strike(scene: Scene, hit: Hit) -> None:
        if ends:
            scene.dismissed.add(scene.agent)
        scene.agent.process.send_signal(number)

    return strike


def start_agent_again(scene: Scene, hit: Hit) -> None:
    scene.agent.process.wait(STOP_SECONDS)
    scene.start_agent()


def start_agent_after_stop(scene: Scene, hit: Hit) -> None:
    status = scene.agent.process.wait(max(0.1, hit.began_at + STOP_SECONDS - time.monotonic()))
    scene.check_agent_end(scene.agent, status)
    scene.start_agent()


def second_agent(scene: Scene, hit: Hit) -> None:
    """It takes over, has the transfer for a while, and is stopped."""
    second = scene.another_agent()
    scene.dismissed.add(second)
    second.wait_for("registered as")
    scene.note("the second agent is registered")
    scene.stop.wait(hit.strike.throw().uniform(0, 2))
    if second.terminate():
        scene.complain("the second agent did not end with 0")


# The server -------------------------------------------------------------------------------------


def signal_server(number: signal.Signals, *, ends: bool = False) -> Act:
    def strike(scene: Scene, hit: Hit) -> None:
        if ends:
            scene.dismissed.add(scene.server.program)
        scene.server.program.process.send_signal(number)

    return strike


def start_server_again(scene: Scene, hit: Hit) -> None:
    scene.server.program.process.wait(STOP_SECONDS)
    scene.server.start()


def start_server_after_stop(scene: Scene, hit: Hit) -> None:
    status = scene.server.program.process.wait()
    seconds = time.monotonic() - hit.began_at
    scene.note(f"the server ended with {status} after {seconds:.1f} s")
    if status or seconds > STOP_SECONDS:
        scene.complain(f"a stopped server ended with {status} after {seconds:.1f} s")
    scene.server.start()


# The source -------------------------------------------------------------------------------------


def change(how: str) -> Act:
    def strike(scene: Scene, hit: Hit) -> None:
        getattr(scene.source, how)()

    return strike


# The transfer's life ----------------------------------------------------------------------------


def cancel(scene: Scene, hit: Hit) -> None:
    status, answer = scene.call("POST", f"/api/v1/transfers/{scene.transfer}/cancel/")
    answered = time.monotonic()
    scene.note(f"cancel: {status} {answer.get('status', answer)}")
    if status not in (200, 409):
        scene.complain(f"cancel was answered with {status}: {answer}")
    if status == 200 and len(scene.hits) == 1 and is_sending(scene.agent):
        expect_stop(scene, answered)


def is_sending(agent: AgentProgram) -> bool:
    return "Sending file" in agent.output


def expect_stop(scene: Scene, answered: float) -> None:
    eventually("an agent that stops", lambda: "Stopped by the server" in scene.agent.output, 30)
    if (seconds := time.monotonic() - answered) > TOLD_SECONDS:
        scene.complain(f"the agent was stopped only {seconds:.1f} s after the cancel's answer")


def cancel_and_flow(scene: Scene, hit: Hit) -> None:
    try:
        cancel(scene, hit)
    finally:
        scene.link.flow()


def ask_with_deadline(scene: Scene, hit: Hit) -> str:
    scene.begin(hit)
    return scene.request(seconds=hit.strike.seconds)


def ask_twice(scene: Scene, hit: Hit) -> str:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: scene.request(), range(2))
    if first != second:
        scene.complain(f"asked for twice at once, and there are two transfers: {first}, {second}")
    return first


def ask_again_and_flow(scene: Scene, hit: Hit) -> None:
    status = scene.row().get("status")
    again = scene.request()
    scene.link.flow()
    if again != scene.transfer and scene.row().get("status") != "completed":
        scene.complain(f"asked for again while it was {status}, and there is another: {again}")


def hide_source(scene: Scene, hit: Hit) -> None:
    scene.source.hide()
    scene.begin(hit)


def retry(scene: Scene, hit: Hit) -> None:
    """Once it has failed because the file is not there."""
    eventually("a failed transfer", scene.has_failed)
    scene.source.put_back()
    status, answer = scene.call("POST", f"/api/v1/transfers/{scene.transfer}/retry/")
    if status != 200:
        scene.complain(f"a retry was answered with {status}: {answer}")


# The table --------------------------------------------------------------------------------------

KILLED = CHECKPOINT + WINDOW
"""What a killed server may ask for again, and one whose agent was taken over."""

LINK = (
    Fault("cut", "link", strike=cut, again=WINDOW),
    Fault("cuts", "link", strike=cut, again=WINDOW, times=(2, 5)),
    Fault("black-hole", "link", strike=black_hole, mend=heal, lasts=(0.5, 20), again=WINDOW),
    Fault("stall", "link", strike=stall, mend=flow, lasts=(0.5, 8)),
    Fault("delay", "link", strike=delay),
    Fault("throttle", "link", strike=throttle),
)

BYTES = tuple(
    Fault(kind, "bytes", arm=spoil(kind), again=None, talk=True)
    for kind in ("flip", "truncate", "duplicate", "reorder")
)

AGENT = (
    Fault(
        "agent-killed", "agent", lasts=(0, 1), again=WINDOW,
        strike=signal_agent(signal.SIGKILL, ends=True), mend=start_agent_again,
    ),
    Fault(
        "agent-stopped", "agent", again=WINDOW,
        strike=signal_agent(signal.SIGTERM, ends=True), mend=start_agent_after_stop,
    ),
    Fault(
        "agent-frozen", "agent", lasts=(0.5, 8),
        strike=signal_agent(signal.SIGSTOP), mend=signal_agent(signal.SIGCONT),
    ),
    Fault("agent-taken-over", "agent", mend=second_agent, again=2 * KILLED, slow=True),
)  # fmt: skip

SERVER = (
    Fault(
        "server-killed", "server", lasts=(0, 1), again=KILLED, large=True,
        strike=signal_server(signal.SIGKILL, ends=True), mend=start_server_again,
    ),
    Fault(
        "server-stopped", "server", again=WINDOW, large=True,
        strike=signal_server(signal.SIGTERM, ends=True), mend=start_server_after_stop,
    ),
    Fault(
        "server-frozen", "server", lasts=(0.5, 8),
        strike=signal_server(signal.SIGSTOP), mend=signal_server(signal.SIGCONT),
    ),
)  # fmt: skip

SOURCE = (
    *(
        Fault(f"source-{name}", "source", strike=change(how), again=None)
        for name, how in (
            ("grows", "grow"),
            ("shrinks", "shrink"),
            ("rewritten", "rewrite"),
            ("replaced", "replace"),
        )
    ),
    Fault(
        "source-restless", "source", strike=change("grow"), times=(3, 8), again=None,
        ends=COMPLETED | {"failed:source_changed"},
    ),
    Fault(
        "source-deleted", "source", strike=change("delete"), again=None,
        ends=COMPLETED | {"failed:not_found"},
    ),
)  # fmt: skip

LIFE = (
    Fault("cancelled", "life", mend=cancel, ends=COMPLETED | {"cancelled"}, slow=True),
    Fault(
        "cancelled-stalled", "life", strike=stall, mend=cancel_and_flow,
        ends=COMPLETED | {"cancelled"},
    ),
    Fault(
        "deadline", "life", ask=ask_with_deadline, arm=nothing, lasts=(0.5, 4), slow=True,
        ends=COMPLETED | {"expired"},
    ),
    Fault(
        "asked-twice", "life", ask=ask_twice, queued=True, strike=stall, mend=ask_again_and_flow,
    ),
    Fault("retried", "life", arm=hide_source, mend=retry),
)  # fmt: skip

DISK = (
    *(
        Fault(
            f"disk-{call}", "disk", arm=disk.fail(call), mend=disk.leave, lasts=(0, 1),
            queued=True, again=None,
        )
        for call in disk.CALLS
    ),
    Fault(
        "landing-killed", "disk server", arm=disk.kill_in_landing, mend=start_server_again,
        queued=True, again=KILLED,
    ),
    Fault(
        "landing-cancelled", "disk life", arm=disk.slow_landing, mend=cancel, queued=True,
        ends=COMPLETED | {"cancelled"},
    ),
)  # fmt: skip

DOORBELL = Fault(
    "doorbell", "doorbell", arm=Scene.begin,
    environment={"DJANGO_SETTINGS_MODULE": "tests.end_to_end.lossy"},
)  # fmt: skip

FAULTS = {
    fault.name: fault for fault in (*LINK, *BYTES, *AGENT, *SERVER, *SOURCE, *LIFE, *DISK, DOORBELL)
}
