"""Behaviours of HTTP/1.1, and bridges between its versions."""

import json
import subprocess
import time
import uuid

from mesh import Memory
from report import expect
from results import Result, Suite
from wire import Wire

TEXT = """
Requests written byte by byte, by curl and by Node (its http and http2), to programs in Node (its own http and http2) and in Python (aiohttp): through the
caller's proxy as an HTTP proxy in absolute form, and by a listener that leads to the service. A cell is `ok` if both
are. During bodies of 1 GiB no proxy and no gateway may grow by more than {most} MiB.
"""
SERVERS = {"node": "http-node", "aiohttp": "http-python", "node, HTTP/2": "http2-node"}
MOST_MEMORY = 16
GIB = 1 << 30


# What /hints says before it replies: status and fields.
HINTS = [
    [102, {}],
    [103, {"link": "</a.css>; rel=preload; as=style", "x-kept": "1"}],
    [103, {"link": "</b.js>; rel=preload; as=script, </c.woff>; rel=preload; as=font"}],
]


class Target:
    """One service, called in one way."""

    def __init__(self, mesh, server, service, entry):
        self.mesh, self.server, self.entry = mesh, server, entry
        self.host = f"{service}.test.mesh"
        self.address = mesh.outbound() if entry == "proxy" else mesh.listener(service)

    def wire(self):
        return Wire(self.address)

    def path(self, path):
        """What stands in the request line."""
        return f"http://{self.host}{path}" if self.entry == "proxy" else path

    def request(self, method, path, *fields, version="1.1"):
        lines = [f"{method} {self.path(path)} HTTP/{version}", f"host: {self.host}", *fields]
        return "\r\n".join(lines) + "\r\n\r\n"

    def curl(self, path, *options, stdin=None, prior_knowledge=False):
        """What curl prints; prior knowledge of HTTP/2 goes to the proxy as to a server."""
        if prior_knowledge:
            where = ["--http2-prior-knowledge", "-H", f"host: {self.host}", f"http://{self.address}{path}"]
        elif self.entry == "proxy":
            where = ["-x", f"http://{self.address}", f"http://{self.host}{path}"]
        else:
            where = [f"http://{self.address}{path}"]
        command = ["curl", "-sS", "--fail-with-body", "--max-time", "100", *options, *where]
        done = subprocess.run(command, stdin=stdin, capture_output=True, timeout=120)
        if done.returncode != 0:
            raise AssertionError(f"curl exits {done.returncode}: {done.stderr[-300:].decode()}")
        return done.stdout


    def node(self, program, *arguments):
        """What one of Node's clients has seen, as it tells it."""
        command = [str(self.mesh.serve), program, self.address, self.host, self.entry, *arguments]
        done = subprocess.run(command, env=self.mesh.environment, capture_output=True, timeout=60)
        if done.returncode != 0:
            raise AssertionError(f"{program} exits {done.returncode}: {done.stderr[-300:].decode()}")
        return json.loads(done.stdout)


def keep_alive(target):
    with target.wire() as wire:
        for _ in range(3):
            wire.send(target.request("GET", "/bytes/5"))
            expect((200, b"xxxxx"), wire.reply(), "reply")


def pipelining(target):
    with target.wire() as wire:
        paths = ["/bytes/1", "/bytes/22", "/hello", "/bytes/333"]
        wire.send("".join(target.request("GET", path) for path in paths))
        replies = [wire.reply() for _ in paths]
        bodies = [b"x", b"x" * 22, b"hello\n", b"x" * 333]
        expect([(200, body) for body in bodies], replies, "replies")


def chunked_both_ways(target):
    with target.wire() as wire:
        wire.send(target.request("POST", "/echo", "transfer-encoding: chunked", "trailer: x-sum"))
        wire.send("5;extension=1\r\nhello\r\n")
        wire.send("6\r\n world\r\n0\r\nx-sum: eleven\r\n\r\n")
        _, status, fields = wire.head()
        body, trailers = wire.body(fields)
        expect((200, b"hello world"), (status, body), "reply")
        if target.server != "aiohttp":
            expect("eleven", trailers.get("x-sum"), "trailer that came back")
        wire.send(target.request("GET", "/bytes/1"))
        expect((200, b"x"), wire.reply(), "the next reply")


def expect_continue(target):
    with target.wire() as wire:
        fields = ("expect: 100-continue", "content-length: 3000000")
        wire.send(target.request("POST", "/size", *fields))
        expect(100, wire.head()[1], "interim status")
        wire.send(b"x" * 3_000_000)
        expect((200, b"3000000\n"), wire.reply(), "reply")


