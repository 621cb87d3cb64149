"""The coordinators' database: one connection for all of them, in memory, emptied between lives.

What a simulated thread executes is never interrupted, so every transaction begins and ends in one step: there is
nothing that a second connection or a file could show. A coordinator that is killed has no transaction open, and what
it committed is there for the next one. Prepared statements outlive a life, for they cost more than their execution.
"""

import sqlite3
from functools import cache

from coordinator.storage import migrate


@cache
def _migrations() -> list[tuple[int, str, str]]:
    return _read_migrations()


_read_migrations = migrate.migrations


class Database:
    """One for each process."""

    def __init__(self) -> None:
        migrate.migrations = _migrations  # they are files that never change
        self.connection = connection = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False, cached_statements=500
        )
        connection.row_factory = sqlite3.Row
        migrate.migrate(connection)
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        self._rows = {table: [tuple(row) for row in connection.execute(f"SELECT * FROM {table}")] for table in tables}

    def empty(self) -> None:
        """As it was when it was new."""
        connection = self.connection
        connection.execute("BEGIN")
        for table, rows in self._rows.items():
            connection.execute(f"DELETE FROM {table}")
            for row in rows:
                connection.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
        connection.execute("COMMIT")


@cache
def database() -> Database:
    """That of this process."""
    return Database()
