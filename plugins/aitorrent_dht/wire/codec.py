"""Datagrams: a fixed head with a proof of the sender, then one msgpack map, then padding.

    4    magic and version, by which the two kinds of proof are told apart
    4    tag of the network: foreign datagrams cost no check of a proof
    32   public key of the sender
    64   Ed25519 signature over the network's key and the map; or
    16   keyed BLAKE2b of the network's key, the sender's key and the map
    2    length of the map
    …    the map
    …    zeros, in requests of nodes that have no token yet

The key of the second kind is the secret that sender and recipient share: for two nodes that talk
again it costs a fiftieth of a signature and its check. A message is signed when only the address of
its recipient is known; an answer has the kind of proof of its request. The network's key has 32
bytes, which include the pre-shared key if there is one: messages of other networks, or of nodes
without that key, are not valid here. Strangers send these bytes: length, tag and fields are checked
before a proof is.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from aitorrent_dht.core.contact import ID_BYTES, KEY_BYTES, Contact, contact_of, is_ip6
from aitorrent_dht.core.record import read_record
from aitorrent_dht.core.tokens import TOKEN_BYTES
from aitorrent_dht.wire.messages import (
    HAVE_BYTES,
    MAX_DATAGRAM_BYTES,
    MAX_HAVE,
    MAX_NODES,
    MAX_RECORDS,
    NODE4_BYTES,
    NODE6_BYTES,
    TXID_BYTES,
    Family,
    Query,
    Refusal,
    Reply,
    Request,
)
from aitorrentd.api import ProtocolError, pack, unpack_map
from aitorrentd.api.fields import blob, flag, text, whole

MESSAGE_DOMAIN: Final = "aitd/dht/msg/1"
PAIR_DOMAIN: Final = "aitd/dht/pair/1"
MAGIC: Final = b"AHT\x01"
PAIR_MAGIC: Final = b"AHT\x02"
_HEAD: Final = struct.Struct("!4s4s32s64sH")
_PAIR_HEAD: Final = struct.Struct("!4s4s32s16sH")
_MAC_BYTES: Final = 16
_PAIRS: Final = 4096
"Nodes with which the shared secret is remembered."
_PORT: Final = struct.Struct("!H")
_MAX_ITEMS: Final = 128
_CACHED: Final = 8192
"Nodes whose form in a message is remembered: neighbours name the same ones again and again."

Message = Request | Reply
Sign = Callable[[str, bytes], bytes]
Verify = Callable[[bytes, str, bytes, bytes], bool]
"Public key, domain, message, signature."
Agree = Callable[[str, bytes], bytes]
"Domain and public key to a shared secret; ValueError if the key is not valid."


class Codec:
    """Messages to datagrams and back, for one network (`network_key`: 32 bytes)."""

    def __init__(self, network_key: bytes, sign: Sign, verify: Verify, agree: Agree) -> None:
        self.network_key = network_key
        self.tag = hashlib.sha256(b"aitd/dht/tag/1\0" + network_key).digest()[:4]
        self._sign = sign
        self._verify = verify
        self._agree = agree
        self._secret = lru_cache(_PAIRS)(self._new_secret)

    def encode(self, message: Message, pad_bytes: int = 0, *, recipient: bytes = b"") -> bytes:
        """The datagram of a message of this node, with at least `pad_bytes` bytes.

        It is signed, or proves its sender to the owner of the public key `recipient` alone.
        """
        body = pack(_request_map(message) if isinstance(message, Request) else _reply_map(message))
        if recipient and (secret := self._secret(recipient)):
            mac = self._mac(secret, message.sender, body)
            head = _PAIR_HEAD.pack(PAIR_MAGIC, self.tag, message.sender, mac, len(body))
        else:
            signature = self._sign(MESSAGE_DOMAIN, self.network_key + body)
            head = _HEAD.pack(MAGIC, self.tag, message.sender, signature, len(body))
        return (head + body).ljust(pad_bytes, b"\0")

    def _new_secret(self, public_key: bytes) -> bytes:
        try:
            return self._agree(PAIR_DOMAIN, public_key)
        except ValueError:
            return b""

    def _mac(self, secret: bytes, sender: bytes, body: bytes) -> bytes:
        said = self.network_key + sender + body
        return hashlib.blake2b(said, key=secret, digest_size=_MAC_BYTES).digest()

    def is_ours(self, datagram: bytes) -> bool:
        """Whether a datagram claims to belong to this network; nothing in it is proven."""
        size = len(datagram)
        return (
            _HEAD.size < size <= MAX_DATAGRAM_BYTES
            and datagram[:4] in (MAGIC, PAIR_MAGIC)
            and datagram[4:8] == self.tag
        )

    def decode(self, datagram: bytes) -> Message:
        """The message in a datagram that `is_ours`; its proof is not checked.

        Raises:
            ProtocolError: a malformed message.
        """
        head = _PAIR_HEAD if datagram[:4] == PAIR_MAGIC else _HEAD
        *_, sender, _, length = head.unpack_from(datagram)
        body = memoryview(datagram)[head.size : head.size + length]
        if len(body) != length:
            raise ProtocolError("the datagram is shorter than its length field")
        fields = unpack_map(body, max_items=_MAX_ITEMS)
        if "r" in fields:
            return _read_reply(fields, sender)
        request = _read_request(fields, sender)
        request.is_paired = head is _PAIR_HEAD
        return request

    def is_proven(self, datagram: bytes) -> bool:
        """Whether a decoded datagram is of the sender that it names, for this network."""
        head = _PAIR_HEAD if datagram[:4] == PAIR_MAGIC else _HEAD
        _, _, sender, proof, length = head.unpack_from(datagram)
        body = datagram[head.size : head.size + length]
        if head is _HEAD:
            return self._verify(sender, MESSAGE_DOMAIN, self.network_key + body, proof)
        secret = self._secret(sender)
        return bool(secret) and hmac.compare_digest(proof, self._mac(secret, sender, body))


def _request_map(request: Request) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "q": int(request.query),
        "i": request.txid,
        "to": request.to,
        "o": request.token,
        "c": request.is_client,
    }
    if request.query in (Query.FIND, Query.GET):
        fields |= {"w": int(request.want), "k": request.key}
    if request.query is Query.GET:
        fields["h"] = b"".join(request.have)
    if request.record is not None:
        fields["v"] = request.record.as_map()
    return fields


def _read_request(fields: dict[str, Any], sender: bytes) -> Request:
    query = Query(whole(fields, "q", 0, len(Query) - 1))
    request = Request(
        query=query,
        txid=blob(fields, "i", TXID_BYTES, TXID_BYTES),
        sender=sender,
        to=_id_or_nothing(fields, "to"),
        token=blob(fields, "o", 0, TOKEN_BYTES),
        is_client=flag(fields, "c"),
    )
    if query is not Query.PING and not request.to:
        raise ProtocolError("only a ping may omit its recipient")
    if query in (Query.FIND, Query.GET):
        request.want = Family(whole(fields, "w", 0, 3))
        size = KEY_BYTES if query is Query.GET else ID_BYTES
        request.key = blob(fields, "k", size, size)
    if query is Query.GET:
        request.have = _parts(fields, "h", HAVE_BYTES, MAX_HAVE)
    if query is Query.STORE:
        request.record = read_record(fields.get("v"))
    return request


def _reply_map(reply: Reply) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "r": int(reply.refusal),
        "i": reply.txid,
        "to": reply.to,
        "o": reply.token,
        "c": reply.is_client,
        "n": reply.invites,
        "u": reply.is_cut,
        "m": reply.has_more,
    }
    if reply.nodes:
        fields["4"] = b"".join(map(_packed, (n for n in reply.nodes if not is_ip6(n.host))))
        fields["6"] = b"".join(map(_packed, (n for n in reply.nodes if is_ip6(n.host))))
    if reply.records:
        fields["v"] = [record.as_map() for record in reply.records]
    if reply.observed is not None:
        fields["a"], fields["p"] = reply.observed
    return fields


def _read_reply(fields: dict[str, Any], sender: bytes) -> Reply:
    listed = fields.get("v", [])
    if not isinstance(listed, list) or len(listed) > MAX_RECORDS:
        raise ProtocolError(f"v must be a list of at most {MAX_RECORDS} records")
    nodes = [
        *(_node(raw) for raw in _parts(fields, "4", NODE4_BYTES, MAX_NODES)),
        *(_node(raw) for raw in _parts(fields, "6", NODE6_BYTES, MAX_NODES)),
    ]
    if len(nodes) > MAX_NODES:
        raise ProtocolError(f"more than {MAX_NODES} nodes")
    observed = None
    if "a" in fields:
        observed = (text(fields, "a", 45, printable=True), whole(fields, "p", 0, 65_535))
    return Reply(
        txid=blob(fields, "i", TXID_BYTES, TXID_BYTES),
        sender=sender,
        to=blob(fields, "to", ID_BYTES, ID_BYTES),
        token=blob(fields, "o", 0, TOKEN_BYTES),
        is_client=flag(fields, "c"),
        invites=flag(fields, "n"),
        is_cut=flag(fields, "u"),
        has_more=flag(fields, "m"),
        nodes=tuple(nodes),
        records=tuple(read_record(each) for each in listed),
        refusal=Refusal(whole(fields, "r", 0, len(Refusal) - 1)),
        observed=observed,
    )


def _id_or_nothing(fields: dict[str, Any], name: str) -> bytes:
    raw = blob(fields, name, 0, ID_BYTES)
    if len(raw) not in (0, ID_BYTES):
        raise ProtocolError(f"{name} must be empty or {ID_BYTES} bytes")
    return raw


def _parts(fields: dict[str, Any], name: str, size: int, most: int) -> tuple[bytes, ...]:
    """A blob as parts of equal size; empty when it is missing."""
    if name not in fields:
        return ()
    raw = blob(fields, name, 0, size * most)
    if len(raw) % size:
        raise ProtocolError(f"{name} must consist of parts of {size} bytes")
    return tuple(raw[i : i + size] for i in range(0, len(raw), size))


@lru_cache(_CACHED)
def _packed(contact: Contact) -> bytes:
    family = socket.AF_INET6 if is_ip6(contact.host) else socket.AF_INET
    return contact.key + socket.inet_pton(family, contact.host) + _PORT.pack(contact.port)


@lru_cache(_CACHED)
def _node(raw: bytes) -> Contact:
    family = socket.AF_INET if len(raw) == NODE4_BYTES else socket.AF_INET6
    host = socket.inet_ntop(family, raw[KEY_BYTES:-2])
    return contact_of(raw[:KEY_BYTES], host, _PORT.unpack(raw[-2:])[0])
