"""What the commands that do one thing to some clients share."""

from typing import Any, ClassVar

from django.core.management.base import CommandError, CommandParser

from transfers.acting import acting, at_the_command_line
from transfers.management import base
from transfers.models import Client, ClientConflict


class ClientCommand(base.Command):
    """Does its thing to each client; exit status 1 when that was not possible with one."""

    said: ClassVar[str]

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("client_id", nargs="+")

    def handle(self, *args: Any, client_id: list[str], **options: Any) -> None:
        clients = [self._client(each) for each in dict.fromkeys(client_id)]
        problems = []
        for client in clients:
            try:
                with acting(at_the_command_line):
                    self.do(client)
            except ClientConflict as conflict:
                problems.append(str(conflict))
            else:
                self.stderr.write(f"{self.said} {client}.")
        if problems:
            raise CommandError("\n".join(problems))

    def _client(self, client_id: str) -> Client:
        client = Client.objects.filter(pk=client_id).first()
        if client is None:
            raise CommandError(f"There is no client {client_id!r}.")
        return client

    def do(self, client: Client) -> None:
        """Raises ClientConflict."""
        raise NotImplementedError
