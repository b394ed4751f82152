"""Namespaces that end with the tests: a network in which every address is this
host's, and names that only the tests know. No port, route or file of the machine
is touched."""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
RTM_NEWROUTE, NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE = 24, 1, 4, 0x400
RT_TABLE_LOCAL, RTPROT_BOOT, RT_SCOPE_HOST, RTN_LOCAL, RTA_OIF = 255, 3, 254, 2, 4
# A look-up that gets no answer goes on for 60 s, longer than any test waits for it.
FILES = {"/etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:30 attempts:2\n",
         "/etc/nsswitch.conf": "hosts: files dns\n",
         "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n127.0.0.2 in-hosts.test\n"}


def isolate():
    """Run the tests where network and names are theirs alone; call before anything else."""
    if os.geteuid() != 0:
        print("TAP version 13\n1..0 # SKIP only root may have a network and names of its own")
        sys.exit(0)
    if os.environ.get("SETTLED_TEST_NAMESPACE") != "own":
        os.environ["SETTLED_TEST_NAMESPACE"] = "own"
        os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, *sys.argv])
    bring_up_loopback()
    for family in (socket.AF_INET, socket.AF_INET6):
        make_every_address_ours(family)
    mount_files()


def bring_up_loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        flags = struct.unpack("16sH14x", fcntl.ioctl(s, SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0)))[1]
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def make_every_address_ours(family):
    """ip route add local default dev lo"""
    route = struct.pack("=BBBBBBBBI", family, 0, 0, 0, RT_TABLE_LOCAL, RTPROT_BOOT, RT_SCOPE_HOST, RTN_LOCAL, 0)
    out = struct.pack("=HHI", 8, RTA_OIF, socket.if_nametoindex("lo"))
    head = struct.pack("=IHHII", 16 + len(route) + len(out), RTM_NEWROUTE,
                       NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as s:
        s.send(head + route + out)
        error = struct.unpack_from("=i", s.recv(4096), 16)[0]
    if error:
        raise OSError(-error, os.strerror(-error))


def mount_files():
    home = tempfile.mkdtemp(prefix="settled-test-")
    try:
        for path, text in FILES.items():
            mine = os.path.join(home, os.path.basename(path))
            with open(mine, "w", encoding="ascii") as f:
                f.write(text)
            os.chmod(mine, 0o644)
            subprocess.run(["mount", "--bind", mine, os.path.realpath(path)], check=True)
    finally:
        # What is mounted lives on without its name.
        shutil.rmtree(home)
