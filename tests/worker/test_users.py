"""Programs of a root worker that run as other users: what they have, and what they cannot reach."""

import asyncio
import grp
import json
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hostler.errors import InvalidRequest
from hostler.jobs import File, Work
from tests.worker.fake_coordinator import FakeCoordinator
from tests.worker.real_runner import Bench, eventually, sh, streams, whole_ledger
from tests.worker.test_recovery import crash
from tests.worker.whole_worker import a_worker
from worker_agent.attempt_events import Started
from worker_agent.confinement import Confinement, User, give
from worker_agent.local_policy import Policy
from worker_agent.process_tree import read_stat
from worker_agent.recovery import recover
from worker_agent.runner import ProcessCapReached, Runner
from worker_agent.shared_place import make_shared
from worker_agent.slot_users import Confining, confining_of

FIRST = User("job-61001", 61001, 61001, (61005, 61006), "/srv/first")
SECOND = User("job-61002", 61002, 61002)
ALONE = Confinement()
LOOK = r"""
exec 2>&1
grep -E '^(Uid|Gid|Groups|NoNewPrivs|Cap...):' /proc/self/status
echo "umask $(umask)"; echo "cwd $(pwd)"; ulimit -c
for each in /proc/$$/fd/*; do [ -e "$each" ] && echo "fd ${each##*/}"; done
env | sort
"""


def a_pool(*users: User, common: Confinement = ALONE) -> Confining:
    """A user for each shim."""
    return Confining(common, users)


async def said(bench: Bench, runner: Runner, name: str, code: str, **options: object) -> str:
    """What a shell snippet writes to its standard output; it must end well."""
    order = bench.order(name, sh(code), **{"cwd": "/", **options})
    runner.start(order)
    ended = await bench.ended(name)
    out, err, _ = streams(whole_ledger(runner, order.key))
    assert ended.exit_code == 0, (ended.error, ended.evidence, err)
    return out.decode()


def capabilities(name: str) -> str:
    """A set of this process's capabilities, as /proc shows it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


@pytest.mark.parametrize("path", ["warm", "hardened"])
async def test_a_program_has_what_its_user_has_and_nothing_else(bench: Bench, path: str) -> None:
    """Ids, groups, capabilities, descriptors, umask, directory and environment, compared one for one."""
    async with bench.runner(confining=a_pool(FIRST), start_path=path) as runner:
        out = await said(bench, runner, "a", LOOK, env={"MINE": "1"}, cwd="")
        await bench.end_all(runner)

    none = "0" * 16
    assert out.splitlines() == [
        "Uid:\t61001\t61001\t61001\t61001",
        "Gid:\t61001\t61001\t61001\t61001",
        "Groups:\t61005 61006 ",
        f"CapInh:\t{none}",
        f"CapPrm:\t{none}",
        f"CapEff:\t{none}",
        f"CapBnd:\t{capabilities('CapBnd')}",  # worth nothing to who has none and can get none
        f"CapAmb:\t{none}",
        "NoNewPrivs:\t1",
        "umask 0077",
        "cwd /",
        "0" if path == "hardened" else out.splitlines()[11],
        "fd 0",
        "fd 1",
        "fd 2",
        "HOME=/srv/first",
        f"HOSTLER_ATTEMPT={bench.key('a')}",
        f"HOSTLER_JOB={bench.key('a').partition('.')[0]}",
        f"LANG={os.environ.get('LANG', 'C.UTF-8')}",
        "MINE=1",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PWD=/",
        "TMPDIR=/tmp",
    ]


@pytest.mark.parametrize("path", ["warm", "hardened"])
async def test_users_of_two_slots_cannot_touch_each_other_nor_what_watches_over_them(bench: Bench, path: str) -> None:
    """No signal, no environment, no memory; neither the other's, nor the shims', nor the launcher's; no ledger."""
    async with bench.runner(confining=a_pool(FIRST, SECOND), start_path=path) as runner:
        first = bench.order("a", sh("echo ready; exec sleep 60"), env={"TOKEN": "s3cret"}, cwd="/")
        runner.start(first)
        await eventually(lambda: [e for e in bench.events if isinstance(e, Started)], "the first to start")
        (started,) = [e for e in bench.events if isinstance(e, Started)]
        shims = [link.pid for link in runner._links.values()]
        stat = read_stat(shims[0])
        assert stat is not None
        others = [started.pid, *shims, stat.parent]
        segments = " ".join(map(str, runner.segments_dir.glob("*")))
        sockets = " ".join(map(str, runner.sockets_dir.glob("*")))
        code = f"""
            for pid in {" ".join(map(str, others))} $PPID; do
                kill -0 $pid 2>/dev/null && echo "signals $pid"
                cat /proc/$pid/environ 2>/dev/null | grep -q . && echo "environment of $pid"
                cat /proc/$pid/mem 2>/dev/null | grep -q . && echo "memory of $pid"
                ls /proc/$pid/fd 2>/dev/null | grep -q . && echo "descriptors of $pid"
            done
            for file in {segments} {sockets} {bench.place}; do
                [ -r $file ] && echo "reads $file"; [ -w $file ] && echo "writes $file"
            done
            true
        """
        assert await said(bench, runner, "b", code) == ""
        assert len({link.shim for link in runner._links.values()}) == 2
        await bench.end_all(runner)


