"""HTTP/1.1 as bytes on a socket, for what no client library would send."""

import socket


class Wire:
    def __init__(self, address, timeout=20):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout)
        self.input = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.input.close()
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data.encode() if isinstance(data, str) else data)

    def head(self):
        """Status line and fields of a reply: (version, status, fields)."""
        line = self.input.readline().decode().split(" ", 2)
        if len(line) < 2:
            raise AssertionError(f"no status line but {line}")
        return line[0], int(line[1]), self.fields()

    def fields(self):
        found = {}
        for line in iter(self.input.readline, b"\r\n"):
            if not line:
                raise AssertionError("the connection ended within the fields")
            name, _, value = line.decode().partition(":")
            found[name.lower()] = value.strip()
        return found

    def body(self, fields):
        """The body that the fields announce, and its trailers."""
        if "content-length" in fields:
            return self.input.read(int(fields["content-length"])), {}
        if fields.get("transfer-encoding") != "chunked":
            return self.input.read(), {}
        parts = []
        while size := int(self.input.readline().split(b";")[0], 16):
            parts.append(self.input.read(size))
            self.input.readline()
        return b"".join(parts), self.fields()

    def reply(self):
        _, status, fields = self.head()
        body, _ = self.body(fields)
        return status, body

    def has_ended(self):
        return self.input.read(1) == b""
