"""The worker agent: runs attempts as process trees on one host and reports what becomes of them.

agent -> launcher -> shim -> job. The agent (this package but for the modules named next) speaks gRPC
and may crash or be upgraded at any time; `launcher` and `shim` are small, import neither grpc nor
asyncio, and a shim outlives its agent. Start with `agent` and `reports`, then `runner`, then `shim`.
"""
