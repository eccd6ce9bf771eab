"""Paths that should lead out, or to what is the agent's own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from agent.wire.messages import Abort

from .scene import BASE, FORBIDDEN, PUBLIC, SECRET, Scene

TRAVERSALS = [
    "../outside/secret", "./../outside/secret", "data/../../outside/secret", "..", "../", "./..",
    "data.bin/../../outside/secret", "../../../../../../../../etc/passwd", "..//outside//secret",
    "/../etc/passwd", "/etc/passwd", "//etc/passwd", "///etc/passwd", "/./etc/passwd", "/", "//",
    "\\etc\\passwd", "..\\outside\\secret", "C:\\Windows\\System32\\config\\SAM", "\\\\host\\share",
    "\\\\?\\C:\\secret", "\\\\.\\PhysicalDrive0", "CON", "NUL", "COM1", "data.bin::$DATA",
    "file:///etc/passwd", "~/.ssh/id_rsa", "~root/.ssh/id_rsa", "$HOME/.ssh/id_rsa", "`id`", "$(id)",
    "%2e%2e/outside/secret", "..%2foutside%2fsecret", "%2fetc%2fpasswd", "..%c0%afoutside",
    "\u2024\u2024/outside/secret", "\uff0e\uff0e/outside/secret", "..\u2215outside\u2215secret",
    "..\u200b/outside/secret", "\u202e../outside/secret", "..\n/outside/secret", "\r", "\x1b[2J", " ",
    "*", "**/*", "data.*", "[a-z]*", "-rf", "--file", "x" * 255, "x" * 256, "x" * 4096, "../" * 1365,
    "a/" * 2048, "\U0001f600" * 4096, "/proc/self/environ", "/proc/self/mem", "/proc/self/root/etc/passwd",
    "/proc/self/cwd/manage.py", "/proc/self/fd/0", "/proc/1/environ", "/dev/fd/0", "/dev/zero", "/dev/tty",
    "/dev/stdin", "/sys/kernel/notes", "/etc/shadow", "/root/.ssh/id_ed25519", "/run/secrets/token",
]  # fmt: skip


async def test_no_path_leads_out_of_the_roots(scene: Scene) -> None:
    async with scene.attacked() as attacker:
        for path in [
            *TRAVERSALS,
            str(scene.outside / "secret"),
            f"{scene.inside}/../outside/secret",
        ]:
            stolen = await attacker.steal(path, "paths out of the roots")
            assert stolen.outcome in ("forbidden", "not_found", "not_a_file"), (path, stolen)
            assert not stolen.data
        assert (await attacker.steal("data.bin")).outcome == "sent", (
            "and the agent is still at work"
        )


async def test_a_refusal_is_the_same_whether_the_file_exists_or_not(scene: Scene) -> None:
    """Also of names that the policy does not allow within a root."""
    scene.policy = 'allow = ["logs/**"]\ndeny = ["logs/private"]'
    scene.write(scene.inside / "logs" / "private" / "there", SECRET)
    (scene.inside / "logs" / "out").symlink_to(scene.outside)
    async with scene.attacked() as attacker:
        for there, gone in [
            (str(scene.outside / "secret"), str(scene.outside / "gone")),
            ("data.bin", "gone.bin"),
            ("logs/private/there", "logs/private/gone"),
            ("logs/out/secret", "logs/out/gone"),
            ("/etc/passwd", "/etc/gone"),
            (None, "/nowhere"),
        ]:
            for path in (there, gone):
                stolen = await attacker.steal(path, "is there such a file?")
                assert (stolen.outcome, stolen.detail) == ("forbidden", FORBIDDEN), path


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
async def test_the_disk_is_not_asked_about_what_is_forbidden(scene: Scene, tmp_path: Path) -> None:
    """Or the time that an answer takes would tell whether there is such a file."""
    trace = tmp_path / "trace"
    scene.policy = 'allow = ["**/*.bin"]'
    scene.wrapper = (*("strace", "-f", "-qq", "-e", "trace=file", "-o", str(trace)), *scene.wrapper)
    async with scene.attacked() as attacker:
        for path in (
            str(scene.outside / "secret"),
            "../outside/secret",
            "secret.txt",
            "/etc/shadow",
        ):
            assert (await attacker.steal(path, "timing")).outcome == "forbidden"
        assert (await attacker.steal("data.bin")).outcome == "sent"
    calls = trace.read_text(errors="replace")
    assert "data.bin" in calls
    for name in ("outside", "secret.txt", "/etc/shadow"):
        assert name not in calls


@pytest.mark.parametrize("path", ["a\\u0000b", "\\ud800", "", "x" * 4097])
async def test_a_path_that_is_none_ends_the_conversation(any_kernel: Scene, path: str) -> None:
    async with any_kernel.attacked() as attacker:
        await attacker.say(f'{{"type":"request","transfer":"{uuid4()}","path":"{path}"}}')
        assert await attacker.gone() == 4002
        assert isinstance(attacker.last_words, Abort)


async def test_what_is_the_agents_own_never_leaves(scene: Scene) -> None:
    """Token, policy and journal, by their names and by any other that leads to them."""
    scene.head = 'deny = ["nothing"]'
    scene.policy = f'allow = ["**"]\n[[roots]]\npath = "{scene.folder}"\nallow = ["**"]'
    scene.state.mkdir(mode=0o700)
    scene.write(scene.state / "client-token", SECRET)
    async with scene.attacked() as attacker:
        assert (await attacker.steal("data.bin")).data == PUBLIC
        assert (await attacker.steal("../up")).outcome == "forbidden"
        own_files = [scene.token, scene.policy_file, *scene.state.iterdir()]
        assert len(own_files) == 5
        for number, own in enumerate(own_files):
            os.link(own, scene.inside / f"hard-{number}")
            (scene.inside / f"soft-{number}").symlink_to(own)
            shut = [
                str(own),
                f"hard-{number}",
                f"soft-{number}",
                str(own.relative_to(scene.folder)),
            ]
            for path in shut:
                stolen = await attacker.steal(path, "the agent's own files")
                assert (stolen.outcome, stolen.detail) == ("forbidden", FORBIDDEN), path
        # what the racer of another test would find in memory is in /proc, which has its own test


KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nCANARY\n-----END OPENSSH PRIVATE KEY-----\n"
KEY_FILES = {
    "id_rsa": b"x", "sub/ID_ED25519": b"x", "server.key": b"x", "Server.PEM": b"x", "a/.ssh/config": b"x",
    ".SSH/known_hosts": b"x", "store.p12": b"x", "x.kdbx": b"x", "host.keytab": b"x", "etc/shadow": b"x",
    "etc/shadow-": b"x", "Windows/System32/config/SAM": b"x", ".env": b"x", ".aws/credentials": b"x",
    "harmless.log": KEY, "deep.log": b"x" * 4000 + KEY, "utf16.txt": KEY.decode().encode("utf-16"),
    "rsa.txt": KEY.replace(b"OPENSSH", b"RSA"), "pkcs8.txt": KEY.replace(b"OPENSSH ", b""),
    "putty.txt": b"PuTTY-User-Key-File-3: CANARY", "gpg.txt": b"-----BEGIN PGP PRIVATE KEY BLOCK-----",
    "java.bin": b"\xfe\xed\xfe\xed CANARY", "keepass.bin": b"\x03\xd9\xa2\x9a\x67\xfb\x4b\xb5CANARY",
}  # fmt: skip


async def test_keys_and_credentials_are_kept_whatever_the_policy_allows(scene: Scene) -> None:
    for name, data in KEY_FILES.items():
        scene.write(scene.inside / name, data.replace(b"x", b"CANARY", 1) if data == b"x" else data)
    async with scene.attacked() as attacker:
        for name in KEY_FILES:
            stolen = await attacker.steal(name, "keys and credentials")
            assert (stolen.outcome, stolen.detail) == ("forbidden", FORBIDDEN), name


async def test_the_policy_is_not_widened_by_spelling(scene: Scene) -> None:
    scene.head = 'deny = ["**/never*"]\nmax_file_size = 1000'
    scene.policy = 'allow = ["**/*.log", "data/**"]\ndeny = ["private"]'
    for name in (
        "private/a.log",
        "PRIVATE/b.log",
        "data/never.txt",
        "data/NEVER",
        "x.txt",
        "X.LOG",
    ):
        scene.write(scene.inside / name, SECRET)
    scene.write(scene.inside / "big.log", SECRET * 2)
    scene.write(scene.inside / "fits.log", PUBLIC_1000)
    async with scene.attacked() as attacker:
        for path in (
            "private/a.log", "./private//a.log", "PRIVATE/b.log", "Private/b.log", "data/never.txt",
            "data/NEVER", "x.txt", "X.LOG", "data.bin", str(scene.inside / "private" / "a.log"),
        ):  # fmt: skip
            stolen = await attacker.steal(path, "beyond the policy")
            assert (stolen.outcome, stolen.detail) == ("forbidden", FORBIDDEN), path
        assert (await attacker.steal("big.log", "beyond the policy")).outcome == "too_large"
        assert (await attacker.steal("fits.log")).data == PUBLIC_1000


PUBLIC_1000 = b"p" * 1000


async def test_the_server_cannot_hand_over_a_policy(any_kernel: Scene) -> None:
    async with any_kernel.attacked() as attacker:
        transfer = uuid4()
        path = str(any_kernel.outside / "secret")
        more = {"policy": {"roots": [{"path": "/", "allow": ["**"]}]}, "root": "/", "file": path}
        request = {"type": "request", "transfer": str(transfer), "path": path, **more}
        await attacker.say(json.dumps(request))
        answer = await attacker.answer(transfer)
        assert isinstance(answer, Abort)
        assert answer.code == "forbidden"


async def test_each_request_is_in_the_journal_with_its_reason(any_kernel: Scene) -> None:
    """Escaped, so that no request makes a line of its own or hides one."""
    async with any_kernel.attacked() as attacker:
        evil = "x\n{}\u202e\x1b[2J\x7f\u2028"
        for path in ("data.bin", "../up", evil):
            await attacker.steal(path)
        await any_kernel.journal_has("landed")
        await any_kernel.journal_has("refused", 2)
    allowed, *others = sorted(any_kernel.journal, key=lambda line: str(line["event"]))
    landed, up, odd = others
    assert [line["event"] for line in (allowed, landed, up, odd)] == [
        "allowed", "landed", "refused", "refused",
    ]  # fmt: skip
    assert allowed["rule"] == f"root {any_kernel.inside} allows **"
    assert landed["sent"] == landed["size"] == (any_kernel.inside / "data.bin").stat().st_size
    assert (up["code"], up["reason"]) == ("forbidden", "it is a path with `..`")
    assert (odd["code"], odd["asked"]) == ("not_found", evil)
    for name, times in (("requests.jsonl", 2), ("refusals.jsonl", 2)):
        raw = (any_kernel.state / name).read_bytes()
        assert raw.count(b"\n") == times
        assert all(0x20 <= byte < 0x7F or byte == 0x0A for byte in raw)
        assert (any_kernel.state / name).stat().st_mode & 0o777 == 0o600


async def test_what_cannot_be_recorded_is_not_sent(any_kernel: Scene) -> None:
    """A thief who fills the disk first must not go unseen."""
    any_kernel.state.mkdir(mode=0o700)
    (any_kernel.state / "requests.jsonl").mkdir()
    async with any_kernel.attacked() as attacker:
        assert (await attacker.steal("data.bin", "no journal")).outcome == "unreadable"


@pytest.mark.parametrize("answer", ["ENOSYS", "EPERM"])
def test_an_agent_without_openat2_opens_as_safely(any_kernel: Scene, answer: str) -> None:
    """On an older kernel, or in a container whose filter of system calls does not know it."""
    (any_kernel.inside / "link").symlink_to(any_kernel.outside)

    def check(path: str) -> int:
        command = [sys.executable, "-m", "agent", "check-policy", path]
        command += ["--root", str(any_kernel.inside)]
        wrapper = [sys.executable, "-m", "tests.hostile_server.old_kernel", answer]
        return subprocess.run([*wrapper, *command], cwd=BASE, check=False).returncode

    assert (check("data.bin"), check("link/secret"), check("gone")) == (0, 1, 1)
