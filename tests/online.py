"""A client that has just come online, without a connection."""

from collections.abc import Mapping

from transfers.auth import AgentRefused, authenticate_agents
from transfers.models import Arrived, Client, ClientConflict, all_came_online


def came_online(
    client: Client, *, platform: str, hostname: str, agent_version: str, renewable: bool = False
) -> int:
    """Its epoch; `client` is as its row is now. Raises ClientConflict."""
    arrived = Arrived(client, platform, hostname, agent_version, renewable)
    [answer] = all_came_online([arrived])
    client.refresh_from_db()
    if isinstance(answer, ClientConflict):
        raise answer
    return answer.epoch


def authenticate_agent(client_id: str, headers: Mapping[str, str]) -> Client:
    """One handshake alone. Raises AgentRefused."""
    [answer] = authenticate_agents([(client_id, headers)])
    if isinstance(answer, AgentRefused):
        raise answer
    return answer
