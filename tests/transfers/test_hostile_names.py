"""Names that agents give: whatever they are, files stay in `downloads/`, and pages and log lines stay whole.

`NAMES=100000` tries so many instead of the few that every run does.
"""

import json
import os
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from django.contrib.auth.models import User
from django.test import Client as Browser
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from agent.wire.messages import MAX_NAME
from tests.online import came_online
from transfers.models import Client, Event, Transfer, record
from transfers.storage import landed_name

BATCH = 25
"""Names on one page."""

NAMES = int(os.environ.get("NAMES", "1000"))

NASTY = st.sampled_from([
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"><svg/onload=alert(1)>",
    "' onclick='", "javascript:alert(1)", "&lt;b&gt;", "</td></tr></table>", "{{ 7*7 }}",
    "{% csrf_token %}", "]]>", "<!--", "../", "..\\", "/etc/passwd", "C:\\", "\\\\server\\share", "CON",
    "NUL.txt", "~/.ssh/id_rsa", "file:stream", "\u202e", "\u2066", "\u200b", "\ufeff", "\r\n",
    "\n[server] ✅ Hash verified", "\x1b[2J\x1b]0;x\x07", "\x7f", "\x85", "\u2028",
    "%0d%0aSet-Cookie: a=b", "\";filename=evil.exe", "=cmd|' /C calc'!A0", "\U000e0041", "🎉", "e\u0301",
])  # fmt: skip

LETTERS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
)
NAME = st.lists(st.one_of(NASTY, LETTERS), max_size=6).map(lambda parts: "".join(parts)[:MAX_NAME])
"""What `offer.name` may be: any text without NUL and lone surrogates, the empty one too."""

ENOUGH = hypothesis_settings(
    max_examples=max(1, NAMES // BATCH), suppress_health_check=list(HealthCheck), database=None
)


class Skeleton(HTMLParser):
    """What a page is made of: its tags and their attributes' names, without any text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: list[Any] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parts.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.parts.append(f"/{tag}")

    def handle_comment(self, data: str) -> None:
        self.parts.append("comment")


def invisible(text: str) -> set[str]:
    """Control, format (bidi among them) and separator characters, but for what lays a page out."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")} - set(
        "\n\r\t\xad"
    )


class TestPages(TestCase):
    """Each page is the same with hostile names as with plain ones, tag by tag."""

    @classmethod
    def setUpTestData(cls) -> None:
        cls.browser = Browser()
        cls.browser.force_login(User.objects.create_superuser("root"))
        for n in range(BATCH):
            client = Client.objects.create(id=f"till{n}", token_sha256=str(n))
            Transfer.objects.create(client=client, status="failed", error_code="internal", size=1)
        cls.plain = {url: Skeleton(page).parts for url, page in cls.pages(["name"] * BATCH).items()}

    browser: Browser
    plain: dict[str, list[Any]]

    @staticmethod
    def rename(names: list[str]) -> None:
        """Agents and operators have written these."""
        for n, name in enumerate(names):
            said = name or "nothing"
            client = Client.objects.get(pk=f"till{n}")
            # Told apart, because the filters of a list show each of them once.
            came_online(client, platform=f"{n}{said}", hostname=said, agent_version=f"{n}{said}")
            Transfer.objects.filter(client=client).update(
                name=name, path=said, reason=said, error_detail=said, fingerprint=said[:200]
            )

    @classmethod
    def pages(cls, names: list[str]) -> dict[str, str]:
        """Every page that shows what an agent or an operator has written, about rows of these names."""
        cls.rename(names)
        row = record(Event.FAILED, client="till0", detail=names[0] or "nothing")
        transfer = Transfer.objects.get(client="till0")
        transfers = "/admin/transfers/transfer/"
        answers = {
            "transfers": cls.browser.get(transfers),
            "transfer": cls.browser.get(f"{transfers}{transfer.pk}/change/"),
            "clients": cls.browser.get("/admin/transfers/client/"),
            "client": cls.browser.get("/admin/transfers/client/till0/change/"),
            "row": cls.browser.get(f"/admin/transfers/auditrecord/{row.pk}/change/"),
            # The message that an action leaves on the next page.
            "cancelled": cls.browser.post(
                transfers, {"action": "cancel", "_selected_action": [transfer.pk]}, follow=True
            ),
        }
        assert {answer.status_code for answer in answers.values()} == {200}
        return {name: answer.content.decode() for name, answer in answers.items()}

    @ENOUGH
    @given(st.lists(NAME, min_size=BATCH, max_size=BATCH))
    def test_pages_stay_whole(self, names: list[str]) -> None:
        for which, page in self.pages(names).items():
            assert Skeleton(page).parts == self.plain[which], which
            assert not invisible(page), which

    @ENOUGH
    @given(st.lists(NAME, min_size=BATCH, max_size=BATCH))
    def test_the_api_says_them_as_json_and_nothing_else(self, names: list[str]) -> None:
        self.rename(names)
        answer = self.browser.get("/api/v1/transfers/")
        assert answer["Content-Type"] == "application/json"
        assert answer["X-Content-Type-Options"] == "nosniff"
        said = json.loads(answer.content)["results"]
        assert sorted(each["name"] for each in said) == sorted(names)


@ENOUGH
@given(st.lists(NAME, min_size=BATCH, max_size=BATCH))
def test_files_stay_in_their_folder(names: list[str]) -> None:
    with TemporaryDirectory() as above:
        folder = Path(above) / "downloads"
        folder.mkdir()
        landed = set()
        for number, name in enumerate(names, 1):
            path = folder / landed_name("till1", "20261124T120000Z", name, number)
            path.write_bytes(b"landed")
            landed.add(path.name)
            assert len(os.fsencode(path.name)) <= 255
        assert {each.name for each in folder.iterdir()} == landed
        assert list(Path(above).iterdir()) == [folder]
        assert len(landed) == len(names)
        assert all(each.resolve().parent == folder.resolve() for each in folder.iterdir())
