"""The text of keys and invitations: made, read, hashed, compared.

Pure but for the randomness, which is passed in. A text is ``hst_ID_SECRET``: the prefix lets scanners of leaked
secrets find it, the id names the key in lists and logs, and of the secret (256 bits of chance, so that a plain
hash is enough) only the hash is kept.
"""

import base64
import hashlib
import hmac
import re
from typing import NamedTuple

KEY_PREFIX = "hst"
INVITATION_PREFIX = "hsj"
ID_BYTES = 6
SECRET_BYTES = 32
RANDOM_BYTES = ID_BYTES + SECRET_BYTES
_TEXT = re.compile(r"(hst|hsj)_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class KeyText(NamedTuple):
    """A key or an invitation, taken apart."""

    prefix: str
    id: str
    secret: str

    def __repr__(self) -> str:
        """Masked: the secret is in no log and no traceback."""
        return f"KeyText({self.prefix}_{self.id}_...)"

    @property
    def text(self) -> str:
        """What its holder keeps."""
        return f"{self.prefix}_{self.id}_{self.secret}"

    @property
    def hash(self) -> bytes:
        """What is kept here."""
        return hashlib.sha256(self.secret.encode()).digest()


def make_key(random: bytes, prefix: str = KEY_PREFIX) -> KeyText:
    """Make a key out of `RANDOM_BYTES` of chance."""
    secret = base64.urlsafe_b64encode(random[ID_BYTES:RANDOM_BYTES]).rstrip(b"=").decode()
    return KeyText(prefix, random[:ID_BYTES].hex(), secret)


def read_key(text: str, prefix: str = KEY_PREFIX) -> KeyText | None:
    """Take a text apart; None when it is no such key."""
    match = _TEXT.fullmatch(text.strip())
    return KeyText(*match.groups()) if match is not None and match[1] == prefix else None


def is_key(shown: KeyText, kept: bytes) -> bool:
    """Whether the shown key is the one whose hash is kept; in constant time."""
    return hmac.compare_digest(shown.hash, kept)
