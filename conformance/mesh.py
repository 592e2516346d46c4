"""A mesh of two clusters for as long as it is needed, and what its processes use of memory."""

import os
import pathlib
import subprocess
import threading
import time

import programs


class Mesh:
    def __init__(self, isthmus, build, state):
        self.isthmus = pathlib.Path(isthmus).resolve()
        self.build = pathlib.Path(build)
        # Starts a foreign program, client or server.
        self.serve = programs.HERE / "serve"
        self.folder = self.build / state / "files"
        self.home = self.build / state / "home"
        self.environment = dict(os.environ, ISTHMUS_HOME=str(self.home), CONFORMANCE_BUILD=str(build))
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "no_proxy", "NO_PROXY"):
            self.environment.pop(name, None)

    def __enter__(self):
        programs.write(self.folder)
        self.run("down", "--purge", "--yes", check=False)
        try:
            self.run("up", "-f", str(self.folder), "--detach", timeout=180)
            self.caller = self.find_caller()
        except BaseException:
            self.run("down", check=False)
            raise
        return self

    def __exit__(self, *_):
        self.run("down", check=False)

    def run(self, *arguments, check=True, timeout=60):
        command = [str(self.isthmus), *arguments]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    def find_caller(self):
        """The address of the proxy through which everything is called."""
        for file in self.home.glob("clusters/west/**/*.yaml"):
            text = file.read_text()
            if "test/caller" in text:
                return next(
                    line.split()[1].strip('"')
                    for line in text.splitlines()
                    if line.startswith("address:")
                )
        raise RuntimeError(f"no process of {self.home} is the caller")

    def outbound(self):
        return f"{self.caller}:15001"

    def listener(self, service):
        return f"{self.caller}:{programs.listener_port(service)}"

    def proxies(self):
        """Ids of the processes that carry traffic: `isthmus run` and `isthmus gateway`."""
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            of_ours = words[0] == bytes(self.isthmus) or words[0].endswith(b"/isthmus")
            names_home = any(bytes(self.home) in word for word in words)
            if of_ours and names_home and (b"run" in words or b"gateway" in words):
                yield int(entry.name)


def resident(process):
    """Bytes of memory that a process holds; 0 once it is gone."""
    try:
        text = pathlib.Path(f"/proc/{process}/statm").read_text()
    except OSError:
        return 0
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Memory:
    """By how much the process that grows most has grown, between `with` and its end."""

    def __init__(self, processes):
        self.before = {process: resident(process) for process in processes}
        self.most = 0

    def __enter__(self):
        if not self.before:
            raise RuntimeError("no proxies to watch")
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def watch(self):
        while not self.done.wait(0.05):
            for process, before in self.before.items():
                self.most = max(self.most, resident(process) - before)
