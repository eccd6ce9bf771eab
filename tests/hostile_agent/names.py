"""Files with names that are meant for something else."""

import hashlib

from agent.wire.messages import Chunk, End
from tests.hostile_agent.misbehaviour import misbehaviour
from tests.hostile_agent.scene import Outcome, Scene

NAMES = {
    "of another folder": "../../../../etc/cron.d/evil",
    "that is absolute": "/etc/passwd",
    "of two dots": "..",
    "that is empty": "",
    "of 255 characters": "n" * 255,
    "that reads from right to left": "gpj.\u202eexe.txt",
    "of control characters": "a\r\nSet-Cookie: x=1\x1b[2J.txt",
    "of a device": "CON",
    "of backslashes": "..\\..\\windows\\system32\\x.dll",
    "that is HTML": "<img src=x onerror=alert(1)>.html",
}


def _named(title: str, name: str) -> None:
    def act(scene: Scene) -> Outcome:
        client, token = scene.client()
        with scene.villain() as villain:
            villain.greet(client, token)
            asked = scene.server.ask(client)
            start = villain.offer(5, name)
            digest = hashlib.sha256(b"hello").hexdigest()
            villain.say(
                Chunk(start.transfer, 0, b"hello"), End(start.transfer, 5, digest, "1", name)
            )
            file = str(scene.server.wait_status(asked, "completed")["file"])
        folder = scene.server.directory / "data" / "downloads"
        landed = folder / file
        assert landed.resolve().parent == folder.resolve()
        assert landed in scene.server.downloads
        assert file.isascii()
        assert file.isprintable()
        assert not set(file) & set("/\\ <>'\":")
        return Outcome("open", f"landed as {file}"[:70], "completed")

    act.__name__ = f"offers_a_name_{title.replace(' ', '_')}"
    misbehaviour("open", said="landed as", transfer="completed")(act)


for _title, _name in NAMES.items():
    _named(_title, _name)
