"""`manage.py revoke_client <client_id>…`: refuses clients from now on."""

from transfers.management.client_command import ClientCommand
from transfers.models import Client


class Command(ClientCommand):
    help = (
        "Refuses clients from now on: their connections are closed within seconds, and what they were asked "
        "for fails. Only the use of a code of `add_client --renew` lifts that."
    )
    said = "Refused from now on:"

    def do(self, client: Client) -> None:
        client.revoke()
