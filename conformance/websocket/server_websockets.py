"""A WebSocket server with the package websockets: server_websockets.py ADDRESS:PORT

/echo echoes, /pings answers with the payloads of the pings that it has seen, /close/CODE closes with a code
after the first message, /code/NAME tells by the next connection to /codes how that of NAME was closed,
/protocol chooses subprotocol `second`, /refuse answers 403.
"""

import asyncio
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

codes = {}


def refuse(connection, request):
    if request.path == "/refuse":
        return connection.respond(403, "no\n")
    return None


def choose(connection, offered):
    return "second" if "second" in offered else None


async def talk(connection):
    path = connection.request.path
    if path.startswith("/codes/"):
        await connection.send(str(codes.get(path.removeprefix("/codes/"), "none")))
        return
    try:
        async for message in connection:
            if path.startswith("/close/"):
                await connection.close(int(path.removeprefix("/close/")), "as asked")
                return
            await connection.send(message)
    except ConnectionClosed:
        pass
    finally:
        if path.startswith("/code/"):
            await connection.wait_closed()
            codes[path.removeprefix("/code/")] = connection.close_code


async def main():
    address, port = sys.argv[1].rsplit(":", 1)
    options = {"process_request": refuse, "select_subprotocol": choose, "max_size": 1 << 24}
    async with serve(talk, address, int(port), subprotocols=["second"], **options):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
