"""Brings a database to the newest schema: numbered SQL files, forward only, each in one transaction.

A file that was applied must never change: its checksum is kept and compared.
"""

import hashlib
import sqlite3
from importlib import resources


class SchemaError(Exception):
    """The database was made by a newer hostler, or an applied migration was changed."""


def migrations() -> list[tuple[int, str, str]]:
    """Every migration as (number, name, SQL), in order."""
    found = []
    for entry in resources.files("coordinator.storage").joinpath("migrations").iterdir():
        if entry.name.endswith(".sql"):
            found.append((int(entry.name.split("_")[0]), entry.name, entry.read_text(encoding="utf-8")))
    return sorted(found)


def migrate(connection: sqlite3.Connection) -> None:
    """Apply what is missing. The connection is in autocommit mode.

    Raises:
        SchemaError: see the class.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migration (number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL)"
    )
    applied = dict(connection.execute("SELECT number, checksum FROM migration").fetchall())
    known = migrations()
    newest = max(number for number, _, _ in known)
    if applied and max(applied) > newest:
        raise SchemaError(
            f"the database has schema {max(applied)}, this hostler knows {newest}; start the newer hostler that made it"
        )
    for number, name, sql in known:
        checksum = hashlib.sha256(sql.encode()).hexdigest()
        if number in applied:
            if applied[number] != checksum:
                raise SchemaError(f"migration {name} was applied in another form; it must never be edited")
            continue
        record = f"INSERT INTO migration VALUES ({number}, '{name}', '{checksum}');"
        connection.executescript(f"BEGIN IMMEDIATE;\n{sql}\n{record}\nCOMMIT;")
