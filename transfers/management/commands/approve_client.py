"""`manage.py approve_client <client_id>…`: lets in clients that enrolled themselves with a key."""

from transfers.management.client_command import ClientCommand
from transfers.models import Client


class Command(ClientCommand):
    help = (
        "Lets in clients that enrolled themselves with a key. They come online by themselves, within a "
        "minute."
    )
    said = "Approved"

    def do(self, client: Client) -> None:
        client.approve()
