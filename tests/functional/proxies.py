"""Reverse proxies in front of a daemon, with the very files of deploy/proxies:
only addresses and what a test's speed asks for are put in their place."""

import os
import shutil
import socket
import subprocess
import tempfile

import harness

FILES = os.path.join(os.path.dirname(__file__), "..", "..", "deploy", "proxies")


def filled(name, places):
    """The file with each text replaced, which has to be there exactly once."""
    with open(os.path.join(FILES, name), encoding="utf-8") as f:
        text = f.read()
    for old, new in places.items():
        if text.count(old) != 1:
            raise AssertionError(f"{name}: `{old}` is there {text.count(old)} times")
        text = text.replace(old, new)
    return text


class Front:
    """A proxy, and the ways to ask through it."""

    ask, post, start_post = harness.Daemon.ask, harness.Daemon.post, harness.Daemon.start_post

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="settled-test-")
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]

    def write(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def close(self):
        self.listener.close()
        shutil.rmtree(self.dir)


NGINX = """
daemon off;
worker_processes 1;
{user}pid {dir}/pid;
error_log {dir}/error.log info;
events {{ worker_connections 512; }}
http {{
  access_log {dir}/access.log;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  include {dir}/site.conf;
}}
"""


class Nginx(Front):
    """In front of the daemons at `addresses`. Its listening socket is inherited,
    so that the kernel has chosen its port."""

    def __init__(self, *addresses):
        super().__init__()
        servers = " ".join(f"server {address};" for address in addresses)
        self.write("site.conf", filled("nginx.conf", {
            "server 127.0.0.1:8080;": servers, "listen 80;": f"listen 127.0.0.1:{self.port};"}))
        user = "user root;\n" if os.geteuid() == 0 else ""
        config = self.write("nginx.conf", NGINX.format(dir=self.dir, user=user))
        self.log = os.path.join(self.dir, "error.log")
        fd = self.listener.fileno()
        self.child = subprocess.Popen(["nginx", "-p", self.dir, "-c", config, "-e", self.log], stdin=subprocess.DEVNULL,
                                      pass_fds=[fd], env={"PATH": os.environ["PATH"], "NGINX": f"{fd};"})

    def stop(self):
        self.child.terminate()
        status = self.child.wait(harness.LIMIT_S)
        with open(self.log, encoding="utf-8") as f:
            faults = [line for line in f if "[alert]" in line or "[emerg]" in line or "[crit]" in line]
        self.close()
        if status != 0 or faults:
            raise AssertionError(f"nginx ended with {status}:\n" + "".join(faults))


class Haproxy(Front):
    """In front of the daemons at two addresses, or at one. `inter`: between two looks at /readyz."""

    def __init__(self, *addresses, inter="20ms"):
        super().__init__()
        second = f"server two {addresses[1]}" if len(addresses) > 1 else ""
        config = self.write("haproxy.cfg", filled("haproxy.cfg", {
            "server one 10.0.0.1:8080": f"server one {addresses[0]}", "server two 10.0.0.2:8080": second,
            "bind :80": f"bind fd@{self.listener.fileno()}", "inter 1s": f"inter {inter}",
            # Who answers late is not away: else it were after two looks of this length.
            "timeout connect 5s": "timeout connect 5s\n    timeout check 1h",
            "option dontlognull": "option dontlog-normal"}))
        self.process = harness.Process(["haproxy", "-db", "-f", config], pass_fds=[self.listener.fileno()])

    def wait_up(self, name, start=0):
        """The next word of its log that this server takes requests."""
        self.process.wait_line(f"Server settled/{name} is UP", start)

    def lines(self):
        return self.process.mark()

    def stop(self):
        self.process.stop()
        self.close()
