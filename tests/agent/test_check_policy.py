"""`check-policy` explains to the person at the machine what the server is never told."""

import os
import sys
from pathlib import Path

import pytest

from agent.cli import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="paths of POSIX")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "private").mkdir(parents=True)
    for name in ("a.log", "private/b.log", "c.txt"):
        (root / name).write_text("x" * 10)
    (root / "link.log").symlink_to("a.log")
    (root / "key.log").write_text("-----BEGIN PRIVATE KEY-----")
    return root


@pytest.fixture
def policy(tmp_path: Path, root: Path) -> Path:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        f'max_file_size = 100\n[[roots]]\npath = "{root}"\nallow = ["**/*.log"]\ndeny = ["private"]\n'
    )
    return policy


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    return capsys


def check(said: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, list[str]]:
    # It would lower the priority of the tests themselves, for good.
    status = main(["check-policy", "--normal-priority", *map(str, arguments)])
    return status, said.readouterr().out.splitlines()


def test_what_is_allowed_is_named_with_its_rule(
    said: pytest.CaptureFixture[str], policy: Path, root: Path
) -> None:
    for asked in ("a.log", str(root / "a.log")):
        assert check(said, asked, "--policy", policy) == (
            0,
            [
                f"allowed: root {root} allows **/*.log",
                f"It would be sent: {root}/a.log (10 bytes)",
                "An agent with these options runs with normal priority; no limit of the rate.",
            ],
        )


def test_what_is_refused_is_named_with_its_rule_and_with_what_the_server_hears(
    said: pytest.CaptureFixture[str], policy: Path, root: Path
) -> None:
    (root / "big.log").write_text("x" * 101)
    os.mkfifo(root / "fifo.log")
    for asked, code, reason in [
        ("private/b.log", "forbidden", f"deny of root {root}: private"),
        ("c.txt", "forbidden", f"root {root} allows no such name"),
        ("/etc/passwd", "forbidden", "it is below no root of the policy"),
        ("../x", "forbidden", "it is a path with `..`"),
        ("link.log", "forbidden", "there is a link in its path"),
        ("key.log", "forbidden", "built-in list: there is a private key in it"),
        ("fifo.log", "not_a_file", "It is not a regular file."),
        ("gone.log", "not_found", "There is no such file"),
        ("big.log", "too_large", "it has 101 bytes; max_file_size of the policy is 100"),
    ]:
        status, (refused, told, _) = check(said, asked, "--policy", policy)
        assert status == 1
        assert refused.startswith(f"refused ({code}): {reason}"), refused
        assert told.startswith("The server is told: ")
        assert str(root) not in told


def test_it_speaks_of_roots_and_files_of_the_command_line_too(
    said: pytest.CaptureFixture[str], root: Path
) -> None:
    assert check(said, "c.txt", "--root", root)[0] == 0
    assert check(said, root / "c.txt", "--file", root / "c.txt")[1][0] == (
        f"allowed: it is the file that the policy names, {root}/c.txt"
    )


def test_the_agents_own_files_are_named_as_such(
    said: pytest.CaptureFixture[str], tmp_path: Path, policy: Path
) -> None:
    state, token = tmp_path / "state", tmp_path / "token"
    state.mkdir()
    token.write_text("x")
    (state / "requests.jsonl").write_text("x")
    (tmp_path / "hard").hardlink_to(token)
    more = ("--root", tmp_path, "--state", state, "--token-file", token)
    for asked in ("state/requests.jsonl", "token", "hard"):
        status, lines = check(said, asked, *more)
        assert status == 1
        assert "built-in list: the agent's own state" in lines[0]


def test_wrong_usage_has_a_status_of_its_own(
    said: pytest.CaptureFixture[str], policy: Path, root: Path
) -> None:
    assert check(said, "x")[0] == 2
    assert check(said, "x", "--policy", policy, "--root", root)[0] == 2
    policy.write_text("no toml")
    assert check(said, "x", "--policy", policy)[0] == 2
    with pytest.raises(SystemExit) as usage:
        main(["check-policy"])
    assert usage.value.code == 2


@pytest.mark.parametrize(
    ("of_the_policy", "options", "in_force"),
    [
        ("1 MiB/s", [], 2**20),
        ("1 MiB/s", ["--limit-rate", "500K"], 500 * 1024),
        ("1 MiB/s", ["--limit-rate", "2M"], 2**20),
        (None, ["--limit-rate", "1.5m"], 3 * 2**19),
        (None, ["--limit-rate", "2048"], 2048),
        (None, ["--limit-rate", "1G"], 2**30),
    ],
)
def test_the_lower_limit_of_the_rate_counts(
    said: pytest.CaptureFixture[str],
    policy: Path,
    of_the_policy: str | None,
    options: list[str],
    in_force: int,
) -> None:
    if of_the_policy is not None:
        policy.write_text(f'rate_limit = "{of_the_policy}"\n{policy.read_text()}')
    _, lines = check(said, "a.log", "--policy", policy, *options)
    assert lines[-1].endswith(f"runs with normal priority; at most {in_force} bytes/s.")


@pytest.mark.parametrize("rate", ["", "1", "1023", "0.5K", "1 M", "1MB", "M", "-1M", "1e9", "٣M"])
def test_a_limit_of_the_rate_that_makes_no_sense_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], root: Path, rate: str
) -> None:
    status = main(["check-policy", "a.log", "--root", str(root), f"--limit-rate={rate}"])
    assert status == 2
    assert "--limit-rate: " in capsys.readouterr().err


def test_it_writes_nothing(said: pytest.CaptureFixture[str], root: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    check(said, "a.log", "--root", root, "--state", tmp_path / "state")
    assert sorted(tmp_path.rglob("*")) == before
