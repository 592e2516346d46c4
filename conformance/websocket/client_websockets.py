"""A WebSocket client with the package websockets: client_websockets.py URL CASE,...

With http_proxy in the environment the target is asked for by CONNECT.
"""

import asyncio
import os
import sys
import uuid

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from report import expect, run_cases

MESSAGE = b"0123456789abcdef" * (1 << 16)


def open_at(url, **options):
    # The environment's proxy is for http:; a ws: target is asked for in the same way.
    proxy = os.environ.get("http_proxy")
    options.setdefault("compression", None)
    return connect(url, proxy=proxy, max_size=1 << 24, open_timeout=20, **options)


async def receive(socket):
    return await asyncio.wait_for(socket.recv(), 30)


async def echo(socket, message):
    await socket.send(message)
    expect(message, await receive(socket), "echo")


async def echo_text(url):
    async with open_at(url + "/echo") as socket:
        for text in ("hello", "", "küche ☺ 😈"):
            await echo(socket, text)


async def echo_binary(url):
    async with open_at(url + "/echo") as socket:
        await echo(socket, bytes([0, 1, 2, 255, 254]))


async def large_fragmented(url):
    async with open_at(url + "/echo") as socket:
        await socket.send(MESSAGE[at : at + 16384] for at in range(0, len(MESSAGE), 16384))
        if await receive(socket) != MESSAGE:
            raise AssertionError("another message came back")


async def ping_pong(url):
    async with open_at(url + "/echo") as socket:
        pong = await socket.ping(b"are you there")
        await asyncio.wait_for(pong, 10)
        await echo(socket, "after")


async def close_by_client(url):
    name = uuid.uuid4().hex
    async with open_at(f"{url}/code/{name}") as socket:
        await socket.close(4001, "enough")
    for _ in range(200):
        async with open_at(f"{url}/codes/{name}") as socket:
            code = await receive(socket)
        if code != "none":
            break
        await asyncio.sleep(0.02)
    expect("4001", code, "the code that the server saw")


async def close_by_server(url):
    async with open_at(f"{url}/close/4321") as socket:
        await socket.send("go")
        try:
            await receive(socket)
        except ConnectionClosed as closed:
            expect((4321, "as asked"), (closed.rcvd.code, closed.rcvd.reason), "close")
        else:
            raise AssertionError("it was not closed")


async def subprotocol(url):
    async with open_at(url + "/protocol", subprotocols=["first", "second"]) as socket:
        expect("second", socket.subprotocol, "subprotocol")


async def permessage_deflate(url):
    async with open_at(url + "/echo", compression="deflate") as socket:
        agreed = [extension.name for extension in socket.protocol.extensions]
        expect(["permessage-deflate"], agreed, "extensions")
        await echo(socket, "again and " * 10000)


async def two_hundred(url):
    sockets = await asyncio.gather(*[open_at(url + "/echo") for _ in range(200)])
    await asyncio.gather(*[echo(socket, str(number)) for number, socket in enumerate(sockets)])
    await asyncio.gather(*[socket.close() for socket in sockets])


async def refused(url):
    try:
        async with open_at(url + "/refuse"):
            raise AssertionError("it was accepted")
    except InvalidStatus as answer:
        expect(403, answer.response.status_code, "status")


def main():
    url, asked = sys.argv[1:]
    names = asked.split(",")
    cases = {name: lambda url, case=globals()[name]: asyncio.run(case(url)) for name in names}
    run_cases(cases, names, url)


if __name__ == "__main__":
    main()
