"""Who may do what: agents by their token, operators by theirs."""

import hashlib

import pytest

from tests.online import authenticate_agent
from transfers.auth import AgentRefused
from transfers.models import Client
from transfers.tokens import digest, new_token


def refusal(client_id: str, headers: dict[str, str]) -> AgentRefused:
    with pytest.raises(AgentRefused) as refused:
        authenticate_agent(client_id, headers)
    assert str(refused.value) == refused.value.detail
    assert refused.value.detail.endswith(".")
    return refused.value


# Agents ------------------------------------------------------------------------------------------


def test_tokens_are_256_random_bits() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert {len(token) for token in tokens} == {43}


def test_of_a_token_only_its_sha256_is_stored() -> None:
    assert digest("secret") == hashlib.sha256(b"secret").hexdigest()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_says_which_client_it_is(client1: Client, token: str, scheme: str) -> None:
    assert authenticate_agent("client1", {"authorization": f"{scheme} {token}"}) == client1


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "{token}", "Basic {token}", "Bearer {token}x", "Bearer  {token}",
     "Bearer {token} ", "Bearer {digest}", "Bearer \xff\xfe"],
)  # fmt: skip
def test_what_is_no_known_token_is_unauthorized(token: str, authorization: str) -> None:
    sent = authorization.format(token=token, digest=digest(token))
    refused = refusal("client1", {"authorization": sent})
    assert (refused.code, refused.status) == ("unauthorized", 401)
    assert token not in refused.detail


@pytest.mark.django_db
def test_no_header_at_all_is_unauthorized() -> None:
    assert refusal("client1", {}).code == "unauthorized"


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize("client_id", ["client2", "CLIENT1", "client1 ", "", "clïent"])
def test_a_token_is_for_its_own_client_id_only(token: str, client_id: str) -> None:
    refused = refusal(client_id, {"authorization": f"Bearer {token}"})
    assert (refused.code, refused.status) == ("wrong_id", 403)


def test_a_wrong_token_learns_nothing_about_client_ids(client1: Client) -> None:
    wrong = {"authorization": "Bearer wrong"}
    assert refusal("client1", wrong).detail == refusal("client2", wrong).detail


def test_a_revoked_client_is_refused(client1: Client, token: str) -> None:
    client1.revoke()
    refused = refusal("client1", {"authorization": f"Bearer {token}"})
    assert (refused.code, refused.status) == ("revoked", 403)


@pytest.mark.usefixtures("client1")
@pytest.mark.parametrize("origin", ["https://evil.example", "null", ""])
def test_a_browser_is_refused_though_it_has_the_token(token: str, origin: str) -> None:
    refused = refusal("client1", {"authorization": f"Bearer {token}", "origin": origin})
    assert (refused.code, refused.status) == ("forbidden", 403)
