"""The image of the Dockerfile, and containers of it, where no container engine
is: buildah builds it in a chroot over a base that debootstrap makes, and a
container is its tree, read-only, with namespaces and a user of its own."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile

import harness
import kit

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
# Within the build directory: nothing is kept from one clone to the next.
WORK = os.environ.get("DEPLOY_WORK", os.path.join(ROOT, "build", "tests", "deploy"))
BASE_NAME = "docker.io/library/debian:bookworm-slim"
MIRROR = "http://deb.debian.org/debian"
TOOLS = ("buildah", "debootstrap", "unshare", "nsenter", "setpriv", "ip")


def run(*argv, cwd=ROOT):
    """Its output; on failure all of it is in the error."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def base_tree():
    """Debian's smallest, made once for a build directory. What stands for debian:bookworm-slim."""
    tree = os.path.join(WORK, "base")
    if not os.path.isdir(tree):
        made = tempfile.mkdtemp(prefix="base-", dir=WORK)
        os.chmod(made, 0o755)
        run("debootstrap", "--variant=minbase", "bookworm", made, MIRROR)
        shutil.rmtree(os.path.join(made, "var/cache/apt/archives"))
        os.rename(made, tree)
    return tree


def tree_sizes(tree):
    """Bytes by path, of files and links."""
    sizes = {}
    for folder, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(folder, name)
            sizes[os.path.relpath(path, tree)] = os.lstat(path).st_size
    return sizes


class Image:
    """Built when it is made; `tree` is its file system, `config` what it says of itself."""

    def __init__(self):
        os.makedirs(WORK, exist_ok=True)
        self.base = base_tree()
        self.dir = os.path.join(WORK, "images")
        self.close()                     # what a run that was ended has left
        os.mkdir(self.dir)
        try:
            self.build()
        except AssertionError:
            self.close()
            raise

    def build(self):
        self.buildah("bud", "--quiet", "--tag", BASE_NAME, "--file", self.write("Base", "FROM scratch\nCOPY . /\n"), self.base)
        self.buildah("bud", "--quiet", "--pull-never", "--format", "docker", "--tag", "settled", ROOT)
        self.config = json.loads(self.buildah("inspect", "--type", "image", "settled"))["Docker"]["config"]
        self.tree = self.buildah("mount", self.buildah("from", "--pull-never", "settled"))

    def write(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def buildah(self, command, *args):
        isolation = ("--isolation", "chroot") if command in ("bud", "from") else ()
        return run("buildah", "--root", os.path.join(self.dir, "root"), "--runroot", os.path.join(self.dir, "run"),
                   "--storage-driver", "vfs", command, *isolation, *args).strip()

    def added_bytes(self):
        """What the image adds to its base: new files, and those that changed in size."""
        base = tree_sizes(self.base)
        return sum(size for path, size in tree_sizes(self.tree).items() if base.get(path) != size)

    def close(self):
        shutil.rmtree(self.dir, ignore_errors=True)


def own_network():
    """From here on this thread, what it starts and who they start have a loopback of
    their own, where every port is free."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    run("ip", "link", "set", "lo", "up")


# $1 tree, $2 volume, $3 an empty folder, $4 a configuration or nothing, $5 user:group; then the command.
# Nobody in there finds a shell, or any other program.
ENTER = """
mount --make-rprivate /
mount --bind "$1" "$1"
mount --bind "$2" "$1/var/lib/settled"
mount --bind "$3" "$1/usr/bin"
mount --bind "$3" "$1/usr/sbin"
if [ -n "$4" ]; then mount --bind "$4" "$1/etc/settled/settled.yaml"; fi
mount -t proc proc "$1/proc"
mount -o remount,bind,ro "$1"
tree=$1 user=$5
shift 5
exec setpriv --no-new-privs chroot --userspec="$user" --groups= "$tree" "$@"
"""


class Container(harness.Process):
    """Process 1 of namespaces of its own, on a read-only root. `config`: the text of
    a file to be mounted over the image's own."""

    ask, post, start_post = harness.Daemon.ask, harness.Daemon.post, harness.Daemon.start_post
    port = 8080

    def __init__(self, image, volume, env=None, config=None, user="65532:0"):
        self.image, self.user = image, user
        self.dir = tempfile.mkdtemp(prefix="settled-test-")
        os.chmod(self.dir, 0o755)
        os.mkdir(os.path.join(self.dir, "empty"))
        path = ""
        if config is not None:
            path = os.path.join(self.dir, "settled.yaml")
            with open(path, "w", encoding="utf-8") as f:
                f.write(config)
        self.env = {**dict(e.split("=", 1) for e in image.config["Env"]), **(env or {})}
        super().__init__(["env", "-i", *(f"{k}={v}" for k, v in {**self.env, "PATH": os.environ["PATH"]}.items()),
                          "unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "sh", "-ec", ENTER, "sh",
                          image.tree, volume, os.path.join(self.dir, "empty"), path, user, *image.config["Entrypoint"]])

    def wait_serving(self):
        self.wait_line('"event":"listening"|event=listening')

    @property
    def pid(self):
        """Of its process 1, seen from here."""
        with open(f"/proc/{self.child.pid}/task/{self.child.pid}/children", encoding="ascii") as f:
            return int(f.read())

    def inside(self, *argv):
        """As `docker exec` does it."""
        user, group = self.user.split(":")
        return subprocess.run(["nsenter", "--target", str(self.pid), "--mount", "--pid", "--root", "--wd", "--setuid", user,
                               "--setgid", group, *argv], env=self.env, capture_output=True, text=True,
                              timeout=harness.LIMIT_S, check=False)

    def end(self, number):
        """Send its process 1 a signal, as an engine does; its exit status."""
        os.kill(self.pid, number)
        status = self.child.wait(harness.LIMIT_S)
        self.close()
        return status

    def close(self):
        if not os.path.isdir(self.dir):
            return
        # Its process 1 does not end with unshare, whose child it is: a change of user undoes that.
        if self.child.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        super().stop()
        shutil.rmtree(self.dir)


def need():
    kit.need(*TOOLS)
