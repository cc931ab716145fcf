"""Names of nodes: the libp2p peer id of an Ed25519 key.

A peer id is the identity multihash (code 0x00) of the protobuf-encoded public key, in base58btc,
which for Ed25519 always reads `12D3KooW…` (libp2p specs, "Peer Ids and Keys"). The name contains
the key, so verifying a signature needs no lookup.
"""

from __future__ import annotations

from typing import Final, NewType

PeerId = NewType("PeerId", str)
"The peer id of a node, validated by `parse_peer_id`."

# identity multihash of 36 bytes: protobuf {Type = Ed25519 (1), Data = 32 bytes}
_PREFIX: Final = bytes.fromhex("002408011220")
_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES: Final = {c: i for i, c in enumerate(_ALPHABET)}
_MAX_CHARS: Final = 64


def _base58_encode(raw: bytes) -> str:
    number = int.from_bytes(raw, "big")
    digits = []
    while number:
        number, rest = divmod(number, 58)
        digits.append(_ALPHABET[rest])
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def _base58_decode(text: str) -> bytes:
    number = 0
    for c in text:
        if c not in _VALUES:
            raise ValueError(f"{c!r} is not a base58 character")
        number = number * 58 + _VALUES[c]
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def peer_id(public_key: bytes) -> PeerId:
    """The name of the node with this Ed25519 public key (32 bytes).

    Raises:
        ValueError: the key is not 32 bytes.
    """
    if len(public_key) != 32:
        raise ValueError(f"an Ed25519 public key has 32 bytes, got {len(public_key)}")
    return PeerId(_base58_encode(_PREFIX + public_key))


def public_key(peer: str) -> bytes:
    """The Ed25519 public key (32 bytes) inside a peer id.

    Raises:
        ValueError: not the peer id of an Ed25519 key.
    """
    if len(peer) > _MAX_CHARS:
        raise ValueError(f"a peer id must have at most {_MAX_CHARS} characters, got {len(peer)}")
    raw = _base58_decode(peer)
    if len(raw) != len(_PREFIX) + 32 or not raw.startswith(_PREFIX):
        raise ValueError(f"{peer!r} is not the peer id of an Ed25519 key (12D3KooW…)")
    return raw[len(_PREFIX) :]


def parse_peer_id(text: str) -> PeerId:
    """`text` as a validated peer id.

    Raises:
        ValueError: not the peer id of an Ed25519 key.
    """
    public_key(text)
    return PeerId(text)


def is_peer_id(text: str) -> bool:
    """Whether `text` is the peer id of an Ed25519 key."""
    try:
        public_key(text)
    except ValueError:
        return False
    return True
