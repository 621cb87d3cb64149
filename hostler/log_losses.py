"""What is said of a log of which a part was lost. Pure."""


def log_lost_text(lost_bytes: int) -> str:
    """A sentence without its capital and its full stop; 0 bytes: how much was lost is not known.

    The worker may be back by then: of an attempt that was given up nothing more is taken.
    """
    if not lost_bytes:
        return "what may have followed of the log was not kept: the attempt was given up before its worker had sent it"
    was = "was" if lost_bytes == 1 else "were"
    return f"{bytes_text(lost_bytes)} of the log {was} not kept: its worker stayed away, or had them no more"


def bytes_text(count: int) -> str:
    """A number of bytes."""
    return "1 byte" if count == 1 else f"{count:,} bytes"
