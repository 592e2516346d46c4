"""gRPC interoperability: every client against every server, in every way into a proxy."""

import subprocess

from mesh import Memory
from results import Result, Suite

TEXT = """
The cases of `doc/interop-test-descriptions.md` of grpc/grpc and some of our own, between clients and
servers of two foreign implementations of gRPC, grpcio (C core, Python) and @grpc/grpc-js (Node). Each pair
runs in three ways into the caller's proxy: by CONNECT (`http_proxy`), by HTTP/2 with prior knowledge and the service
as `:authority`, and by a listener that leads to the service. A cell is `ok` if all of them are. The last four
cases run by CONNECT only; during those of 100 MB no proxy and no gateway may grow by more than {most} MiB.
"""
CLIENTS = {"python": "grpc/client.py", "node": "grpc/client.js"}
SERVERS = {"python": "grpc-python", "node": "grpc-node"}
CASES = """
    empty_unary large_unary client_streaming server_streaming ping_pong empty_stream custom_metadata
    status_code_and_message special_status_message unimplemented_method unimplemented_service cancel_after_begin
    cancel_after_first_response cancel_reaches_the_server cancel_after_half_close_reaches_the_server
    timeout_on_sleeping_server deadline_reaches_the_server without_deadline
""".split()
HEAVY = ["thousand_at_once", "slow_reader", "large_upload", "quiet_stream"]
MOST_MEMORY = 16


def run(mesh, versions):
    names = ("python", "node", "grpcio", "protobuf", "@grpc/grpc-js", "@grpc/proto-loader")
    text = TEXT.format(most=MOST_MEMORY)
    suite = Suite("grpc", "gRPC", text, [f"{name} {versions[name]}" for name in names])
    for place, suffix in (("within", ""), ("across", "-east")):
        for server, service in SERVERS.items():
            for client, program in CLIENTS.items():
                column = f"{client} to {server}"
                for entry in ("connect", "prior knowledge", "listener"):
                    ask(suite, mesh, program, service + suffix, column, place, entry, CASES)
                for case in HEAVY:
                    heavy(suite, mesh, program, service + suffix, column, place, case)
    return suite


def ask(suite, mesh, program, service, column, place, entry, cases):
    output, ended = call(mesh, program, service, entry, cases)
    suite.add_lines(cases, output, column, place, entry, ended)


def heavy(suite, mesh, program, service, column, place, case):
    with Memory(mesh.proxies()) as memory:
        output, ended = call(mesh, program, service, "connect", [case])
    grown = memory.most >> 20
    if case in ("slow_reader", "large_upload") and grown > MOST_MEMORY:
        suite.add(Result(case, column, place, "connect", f"a proxy grew by {grown} MiB"))
        return
    note = f"a proxy grew by at most {grown} MiB"
    suite.add_lines([case], output, column, place, "connect", ended, note)


def call(mesh, program, service, entry, cases):
    authority = f"{service}.test.mesh"
    environment = dict(mesh.environment)
    target = f"{authority}:80"
    if entry == "connect":
        environment["http_proxy"] = f"http://{mesh.outbound()}"
    elif entry == "prior knowledge":
        target = mesh.outbound()
    else:
        target = mesh.listener(service)
    command = [str(mesh.serve), program, target, authority, ",".join(cases)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired as expired:
        return (expired.stdout or b"").decode(), "the client has not ended after 240 s"
    return done.stdout, f"exit {done.returncode} {done.stderr[-300:]}"
