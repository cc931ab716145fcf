"""The handshake of a channel, attacked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_transport.secure import handshake as module
from aitorrent_transport.secure.certificate import Credentials
from aitorrent_transport.secure.handshake import MAGIC, MAX_MESSAGE_BYTES, Handshake, encode_offer
from aitorrentd.api import AitorrentError, Conflict, PeerId, ProtocolError, Unavailable
from tests.support.effort import examples
from tests.support.transport.link_peers import KeySigner, make_credentials, shake_hands


@dataclass
class Stage:
    """A dialer and a listener that always do the same, so that a message can be replayed."""

    dialer: Credentials = field(default_factory=make_credentials)
    listener: Credentials = field(default_factory=make_credentials)
    _keys: list[X25519PrivateKey] = field(
        default_factory=lambda: [X25519PrivateKey.generate(), X25519PrivateKey.generate()]
    )

    def new_dialer(self, expected: PeerId | None = None) -> Handshake:
        return Handshake(
            self.dialer, dialer=True, expected=expected, ephemeral=self._keys[0], remote=("r", 1)
        )

    def new_listener(self) -> Handshake:
        return Handshake(self.listener, dialer=False, ephemeral=self._keys[1], remote=("d", 2))

    def flights(self) -> list[bytes]:
        return shake_hands(self.new_dialer(), self.new_listener())


def test_both_sides_agree_on_everything() -> None:
    stage = Stage()
    dialer, listener = stage.new_dialer(), stage.new_listener()
    shake_hands(dialer, listener)
    one, other = dialer.result, listener.result
    assert one is not None
    assert other is not None
    assert (one.peer, other.peer) == (
        stage.listener.signer.peer_id,
        stage.dialer.signer.peer_id,
    )
    assert one.handshake_hash == other.handshake_hash
    assert (one.sending.key, one.receiving.key) == (other.receiving.key, other.sending.key)
    assert one.sending.key != one.receiving.key
    assert (one.observed, other.observed) == (("d", 2), ("r", 1))
    assert one.version == other.version == 1
    assert one.suite == other.suite


def test_handshake_works_byte_by_byte_and_keeps_what_follows() -> None:
    stage = Stage()
    dialer, listener = stage.new_dialer(), stage.new_listener()
    to_listener, to_dialer = dialer.start(), b""
    while dialer.result is None:
        to_dialer += b"".join(listener.receive(bytes([b])) for b in to_listener)
        to_listener = b"".join(dialer.receive(bytes([b])) for b in to_dialer)
        to_dialer = b""
    assert listener.result is not None
    stage = Stage()
    dialer, flights = stage.new_dialer(), stage.flights()
    dialer.start()
    dialer.receive(flights[1])
    dialer.receive(flights[3] + b"records")
    assert dialer.rest == b"records"


def test_identities_never_travel_in_clear() -> None:
    stage = Stage()
    wire = b"".join(stage.flights())
    for credentials in (stage.dialer, stage.listener):
        assert credentials.signer.public_key not in wire
        assert credentials.static_key().certificate.key not in wire


def test_first_message_reflected_to_its_sender_is_refused() -> None:
    stage = Stage()
    dialer = stage.new_dialer()
    first = dialer.start()
    with pytest.raises(ProtocolError, match="handshake"):
        dialer.receive(first[len(MAGIC) :])


def test_reflected_flights_of_an_own_listener_are_refused() -> None:
    """A man in the middle connects a node with itself."""
    credentials = make_credentials()
    dialer = Handshake(credentials, dialer=True)
    listener = Handshake(credentials, dialer=False)
    second = listener.receive(dialer.start())
    with pytest.raises(Unavailable, match="this node itself"):
        dialer.receive(second)


def test_answer_of_another_responder_than_dialled_is_refused_before_we_say_who_we_are() -> None:
    stage = Stage()
    wanted = KeySigner().peer_id
    dialer, listener = stage.new_dialer(wanted), stage.new_listener()
    second = listener.receive(dialer.start())
    theirs = stage.listener.signer.peer_id
    with pytest.raises(Unavailable, match=f"the peer at that address is {theirs}, not {wanted}"):
        dialer.receive(second)
    assert dialer.result is None


@pytest.mark.parametrize("is_pinned", [False, True])
def test_two_processes_with_one_key_both_know_before_they_part(is_pinned: bool) -> None:
    signer = KeySigner()
    stage = Stage(make_credentials(signer=signer), make_credentials(signer=signer))
    dialer = stage.new_dialer(KeySigner().peer_id if is_pinned else None)
    listener = stage.new_listener()
    second = listener.receive(dialer.start())
    with pytest.raises(Conflict, match="this node's own key answers there"):
        dialer.receive(second)
    with pytest.raises(Conflict, match="this node's own key dialled"):
        listener.receive(dialer.parting)
    assert dialer.result is None
    assert listener.result is None


def test_second_message_of_another_connection_is_refused() -> None:
    stage = Stage()
    other = Handshake(stage.dialer, dialer=True)
    theirs = stage.new_listener().receive(other.start())
    dialer = stage.new_dialer()
    dialer.start()
    with pytest.raises(ProtocolError, match="authentication"):
        dialer.receive(theirs)


@pytest.mark.parametrize(
    ("skew_s", "problem"),
    [(7 * 86_400 + 121, "expired"), (-(3_600 + 122), "becomes valid in")],
)
def test_certificate_outside_of_its_dates_fails_the_handshake(skew_s: int, problem: str) -> None:
    now = time.time()
    stage = Stage(
        dialer=make_credentials(clock=lambda: now + skew_s),
        listener=make_credentials(clock=lambda: now),
    )
    dialer, listener = stage.new_dialer(), stage.new_listener()
    second = listener.receive(dialer.start())
    with pytest.raises(ProtocolError, match=f"{problem}.*compare the clocks"):
        dialer.receive(second)


@pytest.mark.parametrize("skew_s", [-600, 600])
def test_peers_whose_clocks_differ_by_ten_minutes_connect(skew_s: int) -> None:
    stage = Stage(dialer=make_credentials(clock=lambda: time.time() + skew_s))
    shake_hands(stage.new_dialer(), stage.new_listener())


def test_signature_for_the_wrong_role_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    dialer, listener = stage.new_dialer(), stage.new_listener()
    first = dialer.start()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_ROLE_LISTENER", module._ROLE_DIALER)
        second = listener.receive(first)
    with pytest.raises(ProtocolError, match="did not sign this handshake"):
        dialer.receive(second)
    dialer, listener = stage.new_dialer(), stage.new_listener()
    second = listener.receive(dialer.start())
    with monkeypatch.context() as patch:
        patch.setattr(module, "_ROLE_DIALER", module._ROLE_LISTENER)
        patch.setattr(module, "_ROLE_LISTENER", b"\x02")
        third = dialer.receive(second)
    with pytest.raises(ProtocolError, match="did not sign this handshake"):
        listener.receive(third)


def test_certificate_of_somebody_else_is_refused() -> None:
    """A thief of the X25519 key and its certificate still lacks the identity's signature."""
    victim, thief = make_credentials(), make_credentials()
    thief._keys[:] = [victim.static_key()]
    stage = Stage(listener=thief)
    dialer, listener = stage.new_dialer(), stage.new_listener()
    with pytest.raises(ProtocolError, match="certificate is not signed by its identity"):
        dialer.receive(listener.receive(dialer.start()))


