"""Verdicts by name, and the file that a policy is written in."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.gate import never
from agent.gate.policy import Policy, Root, allowing, denying
from agent.gate.policy_file import BadPolicy, parse, read
from agent.gate.source import SourceError
from agent.wire.errors import ERRORS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="paths of POSIX")


def root(path: Path, *allow: str, deny: tuple[str, ...] = ()) -> Root:
    return Root(path, tuple(map(allowing, allow)), tuple(map(denying, deny)))


def verdict(policy: Policy, asked: str | None) -> str:
    """The rule that allows it, or `no: ` and the reason."""
    try:
        return policy.places(asked)[0].rule
    except SourceError as error:
        told = (error.code, error.detail) == ("forbidden", ERRORS["forbidden"].sentence)
        return f"no: {error.reason}" if told else f"the server is told {error.detail}"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def test_nothing_is_allowed_by_default(logs: Path) -> None:
    for asked in (None, "a.log", str(logs / "a.log"), "/etc/passwd", "."):
        assert verdict(Policy(), asked).startswith("no: ")
        assert verdict(Policy(roots=[Root(logs, ())]), asked).startswith("no: ")


def test_a_root_allows_what_its_patterns_name(logs: Path) -> None:
    policy = Policy(roots=[root(logs, "*.log", "**/*.txt")])
    assert verdict(policy, "a.log") == f"root {logs} allows *.log"
    assert verdict(policy, str(logs / "b" / "a.txt")) == f"root {logs} allows **/*.txt"
    for asked in ("b/a.log", "A.LOG", "x", str(logs), "."):
        assert verdict(policy, asked) == f"no: root {logs} allows no such name", asked
    assert verdict(policy, "/elsewhere") == "no: it is below no root of the policy"


def test_a_deny_wins_over_every_allow_also_of_another_root(logs: Path) -> None:
    policy = Policy(
        roots=[root(logs.parent, "**"), root(logs, "**", deny=("private",))],
        deny=[denying("**/secret*")],
    )
    for asked in (logs / "private" / "x", logs / "Private", logs / "a" / "SECRET.txt"):
        assert verdict(policy, str(asked)).startswith("no: deny "), asked
    assert verdict(policy, str(logs / "private" / "x")) == f"no: deny of root {logs}: private"
    assert verdict(policy, str(logs / "privates")) == f"root {logs.parent} allows **"


def test_a_deny_of_all_roots_holds_for_the_file_too(logs: Path) -> None:
    policy = Policy(logs / "secret.db", deny=[denying("**/secret*")])
    assert verdict(policy, None) == "no: deny of all roots: **/secret*"


def test_a_root_that_is_a_link_goes_by_both_names(logs: Path) -> None:
    link = logs.parent / "link"
    link.symlink_to(logs)
    policy = Policy(roots=[root(link, "**")])
    for asked in (link / "a", logs / "a"):
        assert policy.places(str(asked))[0].path == logs / "a"


@pytest.mark.parametrize("asked", ["../x", "a/../b", "..", "a\0b", "x" * 256, "a/" + "y" * 300])
def test_odd_paths_are_refused_whatever_is_allowed(asked: str) -> None:
    assert verdict(Policy(roots=[root(Path("/"), "**")]), asked).startswith("no: it is ")


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "", "c.log"]), max_size=8), st.booleans())
def test_whatever_is_allowed_is_below_the_root(parts: list[str], absolute: bool) -> None:
    policy = Policy(roots=[root(Path("/srv/a"), "**")])
    try:
        places = policy.places("/" * absolute + "/".join(parts) or ".")
    except SourceError:
        return
    for place in places:
        assert os.path.normpath(place.path) == str(place.path)
        assert place.path.is_relative_to("/srv/a")


# What is never sent


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/environ", "/sys/power/state", "/dev/shm/x", "/run/secrets/db", "/home/a/.ssh/config",
        "/home/a/.SSH/x", "/a/id_rsa", "/a/ID_RSA.old", "/a/x.PEM", "/a/tls.key", "/etc/shadow",
        "/etc/shadow-", "/chroot/etc/shadow", "/etc/ssh/ssh_host_rsa_key", "/a/x.kdbx", "/a/.env",
        "/a/.aws/credentials", "/mnt/c/Windows/System32/config/SAM", "/a/NTUSER.DAT",
        "/a/Library/Keychains/login.keychain-db",
    ],
)  # fmt: skip
def test_some_names_are_never_sent(path: str) -> None:
    everything = Policy(Path(path), [root(Path("/"), "**")])
    assert verdict(everything, path).startswith("no: built-in list: ")
    assert verdict(everything, None).startswith("no: built-in list: ")


@pytest.mark.parametrize(
    "path",
    [
        "/var/log/pos.log",
        "/home/a/keys.txt",
        "/a/process",
        "/a/proc/x",
        "/a/shadow.log",
        "/a/keyring",
    ],
)
def test_ordinary_names_are_not_on_the_list(path: str) -> None:
    assert never.by_path(Path(path).parts[1:]) is None


@pytest.mark.parametrize("kind", ["RSA ", "EC ", "DSA ", "OPENSSH ", "ENCRYPTED ", ""])
def test_keys_are_known_by_their_content(kind: str) -> None:
    header = f"-----BEGIN {kind}PRIVATE KEY-----"
    assert never.by_content(header.encode())
    assert never.by_content(b"certificate first\n" * 200 + header.encode())
    assert never.by_content(header.encode("utf-16"))


def test_what_only_speaks_of_keys_is_not_one() -> None:
    for text in (
        b"",
        b"-----BEGIN CERTIFICATE-----",
        b"-----BEGIN PUBLIC KEY-----",
        b"private key",
    ):
        assert never.by_content(text) is None


# The file


EXAMPLE = """
file = "/var/lib/pos/sales.db"
max_file_size = "2 GiB"
rate_limit = "1.5 MiB/s"
transfers_at_once = 2
deny = ["**/secret*"]

