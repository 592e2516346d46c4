"""The same client as client_websockets.py over HTTP/2 (extended CONNECT, RFC 8441), with h2 and wsproto.

All that a case opens are streams of one connection. With http_proxy in the environment that goes there, and
only `:authority` names the target.
"""

import asyncio
import contextlib
import os
import sys
import uuid
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.settings import SettingCodes
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from report import expect, run_cases

MESSAGE = b"0123456789abcdef" * (1 << 16)


class Client:
    """One connection of HTTP/2."""

    def __init__(self, url):
        self.authority = urlsplit(url).netloc
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.sockets = {}
        self.settled = asyncio.get_running_loop().create_future()
        # Set whenever a window may have grown.
        self.room = asyncio.Event()

    async def __aenter__(self):
        where = urlsplit(os.environ.get("http_proxy", f"http://{self.authority}"))
        self.reader, self.writer = await asyncio.open_connection(where.hostname, where.port or 80)
        self.state.initiate_connection()
        self.flush()
        self.listening = asyncio.create_task(self.listen())
        await asyncio.wait_for(self.settled, 20)
        # RFC 8441 section 3: before that is said nobody may ask.
        offered = self.state.remote_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL)
        expect(1, offered, "SETTINGS_ENABLE_CONNECT_PROTOCOL")
        return self

    async def __aexit__(self, *_):
        self.listening.cancel()
        self.writer.close()

    def flush(self):
        self.writer.write(self.state.data_to_send())

    async def listen(self):
        try:
            while data := await self.reader.read(1 << 16):
                for event in self.state.receive_data(data):
                    self.on_event(event)
                self.flush()
            why = "the connection ended"
        except Exception as error:  # what it hears is not HTTP/2 or not WebSocket
            why = f"the connection: {error!r}"
        for socket in self.sockets.values():
            socket.on_end(why)

    def on_event(self, event):
        socket = self.sockets.get(getattr(event, "stream_id", None))
        match event:
            case h2.events.RemoteSettingsChanged() if not self.settled.done():
                self.settled.set_result(None)
            case h2.events.ResponseReceived():
                socket.head.set_result(dict(event.headers))
            case h2.events.DataReceived():
                if event.data:  # the end of a stream may come in a frame without
                    socket.on_data(event.data)
                length = event.flow_controlled_length
                self.state.acknowledge_received_data(length, event.stream_id)
            case h2.events.StreamEnded():
                socket.on_end("the stream ended")
            case h2.events.StreamReset():
                socket.on_end(f"the stream was reset: {event.error_code}")
        self.room.set()

    @contextlib.asynccontextmanager
    async def open(self, path, protocols=(), extension=None):
        stream = self.state.get_next_available_stream_id()
        socket = self.sockets[stream] = Socket(self, stream)
        head = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", self.authority),
            (":path", path),
            ("sec-websocket-version", "13"),
        ]
        if protocols:
            head.append(("sec-websocket-protocol", ", ".join(protocols)))
        if extension:
            head.append(("sec-websocket-extensions", f"{extension.name}; {extension.offer()}"))
        self.state.send_headers(stream, head)
        self.flush()
        await socket.agree(extension)
        yield socket
        await socket.close()


class Refused(Exception):
    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status = status


