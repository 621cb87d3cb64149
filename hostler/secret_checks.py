"""What makes references to secrets acceptable: which variable of a program's environment gets which secret. Pure."""

import re
from collections.abc import Mapping

from hostler.errors import HostlerError, InvalidRequest
from hostler.job_checks import RESERVED_PREFIX
from hostler.workloads import NAME

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
SECRETS_MAX = 64


def check_secrets(secrets: Mapping[str, str], env: Mapping[str, str]) -> HostlerError | None:
    """Say what is wrong with *secrets* (variable: name of the secret) beside *env*, or None."""
    if len(secrets) > SECRETS_MAX:
        return InvalidRequest(f"more than {SECRETS_MAX} secrets", field="secrets")
    for variable, name in secrets.items():
        if VARIABLE.fullmatch(variable) is None:
            return InvalidRequest(f"{variable[:100]!r} cannot be an environment variable", field="secrets")
        if variable in env:
            return InvalidRequest(f"{variable[:100]} is in env too; leave it out there", field="secrets")
        if variable.startswith(RESERVED_PREFIX):
            return InvalidRequest(f"{variable[:100]} is hostler's own; choose another variable", field="secrets")
        if NAME.fullmatch(name) is None:
            return InvalidRequest(f"{name[:100]!r} cannot be the name of a secret", field="secrets")
    return None
