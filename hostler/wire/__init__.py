"""Dataclass <-> protobuf, both ways: the only such place, one module per message family."""