async def test_a_program_can_open_its_own_streams_by_name(bench: Bench) -> None:
    """Scripts write to /dev/stderr, and the pipes are made by root."""
    async with bench.runner(confining=a_pool(FIRST)) as runner:
        order = bench.order("a", sh("echo one >/dev/stdout; echo two >/dev/stderr"), cwd="/")
        runner.start(order)
        assert (await bench.ended("a")).exit_code == 0
        assert streams(whole_ledger(runner, order.key))[:2] == (b"one\n", b"two\n")
        await bench.end_all(runner)


async def test_directories_are_entered_and_programs_found_with_the_users_rights(bench: Bench) -> None:
    """What is closed to the user is closed to its programs from their first moment."""
    closed = bench.place / "closed"
    closed.mkdir(mode=0o700)
    (closed / "program").write_text("#!/bin/sh\n")
    (closed / "program").chmod(0o755)
    async with bench.runner(confining=a_pool(FIRST)) as runner:
        for order, error in (
            (bench.order("a", ("true",), cwd=str(closed)), f"chdir {closed}: permission denied"),
            (bench.order("b", (f"{closed}/program",), cwd="/"), f"fork/exec {closed}/program: permission denied"),
            (
                bench.order("c", ("program",), cwd="/", env={"PATH": str(closed)}),
                'exec: "program": executable file not found in $PATH',
            ),
        ):
            runner.start(order)
            assert (await bench.ended(order.key.partition("-")[2].partition(".")[0])).error == error
        assert await said(bench, runner, "d", "id -u") == "61001\n"
        await bench.end_all(runner)


@pytest.mark.parametrize("path", ["warm", "hardened"])
async def test_programs_start_below_the_roots_and_no_link_leads_out(bench: Bench, path: str) -> None:
    """Without a directory of its own a program starts in the first root."""
    root = bench.place / "root"
    (root / "in").mkdir(parents=True)
    (root / "out").symlink_to("/etc")
    confining = Confining(Confinement(roots=(str(root),)))
    async with bench.runner(confining=confining, start_path=path) as runner:
        assert await said(bench, runner, "a", "pwd", cwd=str(root / "in")) == f"{root}/in\n"
        assert await said(bench, runner, "b", "pwd", cwd="") == f"{root}\n"
        for name, where in (("c", root / "out"), ("d", Path("/etc"))):
            runner.start(bench.order(name, ("true",), cwd=str(where)))
            error = (await bench.ended(name)).error
            assert error.startswith(f"chdir {where}: ")
            assert ("not followed (rule roots)" in error) is (name == "c")
        await bench.end_all(runner)


async def test_a_private_tmp_is_empty_and_ends_with_its_program(bench: Bench) -> None:
    """Nothing of the host's is seen there, and nothing of the program's stays."""
    code = "ls -A /tmp /var/tmp; stat -c %a /tmp; echo x >/tmp/hostler-test-of-tmp; cat /tmp/hostler-test-of-tmp"
    common = Confinement(private_tmp=True)
    async with bench.runner(confining=a_pool(FIRST, common=common), start_path="hardened") as runner:
        assert await said(bench, runner, "a", code) == "/tmp:\n\n/var/tmp:\n1777\nx\n"
        await bench.end_all(runner)
    assert "hostler-test-of-tmp" not in os.listdir("/tmp")