def expect_refused(target):
    """The program says no before any of the body, and nobody asks for it."""
    for path, status in (("/refuse", 413), ("/fail", 417)):
        with target.wire() as wire:
            fields = ("expect: 100-continue", "content-length: 3000000")
            wire.send(target.request("POST", path, *fields))
            expect(status, wire.head()[1], f"first status of {path}")


def early_reply(target):
    with target.wire() as wire:
        wire.send(target.request("POST", "/early", "content-length: 100000000"))
        wire.send(b"x" * 100_000)
        expect((200, b"enough\n"), wire.reply(), "reply while the upload runs")


def both_ways_at_once(target):
    """The client reads nothing of the reply until it has sent all of its body."""
    size = 40_000_000
    with target.wire() as wire:
        wire.send(target.request("POST", f"/both/{size}", f"content-length: {size}"))
        for _ in range(size // 1_000_000):
            wire.send(b"x" * 1_000_000)
        status, body = wire.reply()
        expect((200, size), (status, len(body)), "reply")


def upload_refused_early(target):
    """The program answers 413 to a body that it does not read."""
    with target.wire() as wire:
        wire.send(target.request("POST", "/refuse", "content-length: 100000000"))
        wire.send(b"x" * 100_000)
        expect((413, b"no\n"), wire.reply(), "reply while the upload runs")


def bodiless_replies(target):
    with target.wire() as wire:
        wire.send(target.request("HEAD", "/bytes/1000"))
        _, status, fields = wire.head()
        expect((200, "1000"), (status, fields.get("content-length")), "HEAD")
        for code in (204, 304):
            wire.send(target.request("GET", f"/status/{code}"))
            _, status, fields = wire.head()
            expect(code, status, "status")
            expect(None, fields.get("transfer-encoding"), "transfer-encoding")
            expect(True, fields.get("content-length") in (None, "0"), f"no length of {code}")
        wire.send(target.request("GET", "/bytes/1"))
        expect((200, b"x"), wire.reply(), "the next reply")


def http10(target):
    """Closed after the reply, which is not chunked."""
    for method, path, fields, body in (
        ("GET", "/bytes/5", (), b"xxxxx"),
        ("POST", "/echo", ("content-length: 5",), b"hello"),
    ):
        with target.wire() as wire:
            wire.send(target.request(method, path, *fields, version="1.0"))
            wire.send(b"hello" if method == "POST" else b"")
            _, status, fields = wire.head()
            expect((200, None), (status, fields.get("transfer-encoding")), "head")
            expect(body, wire.body(fields)[0], "body")
            expect(True, wire.has_ended(), "connection closed")


def http10_keep_alive(target):
    """Either kept, which has to be said, or closed."""
    with Wire(target.address, timeout=3) as wire:
        request = target.request("GET", "/bytes/5", "connection: keep-alive", version="1.0")
        wire.send(request)
        _, status, fields = wire.head()
        expect((200, b"xxxxx"), (status, wire.body(fields)[0]), "reply")
        if fields.get("connection", "").lower() != "keep-alive":
            expect(True, wire.has_ended(), "connection closed")
            return
        wire.send(request)
        expect((200, b"xxxxx"), wire.reply(), "the second reply")


def connection_close(target):
    with target.wire() as wire:
        wire.send(target.request("GET", "/bytes/5", "connection: close"))
        expect((200, b"xxxxx"), wire.reply(), "reply")
        expect(True, wire.has_ended(), "connection closed")


def what_the_program_sees(target):
    """Origin form, the host, its own version of HTTP, and nothing that was for the proxy."""
    with target.wire() as wire:
        fields = ("connection: x-hop", "x-hop: 1", "x-kept: 1", "proxy-connection: keep-alive")
        wire.send(target.request("GET", "/head?a=b", *fields))
        status, body = wire.reply()
    expect(200, status, "status")
    seen = json.loads(body)
    version = "2.0" if "HTTP/2" in target.server else "1.1"
    expect(("GET", "/head?a=b", version), (seen["method"], seen["url"], seen["httpVersion"]), "line")
    headers = seen["headers"]
    host = headers.get("host", headers.get(":authority"))
    expect((target.host, "1"), (host, headers.get("x-kept")), "host, and field that is kept")
    for name in ("x-hop", "proxy-connection"):
        expect(None, headers.get(name), name)


def ambiguous_length(target):
    """Length and chunks at once, and two lengths: refused, and nothing read as another request."""
    for fields in (
        ("content-length: 6", "transfer-encoding: chunked"),
        ("content-length: 6", "content-length: 7"),
    ):
        with target.wire() as wire:
            wire.send(target.request("POST", "/echo", *fields) + "0\r\n\r\nGET /hello HTTP/1.1\r\n\r\n")
            expect(400, wire.head()[1], str(fields))


def gone_before_the_reply(target):
    left_alone(target, "wait", lambda wire: None)


def gone_within_the_reply(target):
    left_alone(target, "drip", lambda wire: expect(200, wire.head()[1], "status"))


def left_alone(target, path, before):
    """The program hears that its caller has gone, and not only when it writes."""
    name = uuid.uuid4().hex
    with target.wire() as wire:
        wire.send(target.request("GET", f"/{path}/{name}"))
        before(wire)
    until = time.monotonic() + 5
    with target.wire() as wire:
        while True:
            wire.send(target.request("GET", f"/gone/{name}"))
            if wire.reply() == (200, b"yes\n"):
                return
            if time.monotonic() > until:
                raise AssertionError("the program has not heard of it after 5 s")
            time.sleep(0.02)


def early_hints(target):
    hinted(target, "http1")


def early_hints_http2_client(target):
    hinted(target, "http2")


def hinted(target, version):
    """The client has the hints (RFC 8297) while the program still waits to be told that it may reply."""
    seen = target.node("http/client_hints.js", version, uuid.uuid4().hex)
    expect(HINTS, seen["hints"], "what came before the reply")
    expect((200, "after the hints\n"), (seen["status"], seen["body"]), "reply")


def http2_client(target):
    written = target.curl("/head", "-w", "\n%{http_version}", prior_knowledge=True).decode()
    seen, version = written.rsplit("\n", 1)
    expect("2", version, "version that curl speaks")
    wanted = "2.0" if "HTTP/2" in target.server else "1.1"
    expect(wanted, json.loads(seen)["httpVersion"], "version that the program speaks")
    data = "0123456789abcdef" * (1 << 16)
    echoed = target.curl("/echo", "--data-binary", "@-", stdin=pipe(data), prior_knowledge=True)
    expect(len(data), len(echoed), "size of the echo")


def pipe(data):
    """A file that holds the data and no name."""
    import tempfile

    file = tempfile.TemporaryFile()
    file.write(data.encode())
    file.seek(0)
    return file


def download_of_1_gib(target):
    options = ("-o", "/dev/null", "-w", "%{size_download}")
    return watched(target, lambda: expect(str(GIB), target.curl(f"/bytes/{GIB}", *options).decode(), "size"))


def upload_of_1_gib(target):
    def upload():
        zeros = subprocess.Popen(["head", "-c", str(GIB), "/dev/zero"], stdout=subprocess.PIPE)
        with zeros:
            got = target.curl("/size", "-T", "-", "-X", "POST", stdin=zeros.stdout)
        expect(f"{GIB}\n".encode(), got, "size that the program saw")

    return watched(target, upload)


def watched(target, transfer):
    with Memory(target.mesh.proxies()) as memory:
        transfer()
    grown = memory.most >> 20
    if grown > MOST_MEMORY:
        raise AssertionError(f"a proxy grew by {grown} MiB")
    return f"a proxy grew by at most {grown} MiB"


CASES = [
    keep_alive, pipelining, chunked_both_ways, expect_continue, expect_refused, early_reply,
    both_ways_at_once, upload_refused_early, bodiless_replies, http10, http10_keep_alive, connection_close,
    what_the_program_sees, ambiguous_length, gone_before_the_reply, gone_within_the_reply,
    early_hints, early_hints_http2_client, http2_client, download_of_1_gib, upload_of_1_gib,
]


def run(mesh, versions):
    names = ("curl", "python", "node", "aiohttp")
    text = TEXT.format(most=MOST_MEMORY)
    suite = Suite("http", "HTTP/1.1 and bridges", text, [f"{name} {versions[name]}" for name in names])
    for place, suffix in (("within", ""), ("across", "-east")):
        for server, service in SERVERS.items():
            for entry in ("proxy", "listener"):
                target = Target(mesh, server, service + suffix, entry)
                for case in CASES:
                    if entry == "listener" and case in (download_of_1_gib, upload_of_1_gib):
                        continue
                    suite.add(one(case, target, server, place, entry))
    return suite


def one(case, target, server, place, entry):
    result = Result(case.__name__, server, place, entry)
    try:
        result.note = case(target) or ""
    except Exception as error:  # whatever it is, it is the case's result
        result.error = f"{type(error).__name__}: {error}"[:500]
    return result
