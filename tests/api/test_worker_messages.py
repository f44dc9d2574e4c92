"""What crosses between owner and worker comes back the same, and nothing else is accepted."""

import json
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowfs.errors import Busy, Corrupt, CowfsError, NoSpace
from cowfs.formats import control
from cowfs.formats.inode import Content
from cowfs.host import BranchSpec, Done, LayerSpec, Point
from cowfs.results import Change, Handle
from cowfs.workspace import CheckpointOrder
from cowfs_daemon.channel import MAX_MESSAGE_BYTES, Channel, pack_error, unpack_error
from cowfs_daemon.codec import decode, encode
from cowfs_daemon.pulse import Pulse
from cowfs_daemon.worker import serve

LAYER = LayerSpec("lay-1", "wsp-1", None, (control.Span(16, 64, 200),), 9, b"\x00\xff" * 16)
VALUES = [
    LAYER,
    BranchSpec("wsp-1", "lay-2", (LAYER, LAYER), None, 2, (16, 64, 3)),
    Point("wsp-1", ()),
    CheckpointOrder("snap-1", "lay-3", "m\udcff\0", ("good",)),
    Done(
        (control.Position("w", 1, 2, 3), control.Restored("w", "s", "l", "p", 4)), "snap", 2, (Handle(1, True, False),)
    ),
    Content(0, 0, b"\x01"),
    (Change("renamed", b"a\xff", b"b"), Change("added", b"")),
    {"lay-1": (LAYER,)},
    (None, True, -1, 2**64, 1.5, "x"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_round_trip(value: object) -> None:
    back = decode(encode(value))
    assert back == value
    assert type(back) is type(value)


def test_an_unknown_type_does_not_cross() -> None:
    with pytest.raises(TypeError):
        encode(object())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["b", "d", "r", "v", "x"]), inner | st.sampled_from(["Point", "Done"]), max_size=3
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(JSON | st.binary(max_size=20))
def test_malformed_messages_are_corrupt_and_nothing_else(value: object) -> None:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    try:
        decode(data)
    except Corrupt:
        return


def test_errors_come_back_as_they_were() -> None:
    for error in (Busy("in use", hint="wait"), NoSpace("full"), OSError(28, "No space left on device")):
        back = unpack_error(pack_error(error))
        assert type(back) is type(error)
        assert str(back) == str(error)
    assert type(unpack_error(pack_error(ValueError("x")))) is CowfsError


def test_calls_run_side_by_side_and_end_with_the_other_side() -> None:
    ours, theirs = socket.socketpair()
    gate = threading.Event()

    def slow() -> str:
        assert gate.wait(10)
        return "slow"

    def failing() -> None:
        raise Busy("no")

    calls = {"slow": slow, "fast": gate.set, "failing": failing}
    worker = threading.Thread(target=serve, args=(Channel(theirs), calls, lambda: Pulse(0, 0, "")))
    worker.start()
    channel = Channel(ours)
    for number, name in enumerate(("slow", "failing", "fast", "unknown")):
        channel.send((number, name, ()))
    answers = {answer[0]: answer[1:] for answer in (channel.receive() for _ in range(4))}
    assert answers[0] == ("slow", None)
    assert isinstance(unpack_error(answers[1][1]), Busy)
    assert answers[2] == (None, None)
    assert answers[3][1][0] == "internal"
    channel.shut()
    worker.join(10)
    assert not worker.is_alive()
    channel.close()
    theirs.close()


def test_an_endless_message_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        channel = Channel(ours)
        theirs.sendall((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
        with pytest.raises(Corrupt):
            channel.receive()
        channel.close()


def test_a_message_cut_short_is_an_end() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    with theirs:
        theirs.sendall(b"\0\0\0\x10half")
    assert channel.receive() is None
    channel.close()
