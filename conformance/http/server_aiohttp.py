"""The same server as server.js, of HTTP/1.1 with aiohttp, which knows no trailers: server_aiohttp.py ADDRESS:PORT"""

import asyncio
import json
import sys

from aiohttp import web

CHUNK = b"x" * (1 << 16)


async def expects(request):
    """Decides before any of the body is there."""
    if request.path in ("/refuse", "/fail"):
        return await respond(request)
    if request.version == (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # What follows has a status line of its own.
        request.writer.output_size = 0
    return None


async def respond(request):
    what, _, value = request.path.lstrip("/").partition("/")
    route = ROUTES.get(what)
    return await route(request, value) if route else web.Response(text="hello\n")


async def echo(request, _):
    response = web.StreamResponse()
    await response.prepare(request)
    async for data in request.content.iter_any():
        await response.write(data)
    return response


async def size(request, _):
    count = 0
    async for data in request.content.iter_any():
        count += len(data)
    return web.Response(text=f"{count}\n")


async def head(request, _):
    found = {"method": request.method, "url": str(request.rel_url), "headers": {}}
    found["httpVersion"] = f"{request.version.major}.{request.version.minor}"
    found["headers"] = {name.lower(): value for name, value in request.headers.items()}
    return web.json_response(found)


async def send_bytes(request, count):
    left = int(count)
    response = web.StreamResponse(headers={"content-length": count})
    await response.prepare(request)
    while left > 0:
        part = CHUNK[:left]
        left -= len(part)
        await response.write(part)
    return response


async def status(request, code):
    headers = {"etag": '"a"'} if code == "304" else {}
    return web.Response(status=int(code), headers=headers)


async def early(request, _):
    return web.Response(text="enough\n")


async def refuse(request, _):
    return web.Response(status=413, text="no\n")


async def fail(request, _):
    return web.Response(status=417, text="no\n")


async def both(request, count):
    async def read():
        async for _ in request.content.iter_any():
            pass

    reading = asyncio.create_task(read())
    response = await send_bytes(request, count)
    await reading
    return response


left = set()


async def wait(request, name):
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        left.add(name)


async def drip(request, name):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"x")
    await wait(request, name)


async def gone(_, name):
    return web.Response(text="yes\n" if name in left else "no\n")


HINTS = (
    b"HTTP/1.1 102 Processing\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload; as=style\r\nx-kept: 1\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nlink: </b.js>; rel=preload; as=script, </c.woff>; rel=preload; as=font\r\n\r\n"
)
waiting = {}


async def hints(request, name):
    waiting[name] = asyncio.get_running_loop().create_future()
    # aiohttp has no call for them.
    await request.writer.write(HINTS)
    request.writer.output_size = 0
    await waiting[name]
    return web.Response(text="after the hints\n")


async def go(_, name):
    waiting.pop(name).set_result(None)
    return web.Response(text="gone\n")


ROUTES = {
    "echo": echo,
    "size": size,
    "head": head,
    "bytes": send_bytes,
    "status": status,
    "early": early,
    "refuse": refuse,
    "fail": fail,
    "wait": wait,
    "drip": drip,
    "gone": gone,
    "both": both,
    "hints": hints,
    "go": go,
}


def main():
    address, port = sys.argv[1].rsplit(":", 1)
    application = web.Application(client_max_size=1 << 32)
    application.router.add_route("*", "/{path:.*}", respond, expect_handler=expects)
    web.run_app(application, host=address, port=int(port), print=None, handler_cancellation=True)


main()
