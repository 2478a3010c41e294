"""
Signatures after Standard Webhooks 1.0 (https://www.standardwebhooks.com): HMAC-SHA256 over id, time and body.

Receivers verify deliveries and gateway calls with the same headers.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Final

#: The prefix of a secret in text. Base64 follows it.
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - a prefix is no secret
#: The random bytes of a new secret. The specification allows 24 to 64.
SECRET_BYTES: Final = 32
#: The largest difference between the clocks of signer and receiver, in seconds.
TOLERANCE_SECONDS: Final = 300
#: The digits of the longest timestamp.
TIMESTAMP_DIGITS_MAX: Final = 12
#: The signatures of one message that are compared. A sender that changes its secret sends two.
SIGNATURES_MAX: Final = 16


def new_secret() -> bytes:
    """Return a secret for a new webhook."""
    return secrets.token_bytes(SECRET_BYTES)


def written(secret: bytes) -> str:
    """Return a secret as text: `whsec_…`."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def headers(message_id: str, timestamp: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """
    Return the three headers of a message. `timestamp` is in seconds since 1970.

    There is one signature for each key, so a receiver can change its secret at any time during the change.
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
    Return whether a message with these headers was signed with this key, at most TOLERANCE_SECONDS before or after
    `now`.

    `now` is in seconds since 1970.
    """
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= TIMESTAMP_DIGITS_MAX):
        return False
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    expected = headers(message_id, int(timestamp), body, [key])["webhook-signature"].encode()
    candidates = signatures.split(" ", SIGNATURES_MAX)[:SIGNATURES_MAX]
    return any(hmac.compare_digest(expected, one.encode()) for one in candidates)


def gateway_key(gateway_secret: str, secret: str) -> bytes:
    """
    Return the key that signs gateway calls: TELLER_GATEWAY_SECRET, or else one that is derived from TELLER_SECRET.

    Without TELLER_GATEWAY_SECRET the sandbox is the only gateway, and both API and courier have TELLER_SECRET.
    """
    if gateway_secret:
        return base64.b64decode(gateway_secret.removeprefix(SECRET_PREFIX))
    return hmac.digest(secret.encode(), b"teller gateway calls", hashlib.sha256)
