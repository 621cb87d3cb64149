"""The same jobs through other systems, side by side with the product: ``python -m benchmarks.peers``.

Each ``with_*.py`` is a program that runs in the peers' own environment and imports, besides the peer's packages, only
`driving`, `job` and `benchmarks.processes`. The rest runs in ours.
"""
