"""``cowfs run``: programs in a real sandbox with a workspace as their root."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from cowfs.client import connect
from cowfs.errors import Invalid
from cowfs.results import Workspace
from cowfs_cli.sandbox import places
from tests.cli.live import Live
from tests.containers.adapter import until

pytestmark = [pytest.mark.fuse]


def sh(live: Live, script: str, *options: str, workspace: str = "ws") -> str:
    """What a shell script in the sandbox prints."""
    return live.cowfs("run", workspace, *options, "--", "sh", "-c", script)


def names(live: Live) -> list[str]:
    return [each["name"] for each in live.json("list")]


def test_the_workspace_is_the_root(live: Live) -> None:
    assert sh(live, "ls /; cat /etc/secret 2>/dev/null; hostname; id -u").split() == [
        *("bin", "dev", "etc", "lib", "lib64", "proc", "run", "tmp"), "ws", "0",
    ]  # fmt: skip
    sh(live, "mkdir /srv; echo kept > /srv/file; echo gone > /run/file; chown 7:8 /srv/file")
    assert live.cowfs("show", "ws:srv/file") == "kept"
    path = live.cowfs("path", "ws")
    assert os.stat(f"{path}/srv/file").st_uid == 7
    assert os.listdir(f"{path}/run") == []


def test_it_sees_neither_the_host_s_processes_nor_its_network_nor_its_environment(live: Live) -> None:
    live.env["SECRET"] = "x"
    try:
        shown = sh(live, 'echo "[$SECRET]"; cat /proc/net/dev; for p in /proc/[0-9]*; do cat $p/comm; done')
    finally:
        del live.env["SECRET"]
    assert "[]" in shown
    devices = [line.split(":")[0].strip() for line in shown.splitlines() if ":" in line]
    assert devices == ["lo"]
    assert "python" not in shown
    with open("/proc/net/dev") as host:
        assert len(sh(live, "cat /proc/net/dev", "--net", "host").splitlines()) == len(host.readlines())


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)])
def test_the_exit_code_is_the_program_s(live: Live, script: str, code: int) -> None:
    assert live.run("run", "ws", "--", "sh", "-c", script).code == code


def test_environment_and_directory(live: Live) -> None:
    assert sh(live, 'echo "$A $HOME"; pwd', "--env", "A=b=c", "--workdir", "/etc").split() == ["b=c", "/root", "/etc"]
    assert live.run("run", "ws", "--env", "nothing", "--", "sh").code == Invalid.exit_code


def test_a_checkpoint_after_each(live: Live) -> None:
    sh(live, "echo one > /a", "--checkpoint-each")
    sh(live, "echo two > /a", "--checkpoint-each")
    log = live.json("log", "ws")
    assert [each["message"] for each in log][:2] == ["sh -c 'echo two > /a'", "sh -c 'echo one > /a'"]
    assert live.cowfs("show", "ws@-2:a") == "one"


def test_what_fails_is_undone(live: Live) -> None:
    sh(live, "echo good > /a; mkdir /d")
    ended = live.run(
        "run", "ws", "--restore-on-failure", "--checkpoint-each", "--", "sh", "-c", "rm -r /d /a /bin; exit 3"
    )
    assert (ended.code, "restored" in ended.err) == (3, True)
    assert sh(live, "cat /a; ls -d /d").split() == ["good", "/d"]
    sh(live, "echo better > /a", "--restore-on-failure")
    assert live.cowfs("show", "ws:a") == "better"


def test_an_ephemeral_run_leaves_nothing(live: Live) -> None:
    for script, code in (("echo lost > /a; cat /a", 0), ("exit 9", 9), ("kill -9 $$", 137)):
        assert live.run("run", "ws", "--ephemeral", "--", "sh", "-c", script).code == code
        assert names(live) == ["ws"]
    live.cowfs("checkpoint", "ws", "--label", "good", "--allow-empty")
    sh(live, "echo live > /a")
    assert sh(live, "ls /a 2>/dev/null || echo none", "--ephemeral", workspace="ws@good") == "none"
    assert live.run("run", "ws", "--ephemeral", "--tmpfs", "relative", "--", "sh").code == Invalid.exit_code
    assert names(live) == ["ws"]


def test_what_is_kept_survives_a_restore(live: Live) -> None:
    sh(live, "echo 1 > /root/.cache/x; echo 1 > /y", "--keep", "/root/.cache", "--checkpoint-each")
    sh(live, "echo 2 > /root/.cache/x; echo 2 > /y", "--keep", "/root/.cache")
    live.cowfs("restore", "ws", "ws@latest")
    assert sh(live, "cat /root/.cache/x /y", "--keep", "/root/.cache").split() == ["2", "1"]
    assert names(live) == ["ws", "ws-keep-root-.cache"]
    assert sh(live, "cat /c/x", "--keep", "/c=ws-keep-root-.cache") == "2"
    assert live.run("run", "ws", "--keep", "/c=unknown", "--", "sh").code == 3


def test_memory_over_a_directory(live: Live) -> None:
    sh(live, "echo x > /tmp/in; echo y > /m/in", "--tmpfs", "/m")
    assert sh(live, "cat /tmp/in; ls /m") == "x"
    assert sh(live, "ls /tmp", "--tmpfs", "/tmp") == ""


def test_json(live: Live) -> None:
    ended = live.run("run", "ws", "--json", "--checkpoint-each", "--", "sh", "-c", "echo --json; exit 4")
    told = json.loads(ended.out)
    assert (ended.code, ended.err) == (4, "--json\n")
    assert told == {"workspace": "ws", "exit_code": 4, "snapshot": live.json("log", "ws")[0]["id"], "restored": None}
    plain = live.run("run", "unknown", "--", "sh", "--json")
    assert (plain.code, plain.err.startswith("cowfs: ")) == (3, True)


def test_a_link_in_a_workspace_leads_nowhere(live: Live, tmp_path: Path) -> None:
    path = live.cowfs("path", "ws")
    os.symlink(tmp_path, f"{path}/run")
    ended = live.run("run", "ws", "--", "sh")
    assert (ended.code, "/run is no directory" in ended.err) == (Invalid.exit_code, True)
    assert live.run("run", "ws", "--keep", "/run/x", "--", "sh").code == Invalid.exit_code
    assert sorted(os.listdir(tmp_path)) == ["rootfs", "store"]


@pytest.mark.parametrize("path", ["", "/", "x", "/a/../b", "/a\0b", "//", "/."])
def test_a_path_that_is_no_place_is_refused(path: str) -> None:
    with pytest.raises(Invalid):
        places.inside(path)


def test_without_bubblewrap_it_says_what_to_install(live: Live, tmp_path: Path) -> None:
    live.cowfs("path", "ws")
    live.env["PATH"] = str(tmp_path)
    ended = live.run("run", "ws", "--", "sh")
    live.env["PATH"] = os.environ["PATH"]
    assert (ended.code, "apt-get install bubblewrap" in ended.err) == (3, True)


def test_ending_it_ends_the_program_and_removes_the_fork(live: Live) -> None:
    words = live.words("run", "ws", "--ephemeral", "--", "sh", "-c", "echo $$; exec sleep 1000")
    with subprocess.Popen(words, env=live.env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        assert running.stdout.readline().strip().isdigit()
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 128 + signal.SIGTERM
    assert names(live) == ["ws"]


def test_any_reference_can_be_run_in_a_fork(live: Live) -> None:
    snapshot = live.cowfs("checkpoint", "ws", "--allow-empty")
    live.cowfs("set", snapshot, "template=base")
    sh(live, "echo live > /a")
    for reference in (snapshot, snapshot[:-1], "template:base", "ws@latest"):
        script = "ls /a 2>/dev/null || echo none; echo kept >> /k/x"
        assert sh(live, script, "--ephemeral", "--keep", "/k", workspace=reference) == "none"
    assert live.cowfs("show", "ws-keep-k:x").split() == ["kept"] * 4
    assert names(live) == ["ws", "ws-keep-k"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_fork_is_removed_also_when_it_is_killed(live: Live, number: signal.Signals) -> None:
    """By SIGTERM as soon as there is one: while it is mounted, before the program runs."""
    words = live.words("run", "ws", "--ephemeral", "--", "sh", "-c", "echo; exec sleep 1000")
    with connect(live.store) as store:

        def forks() -> list[Workspace]:
            return [each for each in store.workspaces() if each.name != "ws"]

        with subprocess.Popen(words, env=live.env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as running:
            if number == signal.SIGKILL:
                assert running.stdout is not None
                running.stdout.readline()
                assert forks()[0].settings["ttl"], "for when its watcher is killed, too"
            until(lambda: bool(forks()))
            running.send_signal(number)
            running.wait(30)
        until(lambda: not forks())
    until(lambda: not [each for each in live.mounts() if "-run-" in each])


def test_a_restore_below_a_running_program_leaves_its_mounts(live: Live) -> None:
    live.cowfs("checkpoint", "ws", "--label", "bare", "--allow-empty")
    sh(live, "echo one > /a", "--checkpoint-each")
    script = "echo two > /a; echo go; read x; cat /a; ls -d /proc/self /dev/null"
    words = live.words("run", "ws", "--", "sh", "-c", script)
    with subprocess.Popen(words, env=live.env, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"go\n"
        refused = live.run("restore", "ws", "@bare")
        assert (refused.code, "mounted at dev, proc, run" in refused.err) == (5, True), refused.err
        live.cowfs("restore", "ws", "ws@latest")
        shown, _ = running.communicate(b"\n", timeout=60)
        assert running.returncode == 0
    assert shown.split() == [b"one", b"/dev/null", b"/proc/self"]
