"""The foreign programs that are called, and the resources and `up.yaml` that bring them into a mesh.

Each runs twice: as service NAME in the cluster of the callers, and as NAME-east in the other one.
"""

import os
import pathlib

HERE = pathlib.Path(__file__).resolve().parent

# Name: what it speaks, and what starts it (see `serve`).
PROGRAMS = {
    "grpc-python": ("grpc", ["grpc/server.py"]),
    "grpc-node": ("grpc", ["grpc/server.js"]),
    "ws-python": ("http", ["websocket/server_websockets.py"]),
    "ws-aiohttp": ("http", ["websocket/server_aiohttp.py"]),
    "ws-node": ("http", ["websocket/server.js"]),
    "ws-go": ("http", ["bin/websocket", "server"]),
    "ws-http2-node": ("http2", ["websocket/server.js", "http2"]),
    "http-node": ("http", ["http/server.js"]),
    "http-python": ("http", ["http/server_aiohttp.py"]),
    "http2-node": ("http2", ["http/server.js", "http2"]),
}
PLACES = {"within": "", "across": "-east"}
# Listeners of the caller, each leading to one service, have the ports from here on.
FIRST_LISTENER = 16000


# Those that the suites need; the others are not started.
selected = list(PROGRAMS)


def select(suites):
    """Leaves out what none of the suites calls."""
    beginnings = {"grpc": "grpc-", "websocket": "ws-", "h2spec": "http", "http": "http"}
    wanted = tuple(beginnings[suite] for suite in suites)
    selected[:] = [name for name in PROGRAMS if name.startswith(wanted)]


def services():
    """(service, name of the program, cluster, port of the caller's listener), in a fixed order."""
    names = [(name, place) for place in PLACES for name in selected]
    for number, (name, place) in enumerate(names):
        cluster = "east" if PLACES[place] else "west"
        yield name + PLACES[place], name, cluster, FIRST_LISTENER + number


def listener_port(service):
    return next(port for name, _, _, port in services() if name == service)


def resources():
    for service, program, _, _ in services():
        protocol, _ = PROGRAMS[program]
        yield f"""---
apiVersion: v1
kind: Service
metadata: {{name: {service}, namespace: test}}
spec: {{ports: [{{name: main, port: 80, targetPort: 8080, appProtocol: {protocol}}}]}}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {{name: {service}, namespace: test}}
"""


def up():
    lines = ["clusters:"]
    for cluster in ("west", "east"):
        lines += [f"  {cluster}:", "    gateways: 1", "    processes:"]
        for service, program, where, _ in services():
            if where == cluster:
                start, *arguments = PROGRAMS[program][1]
                command = ", ".join([str(HERE / "serve"), start, '"${ADDRESS}:${PORT}"', *arguments])
                lines += [f"    - {{service: test/{service}, port: 8080, command: [{command}]}}"]
        if cluster == "west":
            lines += [
                "    - name: caller",
                "      account: test/caller",
                "      command: [sleep, infinity]",
                "      listeners:",
            ]
            for service, _, _, port in services():
                lines += [f"      - {{listen: {port}, service: test/{service}, port: 80}}"]
    return "\n".join(lines) + "\n"


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mesh.yaml").write_text((HERE / "mesh/mesh.yaml").read_text())
    (folder / "services.yaml").write_text("".join(resources()))
    (folder / "up.yaml").write_text(up())
