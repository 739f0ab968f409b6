"""Users of one run of one suite. No other run on this machine has the same ids or names, nor has the site.

Most suites want ids only: reserve() gives some that no account and no process has, held by a lock until the program
ends. account() makes a real account with useradd, for what needs a name, a home and subordinate ids.
"""
import contextlib
import fcntl
import glob
import grp
import os
import pwd
import re
import signal
import subprocess
import time

LOCKS = "/run/lock"
# Far above the ids that sites and distributions give out. A container's map of ids may end before.
FIRST_ID, SLOT_IDS, SLOTS = 0x70000000, 16, 256
COMMENT = "account of a test run"
_held = []


def first_id():
    with open("/proc/self/uid_map") as users, open("/proc/self/gid_map") as groups:
        ends = [max(int(inside) + int(count) for inside, _, count in map(str.split, file)) for file in (users, groups)]
    return min(FIRST_ID, min(ends) - SLOT_IDS * SLOTS)


def locked(name, wait):
    """A descriptor that holds this lock of the machine, or None if somebody else does."""
    path = os.path.join(LOCKS if os.access(LOCKS, os.W_OK) else "/tmp", f"postern-test-{os.geteuid()}-{name}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return descriptor
    except BlockingIOError:
        os.close(descriptor)
        return None


@contextlib.contextmanager
def alone(name):
    """Only one run of all on this machine is in here at a time: for what has one place on a machine."""
    descriptor = locked(name, wait=True)
    try:
        yield
    finally:
        os.close(descriptor)


def ids_of_processes():
    found = set()
    for path in glob.glob("/proc/[0-9]*/status"):
        with contextlib.suppress(OSError), open(path) as file:
            for line in file:
                if line.startswith(("Uid:", "Gid:", "Groups:")):
                    found.update(map(int, line.split()[1:]))
    return found


def has_account(number):
    for lookup in (pwd.getpwuid, grp.getgrgid):
        with contextlib.suppress(KeyError):
            lookup(number)
            return True
    return False


def reserve(count=SLOT_IDS):
    """So many ids, for users and groups alike, until this program ends."""
    assert count <= SLOT_IDS
    first = first_id()
    in_use = ids_of_processes()
    for turn in range(SLOTS):
        slot = (os.getpid() + turn) % SLOTS  # the next run rather gets other ids: files of the last one may lie about
        ids = range(first + slot * SLOT_IDS, first + slot * SLOT_IDS + count)
        descriptor = locked(f"ids-{slot}", wait=False)
        if descriptor is None:
            continue
        if not in_use.intersection(ids) and not any(map(has_account, ids)):
            _held.append(descriptor)
            return ids
        os.close(descriptor)
    raise RuntimeError(f"all {SLOTS} groups of ids from {first} on are in use")


def change_accounts(*command):
    """useradd or userdel; the site may be changing its accounts at the same moment."""
    end = time.monotonic() + 60
    with alone("accounts"):
        while True:
            done = subprocess.run(command, capture_output=True, text=True)
            # useradd(8), userdel(8): 1 is "can't update password file", also if another program has locked it.
            if done.returncode != 1 or time.monotonic() > end:
                return done
            time.sleep(0.2)


def end_processes(number):
    """Of a user whose account goes: the next account gets the same number, and would have them for its own."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = []
        for path in glob.glob("/proc/[0-9]*/status"):
            with contextlib.suppress(OSError), open(path) as file:
                status = file.read()
                if f"\nUid:\t{number}\t" in status and "\nState:\tZ" not in status:
                    found.append(int(path.split("/")[2]))
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def remove_account(account_name):
    """With its home, mail, group and processes, such as GnuPG's agent."""
    with contextlib.suppress(KeyError):
        end_processes(pwd.getpwnam(account_name).pw_uid)
    return change_accounts("userdel", "--remove", "--force", account_name)


def remove_stale():
    """Accounts of runs that were killed."""
    for entry in pwd.getpwall():
        ours = re.fullmatch(r"pt(\d+)[a-z]*", entry.pw_name)
        if entry.pw_gecos == COMMENT and ours and not os.path.exists(f"/proc/{ours[1]}"):
            remove_account(entry.pw_name)


def name(which=""):
    """Of this run's account, or of one of its accounts: `which` is of small letters."""
    return f"pt{os.getpid()}{which}"


def account(number=None, home=None, which=""):
    """A fresh account of this run; remove_account() takes it away. Without a number it gets the next one of the site's
    range, and subordinate ids with it; with one (from reserve()) it has that as uid and gid, and the home that exists."""
    remove_stale()
    options = ["--shell", "/bin/sh", "--comment", COMMENT]
    if number is None:
        options.append("--create-home")
    else:
        expect_success(change_accounts("groupadd", "--gid", str(number), name(which)))
        # A log of last logins with a place for this number would be a sparse file of terabytes.
        options += ["--uid", str(number), "--gid", str(number), "--home-dir", home, "--no-log-init"]
    expect_success(change_accounts("useradd", *options, name(which)))
    return pwd.getpwnam(name(which))


def expect_success(done):
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(done.args)}: exit status {done.returncode}: {done.stderr}")