[[roots]]
path = "/var/log/pos"
allow = ["**/*.log"]
deny = ["private/**"]

[[roots]]
path = "/srv/export"
allow = []
"""


def test_a_policy_says_what_it_is_told() -> None:
    policy = parse(EXAMPLE)
    assert policy.file == Path("/var/lib/pos/sales.db")
    assert (policy.max_file_size, policy.rate_limit) == (2 * 2**30, 3 * 2**19)
    assert policy.transfers_at_once == 2
    assert [glob.text for glob in policy.deny] == ["**/secret*"]
    first, second = policy.roots
    assert (first.path, second.path) == (Path("/var/log/pos"), Path("/srv/export"))
    assert [glob.text for glob in first.allow] == ["**/*.log"]
    assert [glob.text for glob in first.deny] == ["private/**"]
    assert second.allow == ()


def test_an_empty_policy_allows_nothing() -> None:
    assert parse("") == Policy()
    assert parse("max_file_size = 10\nrate_limit = 2048") == Policy(
        max_file_size=10, rate_limit=2048
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fiel = '/x'", "fiel is not a setting"),
        ("file = 1", "file: it must be a string"),
        ("file = 'x.db'", "file: 'x.db' must be an absolute path"),
        ("file = '/a/../b'", "without `..`"),
        ("file = ''", "must be an absolute path"),
        ("max_file_size = '2 GB'", 'like "512 MiB"'),
        ("max_file_size = -1", "whole number"),
        ("max_file_size = true", "whole number"),
        ("max_file_size = 1.5", "whole number"),
        ("rate_limit = '1 MiB'", 'like "1 MiB/s"'),
        ("rate_limit = 0", "at least 1 KiB/s"),
        ("transfers_at_once = 0", "from 1 to 8"),
        ("transfers_at_once = 9", "from 1 to 8"),
        ("deny = 'x'", "list of patterns"),
        ("deny = [1]", "must be a string"),
        ("deny = ['ok', '/abs']", "'/abs': a pattern is relative"),
        ("roots = 1", r"\[\[roots\]\]"),
        ("roots = ['/x']", r"\[\[roots\]\]"),
        ("[roots]\npath = '/x'", r"\[\[roots\]\]"),
        ("[[roots]]\nallow = ['**']", "of root 1, path is missing"),
        ("[[roots]]\npath = '/x'", "of root 1, allow is missing: a root by itself allows nothing"),
        ("[[roots]]\npath = 'x'\nallow = []", "of root 1, path: 'x' must be an absolute"),
        ("[[roots]]\npath = '/x'\nallow = ['a**']", r"of root 1, allow: 'a\*\*': "),
        ("[[roots]]\npath = '/x'\nallow = []\ndenny = []", "of root 1, denny is not a setting"),
        ("file = ", "Invalid value"),
    ],
)
def test_what_a_policy_does_not_understand_stops_the_agent(text: str, says: str) -> None:
    """A misspelt `deny` must not allow."""
    with pytest.raises(BadPolicy, match=says):
        parse(text)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_policy_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "policy.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadPolicy, match=str(path)):
        read(path)


def test_a_bad_policy_is_named(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("x = 1")
    with pytest.raises(BadPolicy, match=f"The policy {tmp_path}/policy.toml: x is not"):
        read(tmp_path / "policy.toml")
