"""The same client as client_websockets.py, with aiohttp, which asks a proxy in absolute form."""

import asyncio
import os
import sys
import uuid

import aiohttp

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from report import expect, run_cases

MESSAGE = b"0123456789abcdef" * (1 << 16)


class Client:
    def __init__(self, session, url):
        self.session, self.url = session, url

    def open(self, path, **options):
        proxy = os.environ.get("http_proxy")
        options.setdefault("compress", 0)
        return self.session.ws_connect(self.url + path, proxy=proxy, max_msg_size=1 << 24, **options)


async def receive(socket):
    return await asyncio.wait_for(socket.receive(), 30)


async def echo(socket, message):
    if isinstance(message, str):
        await socket.send_str(message)
    else:
        await socket.send_bytes(message)
    got = await receive(socket)
    if got.data != message:
        raise AssertionError(f"another message came back: {got.type} {str(got.data)[:100]}")


async def echo_text(client):
    async with client.open("/echo") as socket:
        for text in ("hello", "", "küche ☺ 😈"):
            await echo(socket, text)


async def echo_binary(client):
    async with client.open("/echo") as socket:
        await echo(socket, bytes([0, 1, 2, 255, 254]))


async def large_fragmented(client):
    """aiohttp sends a message as one frame."""
    async with client.open("/echo") as socket:
        await echo(socket, MESSAGE)


async def ping_pong(client):
    async with client.open("/echo", autoping=False) as socket:
        await socket.ping(b"are you there")
        got = await receive(socket)
        expect((aiohttp.WSMsgType.PONG, b"are you there"), (got.type, bytes(got.data)), "pong")


async def close_by_client(client):
    name = uuid.uuid4().hex
    async with client.open(f"/code/{name}") as socket:
        await socket.close(code=4001, message=b"enough")
    for _ in range(200):
        async with client.open(f"/codes/{name}") as socket:
            code = (await receive(socket)).data
        if code != "none":
            break
        await asyncio.sleep(0.02)
    expect("4001", code, "the code that the server saw")


async def close_by_server(client):
    async with client.open("/close/4321") as socket:
        await socket.send_str("go")
        got = await receive(socket)
        expect((aiohttp.WSMsgType.CLOSE, 4321, "as asked"), (got.type, got.data, got.extra), "close")


async def subprotocol(client):
    async with client.open("/protocol", protocols=("first", "second")) as socket:
        expect("second", socket.protocol, "subprotocol")


async def permessage_deflate(client):
    async with client.open("/echo", compress=15) as socket:
        if not socket.compress:
            raise AssertionError("permessage-deflate was not agreed on")
        await echo(socket, "again and " * 10000)


async def two_hundred(client):
    sockets = await asyncio.gather(*[client.open("/echo") for _ in range(200)])
    await asyncio.gather(*[echo(socket, str(number)) for number, socket in enumerate(sockets)])
    await asyncio.gather(*[socket.close() for socket in sockets])


async def refused(client):
    try:
        async with client.open("/refuse"):
            raise AssertionError("it was accepted")
    except aiohttp.WSServerHandshakeError as answer:
        expect(403, answer.status, "status")


async def run_one(case, url):
    connector = aiohttp.TCPConnector(limit=0)
    # Only the proxy resolves names of the mesh.
    async with aiohttp.ClientSession(connector=connector) as session:
        await case(Client(session, url))


def main():
    url, asked = sys.argv[1:]
    names = asked.split(",")
    cases = {name: lambda url, case=globals()[name]: asyncio.run(run_one(case, url)) for name in names}
    run_cases(cases, names, url.replace("ws:", "http:"))


if __name__ == "__main__":
    main()
