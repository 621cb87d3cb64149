"""The coordinator: keeps the truth about jobs and workers.

Read `decisions` and `live` first (pure: what is true and what follows from an event), then `engine`
(the only writer: decide, commit, act), then `rpc` and `storage` (the edges).
"""
