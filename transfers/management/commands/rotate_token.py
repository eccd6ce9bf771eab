"""`manage.py rotate_token <client_id>…`: gives clients a new token, over their connection."""

from transfers.management.client_command import ClientCommand
from transfers.models import Client


class Command(ClientCommand):
    help = (
        "Gives clients a new token, over their connection and without an interruption, as soon as they are "
        "online."
    )
    said = "A new token goes to"

    def do(self, client: Client) -> None:
        client.rotate()
