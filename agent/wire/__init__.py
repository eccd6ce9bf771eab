"""The protocol `silentmode.v1`, shared by the agent and the server.

Standard library only and no I/O: messages go in, messages and verdicts come out.

* `messages`: what can be said, each message a frozen dataclass that is valid once made.
* `codec`: messages to and from what goes over the socket.
* `state`: the transition tables, which say when each message may be said and by whom.
* `session`: one conversation on one socket, judged by those tables; byte accounts of each transfer.
* `hosts`: which of them are this machine.
* `display`: text from the other side, as a person may see it.
* `errors`: the one table of error codes, and the close codes of the socket.
"""
