"""The server of the gRPC interoperability tests, with grpcio.

    server.py ADDRESS:PORT
"""

import signal
import sys
import threading
import time
from concurrent import futures

import grpc

from stubs import ASKED, CANCELLED, ECHO_INITIAL, ECHO_TRAILING, NAME, REMAINING, messages, services


class Server(services.TestServiceServicer):
    def __init__(self):
        # Names of calls.
        self.cancelled = set()

    def begin(self, context):
        """Sends initial metadata, and the trailing one that was asked for."""
        asked = dict(context.invocation_metadata())
        initial = [(CANCELLED, "yes" if asked.get(ASKED) in self.cancelled else "no")]
        remaining = context.time_remaining()
        # Without a deadline it is as good as endless.
        if remaining is not None and remaining < 1e9:
            initial.append((REMAINING, str(int(remaining * 1000))))
        if ECHO_INITIAL in asked:
            initial.append((ECHO_INITIAL, asked[ECHO_INITIAL]))
        if ECHO_TRAILING in asked:
            context.set_trailing_metadata([(ECHO_TRAILING, asked[ECHO_TRAILING])])
        context.send_initial_metadata(initial)

    def note_if_cancelled(self, context):
        ended = threading.Event()
        name = dict(context.invocation_metadata()).get(NAME)

        def gone():
            if not ended.is_set():
                self.cancelled.add(name)

        context.add_callback(gone)
        return ended

    def EmptyCall(self, request, context):
        self.begin(context)
        return messages.Empty()

    def UnaryCall(self, request, context):
        self.begin(context)
        fail_if_asked(request, context)
        return messages.SimpleResponse(payload=payload(request.response_size))

    def StreamingOutputCall(self, request, context):
        ended = self.note_if_cancelled(context)
        self.begin(context)
        yield from wanted(request, context)
        ended.set()

    def StreamingInputCall(self, requests, context):
        ended = self.note_if_cancelled(context)
        self.begin(context)
        size = sum(len(request.payload.body) for request in requests)
        ended.set()
        return messages.StreamingInputCallResponse(aggregated_payload_size=size)

    def FullDuplexCall(self, requests, context):
        ended = self.note_if_cancelled(context)
        self.begin(context)
        for request in requests:
            fail_if_asked(request, context)
            yield from wanted(request, context)
        ended.set()


def fail_if_asked(request, context):
    if request.HasField("response_status"):
        code = next(c for c in grpc.StatusCode if c.value[0] == request.response_status.code)
        context.abort(code, request.response_status.message)


def wanted(request, context):
    for parameters in request.response_parameters:
        until = time.monotonic() + parameters.interval_us / 1e6
        while time.monotonic() < until and context.is_active():
            time.sleep(0.01)
        yield messages.StreamingOutputCallResponse(payload=payload(parameters.size))


def payload(size):
    return messages.Payload(body=bytes(size))


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=256))
    services.add_TestServiceServicer_to_server(Server(), server)
    if server.add_insecure_port(sys.argv[1]) == 0:
        sys.exit(f"{sys.argv[0]}: cannot listen on {sys.argv[1]}")
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: server.stop(None))
    server.wait_for_termination()


if __name__ == "__main__":
    main()
