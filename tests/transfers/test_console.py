"""The console's pages: what they show, to whom, and at what cost."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.http import QueryDict
from django.test import Client as Browser
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from agent.wire.errors import ERRORS
from transfers import facts, rates, under_way
from transfers.access import Action, join_group
from transfers.console.looks import look
from transfers.facts import ADVICE, WORDS, Facts
from transfers.models import (
    LINK_LOST,
    Client,
    Course,
    Label,
    Scope,
    Source,
    Status,
    Transfer,
)
from transfers.throttle import Allowances

pytestmark = pytest.mark.django_db

MIB = 1024 * 1024

Make = Callable[..., Transfer]


@pytest.fixture
def make(client1: Client) -> Make:
    def make(status: str = "queued", **values: Any) -> Transfer:
        return Transfer.objects.create(
            **{"client": client1, "status": status, "duplicate": True} | values
        )

    return make


def somebody(group: str) -> tuple[User, Browser]:
    user = User.objects.create_user(f"a-{group}", password="correct horse")
    join_group(user, group)
    browser = Browser()
    browser.force_login(user)
    return user, browser


@pytest.fixture
def browser() -> Browser:
    """Of an operator."""
    return somebody("operator")[1]


def text(answer: Any, status: int = 200) -> str:
    """What a person reads."""
    assert answer.status_code == status, answer.content[:500]
    page = re.sub(r"<(script|style).*?</\1>", "", answer.content.decode(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


# Whom it lets in ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/clients/", "/clients/client1/", "/transfers/"])
def test_nobody_is_led_to_the_login_and_back(client1: Client, path: str) -> None:
    User.objects.create_superuser("boss", password="correct horse")
    browser = Browser()
    answer = browser.get(path)
    assert (answer.status_code, answer["Location"]) == (302, f"/login/?next={path}")
    form = {"username": "boss", "password": "correct horse", "next": path}
    answer = browser.post("/login/", form)
    assert (answer.status_code, answer["Location"]) == (302, path)


def test_the_console_takes_no_right_to_the_admin_and_the_admin_says_so(client1: Client) -> None:
    user, browser = somebody("viewer")
    assert not user.is_staff
    assert "client1" in text(browser.get("/clients/"))
    answer = browser.get("/admin/", follow=True)
    assert "may not see that page" in text(answer)


def test_a_login_leads_nowhere_else() -> None:
    User.objects.create_superuser("boss", password="correct horse")
    form = {"username": "boss", "password": "correct horse", "next": "https://evil.example/"}
    assert Browser().post("/login/", form)["Location"] == "/clients/"


def test_who_has_no_right_is_refused_on_a_page(client1: Client) -> None:
    browser = Browser()
    browser.force_login(User.objects.create_user("newcomer"))
    answer = browser.get("/clients/", headers={"Accept": "text/html"})
    assert "not allowed" in text(answer, 403)


def test_what_is_outside_of_a_scope_is_not_there(make: Make) -> None:
    transfer = make()
    user, browser = somebody("operator")
    Scope.objects.create(user=user).labels.add(Label.objects.create(name="rome"))
    assert "client1" not in text(browser.get("/clients/"))
    assert str(transfer.pk) not in browser.get("/transfers/").content.decode()
    for path in ("/clients/client1/", f"/transfers/{transfer.pk}/"):
        assert browser.get(path).status_code == 404
    for path in ("/clients/client1/request/", f"/transfers/{transfer.pk}/cancel/"):
        assert browser.post(path).status_code == 404
    assert Transfer.objects.get().status == "queued"


# Clients -----------------------------------------------------------------------------------------


def test_without_a_client_the_page_says_how_to_add_one() -> None:
    browser = Browser()
    browser.force_login(User.objects.create_superuser("boss"))
    page = text(browser.get("/clients/"))
    assert "manage.py add_client client1" in page
    assert "--server ws://testserver" in page
    secure = text(browser.get("/clients/", secure=True))
    assert "--server wss://testserver" in secure


def test_a_client_is_shown_with_what_it_is_and_does(
    client1: Client, make: Make, browser: Browser
) -> None:
    Client.objects.filter(pk="client1").update(
        online_until=timezone.now() + timedelta(minutes=1),
        last_seen=timezone.now(),
        platform="Linux 6.1\u202egnp",
        agent_version="1.2.3",
    )
    client1.label(["rome"])
    make("receiving", name="sales.db", size=4 * MIB, received=MIB)
    page = text(browser.get("/clients/"))
    assert "Online sales.db 25 %" in page
    assert "Linux 6.1\\u202egnp agent 1.2.3 rome" in page


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["client1", "kiosk", "till-rome"]),
        ("?q=TILL", ["till-rome"]),
        ("?q=window", ["kiosk"]),
        ("?state=online", ["kiosk"]),
        ("?state=offline", ["client1"]),
        ("?state=invited", ["till-rome"]),
        ("?label=rome", ["till-rome"]),
        ("?sort=seen", ["kiosk", "client1", "till-rome"]),
        ("?sort=nonsense&size=7&page=x&state=odd", ["client1", "kiosk", "till-rome"]),
        ("?q=nothing+like+it", []),
        ("?page=2", []),
    ],
)
def test_clients_are_searched_narrowed_and_sorted(
    client1: Client, browser: Browser, query: str, found: list[str]
) -> None:
    now = timezone.now()
    Client.objects.filter(pk="client1").update(
        token_sha256="1" * 64, last_seen=now - timedelta(days=1)
    )
    Client.objects.create(
        id="kiosk", token_sha256="2" * 64, hostname="WINDOW-7",
        online_until=now + timedelta(minutes=1), last_seen=now,
    )  # fmt: skip
    Client.objects.create(id="till-rome").label(["rome"])
    page = browser.get(f"/clients/{query}").content.decode()
    assert re.findall(r'<th scope="row"><a href="/clients/([^/]+)/"', page) == found


@pytest.mark.parametrize("ended", [False, True])
def test_a_client_is_shown_with_when_it_was_away(
    client1: Client, browser: Browser, *, ended: bool
) -> None:
    now = timezone.now()
    assert "Nothing is on record yet" in text(browser.get("/clients/client1/"))
    Client.objects.update(
        online_since=now - timedelta(days=2),
        online_until=now if ended else now + timedelta(minutes=1),
    )
    assert ("Away since" in text(browser.get("/clients/client1/"))) is ended
    begun = now - timedelta(days=5)
    client1.presences.create(begun=begun, ended=now - timedelta(days=3))
    page = text(browser.get("/clients/client1/"))
    assert f"online for 80.0 % of the time since {begun:%d %b %Y}" in page
    assert "Away for 1 d, from" in page


def test_a_heading_sorts_by_its_column_and_then_the_other_way_round(browser: Browser) -> None:
    for name in ("a", "b"):
        Client.objects.create(id=name)
    page = browser.get("/clients/?q=&label=").content.decode()
    assert '<th scope="col" aria-sort="ascending"><a href="?sort=eman">Client</a></th>' in page
    assert '<th scope="col"><a href="?sort=seen">Last seen</a></th>' in page
    assert '<th scope="col">State</th>' in page
    page = browser.get("/clients/?sort=eman&page=2").content.decode()
    assert '<th scope="col" aria-sort="descending"><a href="?">Client</a></th>' in page
    page = browser.get("/clients/?sort=eman").content.decode()
    assert page.index('href="/clients/b/"') < page.index('href="/clients/a/"')
    page = browser.get("/transfers/?q=till").content.decode()
    assert 'aria-sort="descending"><a href="?q=till&amp;sort=old">Asked</a></th>' in page


def test_a_list_has_pages_that_keep_what_was_asked(browser: Browser) -> None:
    Client.objects.bulk_create(Client(id=f"till-{n:03}") for n in range(120))
    page = browser.get("/clients/?q=till&sort=new").content.decode()
    assert 'rel="next" href="?q=till&amp;sort=new&amp;page=2"' in page
    last = text(browser.get("/clients/?q=till&page=3"))
    assert "120 rows, page 3" in last
    assert "till-119" in last


# A client's page ---------------------------------------------------------------------------------


def test_a_file_is_asked_for_on_the_page_of_its_client(client1: Client, browser: Browser) -> None:
    answer = browser.post("/clients/client1/request/", {"path": " /var/a b ", "reason": "audit"})
    transfer = Transfer.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, f"/transfers/{transfer.pk}/")
    assert (transfer.path, transfer.reason) == (" /var/a b ", "audit")
    browser.post("/clients/client1/request/", {})
    assert Transfer.objects.filter(path=None).count() == 1
    page = browser.get("/clients/client1/").content.decode()
    assert '<option value=" /var/a b ">' in page


def test_a_reason_that_is_wanted_is_asked_for(
    client1: Client, browser: Browser, settings: Any
) -> None:
    settings.REQUIRE_REASON = True
    answer = browser.post("/clients/client1/request/", {"path": "/x"})
    assert "This field is required" in text(answer, 422)
    assert not Transfer.objects.exists()


def test_a_revoked_client_is_asked_for_nothing(client1: Client, browser: Browser) -> None:
    client1.revoke()
    answer = browser.post("/clients/client1/request/", {"path": "/x"}, follow=True)
    assert "was revoked" in text(answer)
    assert not Transfer.objects.exists()


def test_a_viewer_finds_no_form_and_no_button(make: Make) -> None:
    transfer = make("receiving", size=10)
    _, browser = somebody("viewer")
    assert "Request a file" not in text(browser.get("/clients/client1/"))
    for path in ("/transfers/", f"/transfers/{transfer.pk}/"):
        assert "<button" not in browser.get(path).content.decode().partition("<table")[2]
    assert browser.post(f"/transfers/{transfer.pk}/cancel/").status_code == 403
    assert browser.post("/clients/client1/request/").status_code == 403
    transfer.refresh_from_db()
    assert transfer.status == "receiving"


# Transfers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {"a.db", "b.db", "c.db"}),
        ("?state=live", {"a.db"}),
        ("?state=landed", {"b.db"}),
        ("?state=failed", {"c.db"}),
        ("?state=ended", set()),
        ("?q=B.DB", {"b.db"}),
        (f"?q={'ab' * 32}", {"b.db"}),
        ("?q=client1", {"a.db", "b.db", "c.db"}),
        ("?q=%00", {"a.db", "b.db", "c.db"}),
    ],
)
def test_transfers_are_searched_and_narrowed(
    make: Make, browser: Browser, query: str, found: set[str]
) -> None:
    make("receiving", name="a.db")
    make("completed", name="b.db", size=1, sha256="ab" * 32, file="b")
    make("failed", name="c.db", error_code="forbidden")
    page = browser.get(f"/transfers/{query}").content.decode()
    assert set(re.findall(r"<bdi>([a-z.]+)</bdi></a>\s*</th>", page)) == found


def test_a_transfer_is_found_by_its_id(make: Make, browser: Browser) -> None:
    transfer = make(name="a.db")
    make(name="b.db")
    page = text(browser.get(f"/transfers/?q={transfer.pk}"))
    assert "a.db" in page
    assert "b.db" not in page


def test_a_landed_transfer_has_its_hashes_its_chart_and_its_saving(
    make: Make, browser: Browser
) -> None:
    begun = timezone.now() - timedelta(seconds=20)
    transfer = make(
        "completed", name="a.db", size=4 * MIB, received=4 * MIB, wire_bytes=MIB, sha256="ab" * 32,
        source_sha256="ab" * 32, file="client1_a.db", started_at=begun,
        finished_at=begun + timedelta(seconds=8),
    )  # fmt: skip
    at = begun.timestamp()
    Course.objects.create(
        transfer=transfer, points=[[at, 0], [at + 2, MIB], [at + 4, 3 * MIB], [at + 8, 4 * MIB]]
    )
    answer = browser.get(f"/transfers/{transfer.pk}/")
    page = text(answer)
    assert "They agree" in page
    assert "512.0 KB/s on average · in 8.0 s" in page
    assert "75 % saved by compression" in page
    assert "peak 1.0 MB/s" in page
    assert '<polyline points="0.0,50.0 150.0,50.0 150.0,0.0' in answer.content.decode()
    assert f'href="/api/v1/transfers/{transfer.pk}/content/"' in answer.content.decode()


def test_a_failure_says_why_what_to_do_and_all_that_happened(make: Make, browser: Browser) -> None:
    transfer = make("receiving", epoch=1, attempts=1, size=10, received=4)
    transfer.link_lost(1)
    transfer.claim(2)
    transfer.fail(2, "forbidden", "No rule allows \u202e/etc.")
    page = text(browser.get(f"/transfers/{transfer.pk}/"))
    assert "No rule allows \\u202e/etc. forbidden" in page
    assert "check-policy PATH" in page
    assert "Attempt 1 ended after 4\xa0bytes: the link was lost (link_lost)" in page.replace(
        "4 bytes", "4\xa0bytes"
    )
    assert "Attempt 2 ended" in page
    assert "Given up" in page


def test_buttons_cancel_and_retry_and_say_what_came_of_it(make: Make, browser: Browser) -> None:
    running, broken = make("queued", name="a"), make("failed", error_code="timed_out", name="b")
    page = text(browser.post(f"/transfers/{running.pk}/cancel/", follow=True))
    assert "Cancelled a from client1." in page
    page = text(browser.post(f"/transfers/{broken.pk}/retry/", follow=True))
    assert "Asked for again: b from client1." in page
    page = text(browser.post(f"/transfers/{running.pk}/cancel/", follow=True))
    assert "is cancelled; it cannot become cancelled" in page


def test_a_button_of_a_live_page_leaves_the_page_where_it_is(make: Make, browser: Browser) -> None:
    transfer = make("queued", name="a")
    answer = browser.post(f"/transfers/{transfer.pk}/cancel/", headers={"HX-Request": "true"})
    assert answer.status_code == 200
    assert text(answer) == "Cancelled a from client1."


def test_who_may_not_see_transfers_sees_no_files_with_the_clients(make: Make) -> None:
    make("receiving", name="payroll.xlsx", path="/srv/payroll.xlsx", size=9, received=3)
    user = User.objects.create_user("counter")
    rights = Permission.objects.filter(codename__in=["view_client", "add_transfer"])
    user.user_permissions.set(rights)
    assert user.has_perm(Action.SEE_CLIENT)
    assert user.has_perm(Action.REQUEST_FILE)
    browser = Browser()
    browser.force_login(user)
    for page in ("/clients/", "/clients/client1/"):
        assert "payroll" not in browser.get(page).content.decode()
    assert "payroll" not in str(look(user, "/clients/", QueryDict()).parts)


# What a person reads -----------------------------------------------------------------------------


def test_every_way_to_fail_has_an_advice_and_every_status_a_word() -> None:
    assert set(ADVICE) == {*ERRORS, LINK_LOST}
    assert set(WORDS) == set(Status.values)


def test_rate_and_time_left_are_of_now(make: Make) -> None:
    now = timezone.now()
    transfer = make(
        "receiving", size=100 * MIB, received=40 * MIB, rate=6 * MIB, rated_at=now, started_at=now
    )
    assert Facts(transfer, now).seconds_left == 10
    later = now + facts.STALLED + timedelta(seconds=1)
    assert (Facts(transfer, later).rate, Facts(transfer, later).seconds_left) == (0, None)
    assert Facts(transfer, later).is_stalled


def test_the_saving_is_of_what_is_on_record_and_not_of_what_has_come_since(
    make: Make, browser: Browser
) -> None:
    """Else every raw transfer would look compressed between two records."""
    transfer = make("receiving", size=20 * MIB, received=10 * MIB, wire_bytes=10 * MIB)
    with under_way.here(transfer.pk) as here:
        here.count = 13 * MIB
        assert "saved by compression" not in text(browser.get(f"/transfers/{transfer.pk}/"))


def test_a_new_attempt_begins_without_the_rate_of_the_last_one(make: Make) -> None:
    long_ago = timezone.now() - timedelta(hours=1)
    transfer = make(
        "requested", epoch=1, size=100, fingerprint="1", checkpoint=50, received=50,
        started_at=long_ago, rate=7, rated_at=long_ago,
    )  # fmt: skip
    transfer.offered(1, Source("f", 100, "1"), 50)
    facts_now = Facts(transfer, timezone.now())
    assert (facts_now.is_stalled, facts_now.rate) == (False, None)


@pytest.mark.parametrize("ahead", [True, False])
def test_the_next_attempt_is_said_as_long_as_it_lies_ahead(
    make: Make, browser: Browser, *, ahead: bool
) -> None:
    at = timezone.now() + timedelta(minutes=3 if ahead else -3)
    transfer = make(next_attempt_at=at, error_code="busy", error_detail="Busy.")
    page = text(browser.get(f"/transfers/{transfer.pk}/"))
    assert ("for the next attempt, at" in page) is ahead
    assert ("for client1 to come online" in page) is not ahead
    assert (f"{at:%d %b %Y, %H:%M} UTC" in page.split("Busy.")[0]) is ahead


def test_what_was_never_attempted_has_no_attempt_that_failed(
    make: Make, client1: Client, browser: Browser
) -> None:
    transfer = make()
    client1.revoke()
    page = text(browser.get(f"/transfers/{transfer.pk}/"))
    assert "Given up" in page
    assert "Attempt 0 ended" not in page


def test_no_percent_reads_100_before_the_end(make: Make, browser: Browser) -> None:
    transfer = make("receiving", size=1000, received=999)
    assert "99 %" in text(browser.get(f"/transfers/{transfer.pk}/"))
    empty = make("completed", size=0, file="empty", name="empty")
    assert "0\xa0bytes of 0\xa0bytes (100 %)" in text(
        browser.get(f"/transfers/{empty.pk}/")
    ).replace("0 bytes", "0\xa0bytes")


# At what cost ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/clients/", "/transfers/", "/clients/till-7/"])
def test_a_page_costs_the_same_number_of_queries_however_long_it_is(
    browser: Browser, path: str, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    clients = [Client(id=f"till-{n}") for n in range(60)]
    Client.objects.bulk_create(clients)
    rome = Label.objects.create(name="rome")
    for each in clients[:20]:
        each.labels.add(rome)
    rows = [
        Transfer(client=each, path=f"/{n}", status="receiving", size=9, duplicate=True)
        for n, each in enumerate(clients + [clients[7]] * 60)
    ]
    Transfer.objects.bulk_create(rows)
    with django_assert_max_num_queries(10):
        browser.get(path)


def test_the_page_of_a_transfer_costs_few_queries(
    make: Make, browser: Browser, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    transfer = make("receiving", epoch=1, attempts=1, size=10)
    for epoch in range(1, 20):
        transfer.link_lost(epoch)
        transfer.claim(epoch + 1)
    with django_assert_max_num_queries(10):
        browser.get(reverse("console:transfer", args=[transfer.pk]))


def test_a_page_that_is_not_there_is_a_page_for_a_browser_and_json_for_a_script() -> None:
    browser = Browser()
    assert "no such page" in text(browser.get("/nothing/", headers={"Accept": "text/html"}), 404)
    answer = browser.get("/nothing/", headers={"Accept": "*/*"})
    assert json.loads(answer.content)["code"] == "not_found"


def test_a_form_beyond_the_bound_of_deeds_is_answered_like_any_other_call(
    make: Make, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = make()
    monkeypatch.setattr(rates, "deeds", Allowances(0, 0.1))
    answer = browser.post(f"/transfers/{transfer.pk}/cancel/")
    assert (answer.status_code, answer.has_header("Retry-After")) == (429, True)
    transfer.refresh_from_db()
    assert transfer.status == "queued"
