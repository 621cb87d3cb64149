"""hostler: a cluster that runs jobs on many machines.

This package is the shared vocabulary, the typed client and the command line. It imports none of
``coordinator``, ``worker_agent`` and ``http_gateway``.
"""

__version__ = "0.1.0"
