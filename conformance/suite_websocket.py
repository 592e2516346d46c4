"""WebSocket: every client against every server."""

import subprocess

from results import Suite

TEXT = """
Clients and servers of foreign implementations of WebSocket (RFC 6455): the Python packages websockets and aiohttp,
ws of Node, and gorilla/websocket of Go. Two of them are over HTTP/2 (RFC 8441, extended CONNECT): as client the Python
packages h2 and wsproto, which open all of a case as streams of one connection, and as server ws on Node's http2,
which takes nothing else; so every bridge between the versions is there. Each pair runs in two ways into the caller's
proxy: through it as the HTTP proxy that `http_proxy` names (by CONNECT; aiohttp asks in absolute form, h2 by
`:authority`), and by a listener that leads to the service. A cell is `ok` if both are. `-`: gorilla does not accept how
aiohttp agrees to permessage-deflate, without a mesh either.
"""
CLIENTS = {
    "websockets": ["websocket/client_websockets.py"],
    "aiohttp": ["websocket/client_aiohttp.py"],
    "ws": ["websocket/client.js"],
    "gorilla": ["bin/websocket"],
    "wsproto (HTTP/2)": ["websocket/client_http2.py"],
}
SERVERS = {
    "websockets": "ws-python",
    "aiohttp": "ws-aiohttp",
    "ws": "ws-node",
    "gorilla": "ws-go",
    "ws (HTTP/2)": "ws-http2-node",
}
CASES = """
    echo_text echo_binary large_fragmented ping_pong close_by_client close_by_server subprotocol
    permessage_deflate two_hundred refused
""".split()
NOT_EVEN_DIRECTLY = {("gorilla", "aiohttp"): ["permessage_deflate"]}


def run(mesh, versions):
    names = ("python", "node", "go", "websockets", "aiohttp", "ws", "gorilla/websocket", "h2", "wsproto")
    suite = Suite("websocket", "WebSocket", TEXT, [f"{name} {versions[name]}" for name in names])
    for place, suffix in (("within", ""), ("across", "-east")):
        for server, service in SERVERS.items():
            for client, command in CLIENTS.items():
                without = NOT_EVEN_DIRECTLY.get((client, server), [])
                cases = [case for case in CASES if case not in without]
                for entry in ("proxy", "listener"):
                    output, ended = call(mesh, command, service + suffix, entry, cases)
                    column = f"{client} to {server}"
                    suite.add_lines(cases, output, column, place, entry, ended)
    return suite


def call(mesh, program, service, entry, cases):
    environment = dict(mesh.environment)
    url = f"ws://{service}.test.mesh"
    if entry == "proxy":
        environment["http_proxy"] = f"http://{mesh.outbound()}"
    else:
        url = f"ws://{mesh.listener(service)}"
    # The Go program is told what it is.
    what = ["client"] if program == CLIENTS["gorilla"] else []
    command = [str(mesh.serve), *program, url, *what, ",".join(cases)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired as expired:
        return (expired.stdout or b"").decode(), "the client has not ended after 120 s"
    return done.stdout, f"exit {done.returncode} {done.stderr[-300:]}"