def test_nodes_of_other_networks_do_not_connect() -> None:
    stage = Stage(dialer=make_credentials("one"), listener=make_credentials("two"))
    dialer, listener = stage.new_dialer(), stage.new_listener()
    with pytest.raises(ProtocolError, match="authentication"):
        dialer.receive(listener.receive(dialer.start()))


def test_other_pre_shared_key_is_refused_by_the_listener() -> None:
    stage = Stage(dialer=make_credentials(psk=b"a" * 32), listener=make_credentials(psk=b"b" * 32))
    dialer, listener = stage.new_dialer(), stage.new_listener()
    third = dialer.receive(listener.receive(dialer.start()))
    with pytest.raises(ProtocolError, match="authentication"):
        listener.receive(third)
    assert dialer.result is None, "the dialer waits for the listener's confirmation"


@pytest.mark.parametrize("who", ["dialer", "listener"])
def test_missing_pre_shared_key_is_refused(who: str) -> None:
    with_psk = make_credentials(psk=b"a" * 32)
    stage = Stage(dialer=with_psk) if who == "listener" else Stage(listener=with_psk)
    dialer, listener = stage.new_dialer(), stage.new_listener()
    with pytest.raises(ProtocolError, match="authentication|as with a psk"):
        dialer.receive(listener.receive(dialer.start()))


