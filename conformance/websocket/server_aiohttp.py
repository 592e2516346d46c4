"""The same server as server_websockets.py, with aiohttp."""

import sys

from aiohttp import WSMsgType, web

codes = {}


async def talk(request):
    path = request.path
    if path == "/refuse":
        return web.Response(status=403, text="no\n")
    protocols = ("second",) if path == "/protocol" else ()
    socket = web.WebSocketResponse(protocols=protocols, compress=True, max_msg_size=1 << 24)
    await socket.prepare(request)
    if path.startswith("/codes/"):
        await socket.send_str(str(codes.get(path.removeprefix("/codes/"), "none")))
        await socket.close()
        return socket
    async for message in socket:
        if path.startswith("/close/"):
            await socket.close(code=int(path.removeprefix("/close/")), message=b"as asked")
        elif message.type == WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    if path.startswith("/code/"):
        codes[path.removeprefix("/code/")] = socket.close_code
    return socket


def main():
    address, port = sys.argv[1].rsplit(":", 1)
    application = web.Application()
    application.router.add_get("/{path:.*}", talk)
    web.run_app(application, host=address, port=int(port), print=None)


main()
