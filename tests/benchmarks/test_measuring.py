"""The instruments of `make bench`, each with the real thing that it measures. No test judges speed."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.__main__ import chosen, main
from benchmarks.cases import CASES
from benchmarks.cases.rate import busiest_second
from benchmarks.figures import MIB
from benchmarks.peers import PEERS, available, missing_rows
from benchmarks.pinging_agent import PING
from benchmarks.processes import Peak, Tail, after_a_rest, cpu_seconds
from benchmarks.pulls import Puller, pull_together
from benchmarks.scene import Scene
from tests.end_to_end.harness import Program


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """With one round."""
    with Scene(tmp_path, rounds=1, quick=True) as scene:
        yield scene


def test_work_after_a_rest_is_compared_with_work_without_one() -> None:
    assert 0 < after_a_rest(rests=1, seconds=0.01) < 1000


def test_subjects_take_turns_after_a_warm_up_that_does_not_count(scene: Scene) -> None:
    scene.rounds = 2
    said: list[str] = []

    def subject(name: str) -> int:
        said.append(name)
        return len(said)

    subjects = {"a": lambda: subject("a"), "b": lambda: subject("b")}
    results = scene.in_turn(subjects)
    rounds = [said[first : first + 2] for first in (0, 2, 4)]
    assert all(sorted(each) == ["a", "b"] for each in rounds)
    assert results == {
        name: [number for number, who in enumerate(said, 1) if who == name and number > 2]
        for name in subjects
    }
    order = said.copy()
    said.clear()
    scene.in_turn(subjects)
    assert said == order, "in each run the same"
    assert scene.in_turn({"a": lambda: 1}, at_most=1) == {"a": [1]}


def test_what_a_scene_has_made_is_gone_at_its_end(tmp_path: Path) -> None:
    output = tmp_path / "bench"
    output.mkdir()
    with Scene(output, rounds=1, quick=True) as scene:
        assert scene.file("data.bin", 1).stat().st_size == MIB
    assert list(output.iterdir()) == []


def test_cpu_seconds_are_those_that_a_process_used() -> None:
    before = cpu_seconds(os.getpid())
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert cpu_seconds(os.getpid()) - before >= 0.05


def test_a_file_is_pulled_verified_and_removed(scene: Scene) -> None:
    source = scene.file("data.bin", 1)
    server = scene.server()
    pullers = [
        Puller(server, client, scene.agent(server, client, file=source), source)
        for client in ("till1", "till2")
    ]
    peak = Peak(server.program)
    pull = pull_together(pullers)
    assert pull.run.size == 2 * MIB
    assert pull.run.seconds == max(pull.seconds)
    assert min(pull.seconds) > 0
    assert pull.run.receiver > 0
    assert server.downloads == []
    assert "at most" in peak.finish()
    assert peak.grown >= 0


def test_an_agent_says_how_long_its_pings_take(scene: Scene) -> None:
    agent = scene.agent(
        scene.server(), "till", roots=[scene.folder], module="benchmarks.pinging_agent"
    )
    agent.wait_for(PING)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_copies_the_file_and_what_it_took_is_known(scene: Scene, name: str) -> None:
    source = scene.file("data.bin", 1)
    here, missing = available(scene, source)
    if name in missing:
        pytest.skip(missing[name])
    run = here[name]()
    assert run.size == MIB
    assert run.seconds > 0
    assert not (scene.folder / "data.bin.copy").exists()


def test_a_peer_that_is_not_installed_is_named(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = shutil.which("cp")
    monkeypatch.setattr("shutil.which", lambda name, **options: found if name == "cp" else None)
    here, missing = available(scene, scene.file("data.bin", 1))
    assert list(here) == ["cp"]
    assert missing.keys() == {"scp", "rsync over ssh"}
    rows = list(missing_rows(missing))
    assert [row.name for row in rows] == ["scp", "rsync over ssh"]
    assert {row.missing for row in rows} == {"sshd is not installed (make system-deps)"}


def test_the_busiest_second_may_begin_at_any_moment() -> None:
    passed = [0, 0, 5, 10, 10, 20, 20, 20]
    assert busiest_second([(moment / 4, count) for moment, count in enumerate(passed)]) == 20
    assert busiest_second([(float(moment), moment) for moment in range(5)]) == 1


def test_cases_are_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen("") == list(CASES)
    assert chosen("rate, one") == ["rate", "one"]
    assert main(["--cases", "warp"]) == 2
    assert "There is no case warp; there are one, agents," in capsys.readouterr().err


def test_lines_are_counted_once_however_they_come(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("landed before\n")
    program = Program(["-c", "import time; time.sleep(60)"], log, {})
    try:
        with closing(Tail(program, "landed")) as tail, log.open("a") as out:
            out.write("one landed\nand another lan")
            out.flush()
            assert tail.look() == 1
            out.write("ded\nsomething else\n")
            out.flush()
            assert tail.look() == tail.look() == 2
    finally:
        program.kill()


def test_whoever_ends_before_it_has_said_it_is_not_waited_for(tmp_path: Path) -> None:
    program = Program(["-c", "print('good-bye')"], tmp_path / "log", {})
    program.process.wait()
    with closing(Tail(program, "landed")) as tail, pytest.raises(AssertionError, match="good-bye"):
        tail.wait()
