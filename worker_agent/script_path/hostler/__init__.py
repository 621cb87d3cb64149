"""The part of hostler that a script may import; an installed hostler stays importable behind it."""

import os
from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)


def __getattr__(name: str) -> str:
    """Find the version of the installed hostler, whose own __init__ this one hides."""
    if name == "__version__":
        import re

        for place in __path__[1:]:
            try:
                with open(os.path.join(place, "__init__.py"), encoding="utf-8") as file:
                    found = re.search(r'^__version__ = "(.*)"$', file.read(), re.MULTILINE)
            except OSError:
                continue
            if found:
                return found.group(1)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