def test_pre_shared_key_works() -> None:
    psk = bytes(range(32))
    stage = Stage(dialer=make_credentials(psk=psk), listener=make_credentials(psk=psk))
    stage.flights()


def _start_with(offer: bytes, stage: Stage) -> bytes:
    """The dialer's first flight with another offer."""
    first = stage.new_dialer().start()
    body = offer + first[len(MAGIC) + 2 + len(encode_offer(module.VERSIONS)) :]
    return MAGIC + len(body).to_bytes(2, "big") + body


def test_tampered_version_offer_breaks_the_handshake() -> None:
    stage = Stage()
    dialer, listener = stage.new_dialer(), stage.new_listener()
    dialer.start()
    second = listener.receive(_start_with(encode_offer([1, 2]), stage))
    with pytest.raises(ProtocolError, match="authentication"):
        dialer.receive(second)


def test_downgraded_version_offer_breaks_the_handshake() -> None:
    credentials = make_credentials(), make_credentials()
    dialer = Handshake(credentials[0], dialer=True, versions=(1, 2))
    listener = Handshake(credentials[1], dialer=False, versions=(1, 2))
    first = dialer.start()
    body = encode_offer([1]) + first[len(MAGIC) + 2 + 3 :]
    second = listener.receive(MAGIC + len(body).to_bytes(2, "big") + body)
    with pytest.raises(ProtocolError, match="authentication"):
        dialer.receive(second)


def test_highest_common_version_is_chosen() -> None:
    dialer = Handshake(make_credentials(), dialer=True, versions=(1, 2, 7))
    listener = Handshake(make_credentials(), dialer=False, versions=(1, 2, 3))
    shake_hands(dialer, listener)
    assert dialer.result is not None
    assert dialer.result.version == 2


def test_version_that_was_not_offered_is_refused() -> None:
    dialer = Handshake(make_credentials(), dialer=True, versions=(1, 2))
    listener = Handshake(make_credentials(), dialer=False, versions=(1, 2))
    first = dialer.start()
    dialer._versions = (1,)
    with pytest.raises(ProtocolError, match="chose version 2"):
        dialer.receive(listener.receive(first))


@pytest.mark.parametrize(
    "offer", [b"\0", b"\1", b"\2\1\1", b"\2\2\1", b"\x11" + bytes(range(17)), b"\1\x63"]
)
def test_impossible_or_unknown_offer_is_refused(offer: bytes) -> None:
    stage = Stage()
    body = offer if offer == b"\1" else _start_with(offer, stage)[len(MAGIC) + 2 :]
    with pytest.raises(ProtocolError, match="version"):
        stage.new_listener().receive(MAGIC + len(body).to_bytes(2, "big") + body)


@pytest.mark.parametrize("length", [0, MAX_MESSAGE_BYTES + 1, 65_535])
def test_impossible_length_is_refused_before_its_bytes_arrive(length: int) -> None:
    stage = Stage()
    with pytest.raises(ProtocolError, match=f"message of {length} bytes"):
        stage.new_listener().receive(MAGIC + length.to_bytes(2, "big"))
    dialer = stage.new_dialer()
    dialer.start()
    with pytest.raises(ProtocolError, match="what answers there is not a node"):
        dialer.receive(length.to_bytes(2, "big") + b"x" * (length == 0))


@pytest.mark.parametrize("flight", [0, 1, 2, 3])
def test_truncated_message_is_refused(flight: int) -> None:
    stage = Stage()
    whole = stage.flights()[flight]
    head = len(MAGIC) if flight == 0 else 0
    for kept in range(1, len(whole) - head - 2, 7):
        body = whole[head + 2 :][:kept]
        short = whole[:head] + kept.to_bytes(2, "big") + body
        outcome = _play(stage, flight, short)
        assert not outcome, f"{kept} bytes of flight {flight} were taken"


