"""
Signatures after Standard Webhooks 1.0 (https://www.standardwebhooks.com): HMAC-SHA256 over id, time and body.

Pure but for the key that stands in where no gateway secret is set.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Final

#: How a secret begins where it is written down; base64 follows.
SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # what every secret begins with is none
#: Bytes of chance in a new secret; the specification asks for 24 to 64.
SECRET_BYTES: Final = 32
#: How far the clock of whoever signed may be from ours, in seconds.
TOLERANCE_SECONDS: Final = 300
#: A timestamp has at most so many digits.
TIMESTAMP_DIGITS_MAX: Final = 12


def new_secret() -> bytes:
    """A secret for a new webhook."""
    return secrets.token_bytes(SECRET_BYTES)


def written(secret: bytes) -> str:
    """A secret as people handle it: `whsec_…`."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def headers(message_id: str, timestamp: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """
    The three headers of a message; one signature for each key, so that receivers can change over. `timestamp` in
    seconds since 1970.
    """
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    signatures = (hmac.digest(key, signed, "sha256") for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(one).decode()}" for one in signatures),
    }


def is_signed(message_id: str, timestamp: str, body: bytes, signatures: str, key: bytes, now: float) -> bool:
    """
    Whether a message with these headers was signed with this key, a short while before or after `now` (seconds since
    1970).
    """
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= TIMESTAMP_DIGITS_MAX):
        return False
    expected = headers(message_id, int(timestamp), body, [key])["webhook-signature"].encode()
    genuine = any(hmac.compare_digest(expected, one.encode()) for one in signatures.split(" "))
    return genuine and abs(now - int(timestamp)) <= TOLERANCE_SECONDS


def gateway_key(gateway_secret: str, secret: str) -> bytes:
    """
    What gateway calls are signed with: TELLER_GATEWAY_SECRET; without one (then the sandbox is the only gateway)
    a key derived from TELLER_SECRET, which API and courier both have.
    """
    if gateway_secret:
        return base64.b64decode(gateway_secret.removeprefix(SECRET_PREFIX))
    return hmac.digest(secret.encode(), b"teller gateway calls", hashlib.sha256)