class Socket:
    """A WebSocket on a stream."""

    def __init__(self, client, stream):
        self.client, self.stream = client, stream
        self.head = asyncio.get_running_loop().create_future()
        # Messages as (data), pongs as (Pong), and last what ended it.
        self.inbox = asyncio.Queue()
        self.machine, self.early, self.parts = None, [], []
        self.closing = None

    async def agree(self, extension):
        head = await asyncio.wait_for(self.head, 20)
        if head[":status"] != "200":
            raise Refused(int(head[":status"]))
        for name in ("sec-websocket-accept", "upgrade", "connection"):
            expect(None, head.get(name), f"{name} over HTTP/2")
        self.protocol = head.get("sec-websocket-protocol")
        agreed = head.get("sec-websocket-extensions")
        if extension and agreed:
            extension.finalize(agreed)
        self.extensions = [extension] if agreed else []
        self.machine = Connection(ConnectionType.CLIENT, self.extensions)
        for data in self.early:
            self.on_data(data)

    def on_data(self, data):
        if self.machine is None:
            self.early.append(data)
            return
        self.machine.receive_data(data)
        for event in self.machine.events():
            match event:
                case Message():
                    self.parts.append(event.data)
                    if event.message_finished:
                        empty = "" if isinstance(event, TextMessage) else b""
                        self.inbox.put_nowait(empty.join(self.parts))
                        self.parts = []
                case Pong():
                    self.inbox.put_nowait(event)
                case CloseConnection():
                    self.closing = event
                    self.inbox.put_nowait(event)

    def on_end(self, why):
        if not self.head.done():
            self.head.set_exception(AssertionError(why))
        self.inbox.put_nowait(AssertionError(why))

    async def receive(self):
        got = await asyncio.wait_for(self.inbox.get(), 30)
        if isinstance(got, AssertionError):
            raise got
        return got

    async def send(self, event):
        await self.write(self.machine.send(event))

    async def write(self, data):
        state = self.client.state
        while data:
            size = min(
                len(data), state.local_flow_control_window(self.stream), state.max_outbound_frame_size
            )
            if size == 0:
                self.client.room.clear()
                await asyncio.wait_for(self.client.room.wait(), 30)
                continue
            state.send_data(self.stream, bytes(data[:size]))
            data = data[size:]
            self.client.flush()
            await self.client.writer.drain()

    async def close(self, code=1000, reason=None):
        """Says it, hears it, and ends its half of the stream."""
        if self.closing is None:
            await self.send(CloseConnection(code=code, reason=reason))
            while self.closing is None:
                await self.receive()
        elif self.machine.state.name == "REMOTE_CLOSING":
            await self.send(self.closing.response())
        with contextlib.suppress(h2.exceptions.ProtocolError):  # the other one has reset it
            self.client.state.end_stream(self.stream)
        self.client.flush()


async def echo(socket, message):
    kind = TextMessage if isinstance(message, str) else BytesMessage
    await socket.send(kind(data=message))
    expect(message, await socket.receive(), "echo")


async def echo_text(client):
    async with client.open("/echo") as socket:
        for text in ("hello", "", "küche ☺ 😈"):
            await echo(socket, text)


async def echo_binary(client):
    async with client.open("/echo") as socket:
        await echo(socket, bytes([0, 1, 2, 255, 254]))


async def large_fragmented(client):
    async with client.open("/echo") as socket:
        for at in range(0, len(MESSAGE), 16384):
            is_last = at + 16384 == len(MESSAGE)
            part = BytesMessage(data=MESSAGE[at : at + 16384], message_finished=is_last)
            await socket.send(part)
        if await socket.receive() != MESSAGE:
            raise AssertionError("another message came back")


async def ping_pong(client):
    async with client.open("/echo") as socket:
        await socket.send(Ping(payload=b"are you there"))
        expect(Pong(payload=b"are you there"), await socket.receive(), "pong")
        await echo(socket, "after")


async def close_by_client(client):
    name = uuid.uuid4().hex
    async with client.open(f"/code/{name}") as socket:
        await socket.close(4001, "enough")
    for _ in range(200):
        async with client.open(f"/codes/{name}") as socket:
            code = await socket.receive()
        if code != "none":
            break
        await asyncio.sleep(0.02)
    expect("4001", code, "the code that the server saw")


async def close_by_server(client):
    async with client.open("/close/4321") as socket:
        await socket.send(TextMessage(data="go"))
        closed = await socket.receive()
        expect(CloseConnection(code=4321, reason="as asked"), closed, "close")


async def subprotocol(client):
    async with client.open("/protocol", ["first", "second"]) as socket:
        expect("second", socket.protocol, "subprotocol")


async def permessage_deflate(client):
    async with client.open("/echo", extension=PerMessageDeflate()) as socket:
        expect(["permessage-deflate"], [each.name for each in socket.extensions], "extensions")
        await echo(socket, "again and " * 10000)


async def two_hundred(client):
    async with contextlib.AsyncExitStack() as stack:
        opened = [stack.enter_async_context(client.open("/echo")) for _ in range(200)]
        sockets = await asyncio.gather(*opened)
        await asyncio.gather(*[echo(each, str(number)) for number, each in enumerate(sockets)])


async def refused(client):
    try:
        async with client.open("/refuse"):
            raise AssertionError("it was accepted")
    except Refused as answer:
        expect(403, answer.status, "status")


def main():
    url, asked = sys.argv[1:]
    names = asked.split(",")

    async def run(case):
        async with Client(url) as client:
            await case(client)

    cases = {name: lambda case=globals()[name]: asyncio.run(run(case)) for name in names}
    run_cases(cases, names)


if __name__ == "__main__":
    main()
