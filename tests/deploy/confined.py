"""Run a program under what a unit of systemd says of system calls, address
families, writable code and namespaces, where no systemd can do it:

    confined.py UNIT PROGRAM ARGUMENT...

What the unit refuses ends the process at once, so that nothing passes unnoticed."""

import errno
import os
import re
import socket
import subprocess
import sys

import seccomp

PROT_WRITE, PROT_EXEC = 2, 4
CLONE_NAMESPACES = 0x7E020080
# As systemd has it: these are checked by their arguments.
BY_ARGUMENT = {"socket", "mmap", "mprotect", "pkey_mprotect", "clone", "clone3", "unshare", "setns"}


def settings(unit, name):
    with open(unit, encoding="utf-8") as f:
        return re.findall(rf"^{name}=(.*)$", f.read(), re.M)


def expand(names):
    """Names and @groups to the names of system calls."""
    found = set()
    for name in names:
        if not name.startswith("@"):
            found.add(name)
            continue
        lines = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter", name], capture_output=True, text=True,
                               check=True).stdout.splitlines()
        found |= expand(line.strip() for line in lines[1:] if line.strip() and not line.strip().startswith("#"))
    return found


def allowed(unit):
    calls = set(expand(["@default"]))
    for value in settings(unit, "SystemCallFilter"):
        names = expand(value.removeprefix("~").split())
        calls = calls - names if value.startswith("~") else calls | names
    return calls


def confine(unit):
    rules = seccomp.SyscallFilter(seccomp.KILL_PROCESS)
    for call in sorted(allowed(unit) - BY_ARGUMENT):
        if seccomp.resolve_syscall(seccomp.Arch(), call) >= 0:
            rules.add_rule(seccomp.ALLOW, call)
    for family in settings(unit, "RestrictAddressFamilies")[0].split():
        rules.add_rule(seccomp.ALLOW, "socket", seccomp.Arg(0, seccomp.EQ, getattr(socket, family)))
    both = PROT_WRITE | PROT_EXEC
    for some in (0, PROT_WRITE, PROT_EXEC):
        rules.add_rule(seccomp.ALLOW, "mmap", seccomp.Arg(2, seccomp.MASKED_EQ, both, some))
    for call in ("mprotect", "pkey_mprotect"):
        rules.add_rule(seccomp.ALLOW, call, seccomp.Arg(2, seccomp.MASKED_EQ, PROT_EXEC, 0))
    rules.add_rule(seccomp.ALLOW, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, CLONE_NAMESPACES, 0))
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    rules.load()


if __name__ == "__main__":
    confine(sys.argv[1])
    os.execv(sys.argv[2], sys.argv[2:])