@pytest.mark.slow
@pytest.mark.parametrize("flight", [0, 1, 2, 3])
def test_every_bit_flip_aborts_the_handshake(flight: int) -> None:
    stage = Stage()
    whole = stage.flights()[flight]
    assert _play(stage, flight, whole), "the untouched message is taken"
    for at in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            assert not _play(stage, flight, bytes(changed)), f"bit {bit} of byte {at} was taken"


def _play(stage: Stage, flight: int, message: bytes) -> bool:
    """Whether the handshake completes on both sides when this flight is replaced."""
    dialer, listener = stage.new_dialer(), stage.new_listener()

    def passing(i: int, make: Callable[[], bytes]) -> bytes:
        genuine = make()
        return message if i == flight else genuine

    try:
        first = passing(0, dialer.start)
        second = passing(1, lambda: listener.receive(first))
        third = passing(2, lambda: dialer.receive(second))
        fourth = passing(3, lambda: listener.receive(third))
        dialer.receive(fourth)
    except (ProtocolError, Unavailable):
        return False
    return dialer.result is not None and listener.result is not None


def test_payload_in_the_first_message_is_refused() -> None:
    stage = Stage()
    first = _start_with(encode_offer(module.VERSIONS), stage) + b"more"
    body = first[len(MAGIC) + 2 :]
    with pytest.raises(ProtocolError, match="has a payload"):
        stage.new_listener().receive(MAGIC + len(body).to_bytes(2, "big") + body)


def test_confirmation_that_says_something_is_refused() -> None:
    stage = Stage()
    dialer, listener = stage.new_dialer(), stage.new_listener()
    third = dialer.receive(listener.receive(dialer.start()))
    listener.receive(third)
    assert listener.result is not None
    listener.result.sending.counter = 0
    sealed = listener.result.sending.encrypt(b"", b"x")
    with pytest.raises(ProtocolError, match="not empty"):
        dialer.receive(len(sealed).to_bytes(2, "big") + sealed)


@pytest.mark.parametrize("ours", [(), ("aes256gcm",)])
@pytest.mark.parametrize("theirs", [(), ("aes256gcm", "telepathy")])
def test_aes_is_used_only_when_both_sides_have_it(
    ours: tuple[str, ...], theirs: tuple[str, ...]
) -> None:
    dialer = Handshake(make_credentials(), dialer=True, capabilities=ours)
    listener = Handshake(make_credentials(), dialer=False, capabilities=theirs)
    shake_hands(dialer, listener)
    assert dialer.result is not None
    assert listener.result is not None
    expected = "aes256gcm" if ours and theirs else "chacha20poly1305"
    assert dialer.result.suite.name == listener.result.suite.name == expected


@settings(max_examples=examples(200))
@given(st.lists(st.binary(min_size=1, max_size=200), max_size=5), st.booleans(), st.booleans())
def test_any_bytes_give_nothing_or_a_protocol_error(
    chunks: list[bytes], dialer: bool, after_magic: bool
) -> None:
    side = Handshake(_FUZZED, dialer=dialer)
    if dialer:
        side.start()
    try:
        if after_magic and not dialer:
            side.receive(MAGIC)
        for chunk in chunks:
            side.receive(chunk)
    except AitorrentError as e:
        assert isinstance(e, ProtocolError)
    assert side.result is None


_FUZZED = make_credentials()


@pytest.mark.parametrize(
    ("dialer", "listener", "can"), [(None, None, True), ((), None, False), (None, (), False)]
)
def test_channels_move_only_if_both_sides_can(
    dialer: tuple[str, ...] | None, listener: tuple[str, ...] | None, can: bool
) -> None:
    left = Handshake(make_credentials(), dialer=True, capabilities=dialer)
    right = Handshake(make_credentials(), dialer=False, capabilities=listener)
    shake_hands(left, right)
    for side in (left, right):
        assert side.result is not None
        assert side.result.can_move is can