async def test_two_programs_never_have_one_user_and_no_more_run_than_there_are_users(bench: Bench) -> None:
    """Further ones are refused; a user is free when the shim that had it is."""
    async with bench.runner(confining=a_pool(FIRST, SECOND)) as runner:
        for name in ("a", "b"):
            runner.start(bench.order(name, sh("id -u; exec sleep 60"), cwd="/"))
        with pytest.raises(ProcessCapReached, match="2 attempts run"):
            runner.start(bench.order("c", ("true",)))

        def users() -> set[bytes]:
            return {streams(whole_ledger(runner, bench.key(name)))[0] for name in ("a", "b")}

        await eventually(lambda: users() == {b"61001\n", b"61002\n"}, "both to start, as different users")
        for name in ("a", "b"):
            runner.discard(bench.key(name))
        await eventually(lambda: not runner.running(), "both to end")
        assert await said(bench, runner, "d", "id -u") in ("61001\n", "61002\n")
        await bench.end_all(runner)


async def test_after_a_restart_of_the_agent_users_are_not_given_twice(bench: Bench) -> None:
    """What an earlier agent has started keeps its user, and others get another one."""
    first = await bench.runner(confining=a_pool(FIRST, SECOND)).__aenter__()
    first.start(bench.order("a", sh("exec sleep 60"), cwd="/"))
    await eventually(lambda: any(isinstance(e, Started) for e in bench.events), "the first to start")
    await crash(first)

    async with bench.runner(confining=a_pool(FIRST, SECOND)) as second:
        await recover(second, {bench.key("a")})
        assert await said(bench, second, "b", "id -u") == "61002\n"
        await bench.end_all(second)


async def test_a_shim_of_another_policy_gets_no_further_work(bench: Bench) -> None:
    """A worker that is started again with a policy runs nothing more as root."""
    first = await bench.runner().__aenter__()
    first.start(bench.order("a", sh("while [ ! -e go ]; do sleep 0.02; done; id -u")))
    await eventually(lambda: any(isinstance(e, Started) for e in bench.events), "the first to start")
    await crash(first)

    async with bench.runner(confining=a_pool(FIRST)) as second:
        await recover(second, {bench.key("a")})
        (bench.place / "go").touch()
        assert (await bench.ended("a")).exit_code == 0
        assert streams(whole_ledger(second, bench.key("a")))[0] == b"0\n"
        assert await said(bench, second, "b", "id -u") == "61001\n"
        await bench.end_all(second)


# Workspaces


async def test_a_workspace_is_its_users_and_what_it_leaves_is_kept(bench: Bench, coordinator: FakeCoordinator) -> None:
    """The user writes there; another one cannot look into it; the agent collects and removes it."""
    bench.place.chmod(0o711)
    shared = make_shared(bench.place / "shared", bench.place / "worker")
    files = (coordinator.file("inputs/deep/a", b"given"), File(path="script/run", content=b"#!/bin/sh\ncat $1\n"))
    code = "script/run inputs/deep/a >outputs/o; echo '[1]' >result.json; echo '{\"percent\": 7}' >>progress; id -u"
    code += "; touch ready; while [ ! -e go ]; do sleep 0.02; done"
    key, other = bench.key("a"), bench.key("b")
    async with a_worker(bench, coordinator, confining=a_pool(FIRST, SECOND), shared=shared):
        coordinator.start(key, Work(argv=sh(code), files=files, workspace=True))
        where = shared / "work" / key
        await eventually((where / "ready").exists, "the program to run")
        owners = {(path.stat().st_uid, path.stat().st_mode & 0o077) for path in (where, *where.rglob("*"))}
        assert owners == {(61001, 0)}
        coordinator.start(
            other, Work(argv=sh(f"ls {where}; ls {shared}/work; cat {where}/result.json"), workspace=True)
        )
        report = await coordinator.over(other)
        assert report.end.exit_code != 0 and "[1]" not in coordinator.log(other)
        assert coordinator.log(other).count("Permission denied") == 3

        secret = bench.place / "secret"
        secret.write_text("root's")
        os.link(secret, where / "outputs/link")  # as a job could where links to files of others are allowed
        (where / "go").touch()
        report = await coordinator.over(key)
        assert report.end.exit_code == 0
        assert coordinator.output(report, "o") == b"given"
        assert list(report.end.outputs_missing) == ["link: a file of another user"]
        assert json.loads(report.end.result) == [1]
        assert report.end.advance.percent == 100
        await eventually(lambda: not where.exists(), "the workspace to be removed")


