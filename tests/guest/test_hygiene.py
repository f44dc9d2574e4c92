"""A copy of a machine becomes another one, as far as it is asked to: in an /etc and with a host name of its own."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.errors import CowfsError, Invalid
from cowfs_cli.guests.channel import Cleaned, GuestChannel
from tests.support.guests import Inside, serving
from tests.support.mounting import needs_root

pytestmark = needs_root("has an /etc of its own")


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    with serving(tmp_path) as made:
        (made.etc / "ssh").mkdir()
        for name in ("ssh_host_rsa_key", "ssh_host_rsa_key.pub", "sshd_config"):
            (made.etc / "ssh" / name).write_text(name)
        (made.etc / "machine-id").write_text("0" * 32 + "\n")
        yield made


@pytest.fixture
def guest(inside: Inside) -> Iterator[GuestChannel]:
    with inside.channel() as made:
        yield made


def test_nothing_that_is_not_asked_for(inside: Inside, guest: GuestChannel) -> None:
    assert guest.hygiene() == Cleaned("", "", [], 0)
    assert (inside.etc / "machine-id").read_text() == "0" * 32 + "\n"
    assert len(list((inside.etc / "ssh").iterdir())) == 3


def test_everything(inside: Inside, guest: GuestChannel) -> None:
    before = socket.gethostname()
    done = guest.hygiene(seed=b"s" * 64, machine_id=True, hostname="copy-2.example", ssh_host_keys=True)
    assert done.seed == 64
    assert re.fullmatch("[0-9a-f]{32}", done.machine_id)
    assert (inside.etc / "machine-id").read_text() == done.machine_id + "\n"
    assert (inside.etc / "hostname").read_text() == "copy-2.example\n"
    assert done.removed == ["/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_rsa_key.pub"]
    assert [path.name for path in (inside.etc / "ssh").iterdir()] == ["sshd_config"]
    name = bytearray()
    guest.exec(["hostname"], on_stdout=name.extend)
    assert name.decode() == "copy-2.example\n"
    assert socket.gethostname() == before
    assert guest.hygiene(machine_id=True).machine_id != done.machine_id
    assert not list(inside.etc.glob("*.cowfs-new"))


def test_names_that_are_none_are_refused_before_anything_is_done(inside: Inside, guest: GuestChannel) -> None:
    for wrong in ("-x", "a b", "x" * 65, "a\nb", "../x", "ä"):
        with pytest.raises(Invalid, match="hostname"):
            guest.hygiene(machine_id=True, hostname=wrong)
    with pytest.raises(Invalid, match="512"):
        guest.hygiene(machine_id=True, seed=b"x" * 513)
    assert (inside.etc / "machine-id").read_text() == "0" * 32 + "\n"


def test_what_cannot_be_written_is_told(inside: Inside, guest: GuestChannel) -> None:
    (inside.etc / "machine-id").unlink()
    (inside.etc / "machine-id").mkdir()
    with pytest.raises(CowfsError, match="Is a directory"):
        guest.hygiene(machine_id=True)
