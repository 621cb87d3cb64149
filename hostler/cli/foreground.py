"""The commands that become one program of the cluster: coordinator, worker, gateway."""

import os
from collections.abc import Sequence
from typing import Any, NoReturn

from hostler.cli.connect import address_of, settings_for
from hostler.cli.options import Place, pairs
from hostler.cli.parts import command


def become(program: str, place: Place, **flags: Any) -> NoReturn:
    """Load the settings and replace this process by *program*; `--json` asks for its log as JSON.

    Raises:
        InvalidRequest: a setting is unusable.
    """
    log_format = "json" if place.as_json else None
    settings = settings_for(place, log_format=log_format, **flags)
    if settings.coordinator:
        address_of(settings)
    argv = command(program, settings.to_dict())
    os.execv(argv[0], argv)


def become_worker(place: Place, *, labels: Sequence[str] | None, **flags: Any) -> NoReturn:
    """As `become`, for a worker; typed labels are laid over those of the settings."""
    typed = pairs(list(labels or ()), "--label", once=True)
    merged = settings_for(place).labels | typed if typed else None
    become("worker_agent", place, labels=merged, **flags)