def test_a_workspace_is_given_without_following_anything(tmp_path: Path) -> None:
    """A link or a second name of a file, which we never put there, stops it; what they lead to keeps its owner."""
    victim = tmp_path / "victim"
    victim.write_text("")
    for make in (os.link, os.symlink):
        workspace = tmp_path / make.__name__
        (workspace / "inputs").mkdir(parents=True)
        make(victim, workspace / "inputs/x")
        with pytest.raises(OSError, match="none of the files"):
            give(str(workspace), FIRST)
        assert victim.stat().st_uid == 0
        assert (workspace.stat().st_uid, workspace.stat().st_mode & 0o777) == (0, 0o700)


def test_the_place_of_workspaces_can_be_passed_and_not_changed(tmp_path: Path) -> None:
    """Where others can write, or cannot get to, is refused with a sentence."""
    for each in (tmp_path, *tmp_path.parents):
        if not each.stat().st_mode & stat.S_IXOTH:
            each.chmod(0o711)
    place = make_shared(tmp_path / "w", tmp_path / "data")
    assert (place.stat().st_mode & 0o777, (place / "work").stat().st_mode & 0o777) == (0o711, 0o711)

    tmp_path.chmod(0o700)
    with pytest.raises(InvalidRequest, match="cannot pass"):
        make_shared(tmp_path / "w", tmp_path / "data")
    tmp_path.chmod(0o777)
    with pytest.raises(InvalidRequest, match="others can change"):
        make_shared(tmp_path / "w", tmp_path / "data")


# Whom a policy names


def test_users_are_those_that_the_host_knows_or_numbers_that_nobody_has() -> None:
    """A typing error, root, and a number that is somebody's are told at the start."""
    nobody = pwd.getpwnam("nobody")
    assert confining_of(Policy(run_as="nobody")).example().user == User(
        "nobody", nobody.pw_uid, nobody.pw_gid, (), nobody.pw_dir
    )
    pool = confining_of(Policy(slot_users="61001-61003"))
    assert pool.shims_max == 3
    leased = [pool.lease(shim) for shim in range(4)]
    assert [each and each.user and each.user.uid for each in leased] == [61001, 61002, 61003, None]
    pool.release(1)
    again = pool.lease(9)
    assert again is not None and again.user is not None and again.user.uid == 61002

    wrong = ("61003-61001", "0-5", "1-10", f"{nobody.pw_uid}-{nobody.pw_uid}", "job", "job-%d-%d", "nosuchjob-%d")
    for text in wrong:
        with pytest.raises(InvalidRequest, match="slot_users"):
            confining_of(Policy(slot_users=text))
    lonely = {group.gr_gid for group in grp.getgrall()} - {user.pw_uid for user in pwd.getpwall()}
    for number in lonely:
        with pytest.raises(InvalidRequest, match=f"number {number} is the group"):
            confining_of(Policy(slot_users=f"{number}-{number}"))
    for text in ("root", "0", "nosuchuser", "99999999999"):
        with pytest.raises(InvalidRequest, match="run_as"):
            confining_of(Policy(run_as=text))


def test_the_trial_tells_whether_this_host_can_do_it() -> None:
    """The agent makes it at its start, in a program of its own."""
    command = [sys.executable, "-m", "worker_agent.confinement"]
    for confinement, code in ((Confinement(user=FIRST), 0), (Confinement(user=User("x", 0, 0)), 1)):
        tried = subprocess.run([*command, json.dumps(confinement.to_json())], capture_output=True, text=True)
        assert tried.returncode == code, tried.stdout + tried.stderr
    assert "the user is not the one that was set" in tried.stdout


async def test_a_user_cannot_reach_the_socket_of_its_shim(bench: Bench) -> None:
    """Neither by the directory nor, were that open, by the shim's own look at who calls."""
    async with bench.runner(confining=a_pool(FIRST)) as runner:
        await said(bench, runner, "a", "true")
        (path,) = runner.sockets_dir.glob("*.sock")
        for each in (bench.place, runner.sockets_dir):
            each.chmod(0o777)
        path.chmod(0o777)
        calling = "import os, socket, sys; os.setgroups([]); os.setgid(61001); os.setuid(61001); "
        calling += "s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1]); "
        calling += "print('connected', flush=True); s.sendall(b'x'); sys.exit(s.recv(1) != b'')"
        command = [sys.executable, "-c", calling, os.fspath(path)]
        called = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
        # It is turned away after it has connected, before or after it could say anything.
        assert called.stdout == "connected\n"
        assert called.returncode == 0 or "ConnectionResetError" in called.stderr or "BrokenPipeError" in called.stderr
        await bench.end_all(runner)
