"""The server: clients, transfers, and everything that arrives. The rooms, from the wire inwards:

At the door, before any application sees a byte: `doorkeeper` counts connections and handshakes; `sockets`
(with `unmasking`) read a peer no faster than it is listened to, `heartbeats` answer there, and `pushback`
and `draining` do the like for HTTP. `peer` says where somebody comes from.

A connection of an agent: `consumers` lets it in (`auth`, `handshakes`, `tokens`), an `attendant` looks at its
client's rows, `rotation` changes its token, and `rollcall` looks after all connections at once. `dispatch` is
the doorbell that has them look.

A file that arrives: an `intake` sees it through, in one `attempt` under one `claim`; `dialogue` (with
`inbox`) is the talk about it, `turns` and `limits` say whether it may, `unpacking` makes source bytes of
chunks, `arrival` keeps the bytes on `storage`, `progress` draws the bar and `under_way` knows how far it is.

What is remembered: `models`, where each change of a status is one verb. `together` makes calls that come at
once in one transaction; `recovery` puts right what a crash left, `retention` forgets.

For operators: `views` with `urls`, `serializers`, `filters`, `schema` and `content` are the API, and
`enrolment`, `events`, `metrics` and `doors` calls of their own kind; `console` has the pages, `admin` the
admin, `forms` what both ask. What they all show of a transfer is in `facts`, `history` and `units`.
`watching` and `sessions` are for what stays open. `webhooks` tell others, by `redirects` nobody else.

Who may, and how often: `access`, `login`, `rates`, `throttle`, `allowance`; `refusals` and `headers` are how
every answer looks. `acting` and `audit_signals` say to the audit log who did what.

The process: `apps` checks its settings, `lifecycle` begins and ends it; `logs`, `counters` (what `metrics`
shows), and `management` with its commands, which read `durations`.
"""
