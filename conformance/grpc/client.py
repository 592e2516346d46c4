"""The client of the gRPC interoperability tests, with grpcio.

    client.py TARGET AUTHORITY CASE,...

With http_proxy in the environment the target is asked for by CONNECT.
"""

import os
import sys
import time
import uuid

import grpc

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from report import expect, run_cases
from stubs import ASKED, CANCELLED, ECHO_INITIAL, ECHO_TRAILING, NAME, REMAINING, messages, services

# Longer than any call here takes; who waits longer hangs.
PATIENCE = 60
MIB = 1 << 20
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


def payload(size):
    return messages.Payload(body=bytes(size))


def wants(*sizes, carries=0, interval_us=0):
    """The last reply comes after the interval."""
    parameters = [messages.ResponseParameters(size=size) for size in sizes]
    parameters[-1].interval_us = interval_us
    return messages.StreamingOutputCallRequest(
        response_parameters=parameters, payload=payload(carries)
    )


def status_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def empty_unary(stub):
    expect(messages.Empty(), stub.EmptyCall(messages.Empty(), timeout=PATIENCE), "reply")


def large_unary(stub):
    request = messages.SimpleRequest(response_size=314159, payload=payload(271828))
    reply = stub.UnaryCall(request, timeout=PATIENCE)
    expect(bytes(314159), reply.payload.body, "body")


def client_streaming(stub):
    sizes = [27182, 8, 1828, 45904]
    requests = (messages.StreamingInputCallRequest(payload=payload(size)) for size in sizes)
    reply = stub.StreamingInputCall(requests, timeout=PATIENCE)
    expect(74922, reply.aggregated_payload_size, "aggregated size")


def server_streaming(stub):
    sizes = [31415, 9, 2653, 58979]
    replies = stub.StreamingOutputCall(wants(*sizes), timeout=PATIENCE)
    expect(sizes, [len(reply.payload.body) for reply in replies], "sizes")


class Writer:
    """Requests that are handed out one by one."""

    def __init__(self):
        import queue

        self.queue = queue.SimpleQueue()

    def __iter__(self):
        return iter(self.queue.get, None)

    def send(self, request):
        self.queue.put(request)

    def end(self):
        self.queue.put(None)


def ping_pong(stub):
    writer = Writer()
    replies = stub.FullDuplexCall(iter(writer), timeout=PATIENCE)
    for size, carries in [(31415, 27182), (9, 8), (2653, 1828), (58979, 45904)]:
        writer.send(wants(size, carries=carries))
        expect(size, len(next(replies).payload.body), "size")
    writer.end()
    expect([], list(replies), "what is left")
    expect(grpc.StatusCode.OK, replies.code(), "status")


def empty_stream(stub):
    replies = stub.FullDuplexCall(iter([]), timeout=PATIENCE)
    expect([], list(replies), "replies")
    expect(grpc.StatusCode.OK, replies.code(), "status")


def custom_metadata(stub):
    asked = [
        (ECHO_INITIAL, "test_initial_metadata_value"),
        (ECHO_TRAILING, b"\xab\xab\xab"),
    ]
    request = messages.SimpleRequest(response_size=314159, payload=payload(271828))
    _, unary = stub.UnaryCall.with_call(request, metadata=asked, timeout=PATIENCE)
    stream = stub.FullDuplexCall(iter([wants(314159)]), metadata=asked, timeout=PATIENCE)
    expect(1, len(list(stream)), "replies")
    for call in (unary, stream):
        initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
        expect("test_initial_metadata_value", initial.get(ECHO_INITIAL), "initial")
        expect(b"\xab\xab\xab", trailing.get(ECHO_TRAILING), "trailing")


def status_in_both_ways(stub, code, message):
    status = messages.EchoStatus(code=code.value[0], message=message)
    unary = messages.SimpleRequest(response_status=status)
    expect((code, message), status_of(lambda: stub.UnaryCall(unary, timeout=PATIENCE)), "unary")
    request = messages.StreamingOutputCallRequest(response_status=status)
    stream = stub.FullDuplexCall(iter([request]), timeout=PATIENCE)
    expect((code, message), status_of(lambda: list(stream)), "stream")


def status_code_and_message(stub):
    status_in_both_ways(stub, grpc.StatusCode.UNKNOWN, "test status message")


def special_status_message(stub):
    status_in_both_ways(stub, grpc.StatusCode.UNKNOWN, SPECIAL)


def unimplemented_method(stub):
    code, _ = status_of(lambda: stub.UnimplementedCall(messages.Empty(), timeout=PATIENCE))
    expect(grpc.StatusCode.UNIMPLEMENTED, code, "status")


def unimplemented_service(stub):
    other = services.UnimplementedServiceStub(stub.channel)
    code, _ = status_of(lambda: other.UnimplementedCall(messages.Empty(), timeout=PATIENCE))
    expect(grpc.StatusCode.UNIMPLEMENTED, code, "status")


def cancel_after_begin(stub):
    writer = Writer()
    call = stub.StreamingInputCall.future(iter(writer), timeout=PATIENCE)
    call.cancel()
    expect(grpc.StatusCode.CANCELLED, call.code(), "status")
    writer.end()


def cancel_after_first_response(stub, request=wants(31415, carries=27182), metadata=()):
    writer = Writer()
    replies = stub.FullDuplexCall(iter(writer), metadata=metadata, timeout=PATIENCE)
    writer.send(request)
    expect(31415, len(next(replies).payload.body), "size")
    replies.cancel()
    expect(grpc.StatusCode.CANCELLED, status_of(lambda: list(replies))[0], "status")
    writer.end()


def cancel_reaches_the_server(stub):
    def cancelled(metadata):
        # It works on the second reply for longer than is waited.
        cancel_after_first_response(stub, wants(31415, 1, interval_us=300_000_000), metadata)

    reaches_the_server(stub, cancelled)


def cancel_after_half_close_reaches_the_server(stub):
    def cancelled(metadata):
        request = wants(9, 1, interval_us=300_000_000)
        replies = stub.StreamingOutputCall(request, metadata=metadata, timeout=PATIENCE)
        expect(9, len(next(replies).payload.body), "size")
        replies.cancel()

    reaches_the_server(stub, cancelled)


def reaches_the_server(stub, cancelled):
    name = uuid.uuid4().hex
    cancelled([(NAME, name)])
    until = time.monotonic() + 5
    while not seen_cancelled(stub, name):
        if time.monotonic() > until:
            raise AssertionError("the server has not seen it after 5 s")
        time.sleep(0.02)


def seen_cancelled(stub, name):
    metadata = [(ASKED, name)]
    _, call = stub.EmptyCall.with_call(messages.Empty(), metadata=metadata, timeout=PATIENCE)
    return dict(call.initial_metadata())[CANCELLED] == "yes"


def timeout_on_sleeping_server(stub):
    writer = Writer()
    replies = stub.FullDuplexCall(iter(writer), timeout=0.001)
    writer.send(wants(31415, carries=27182, interval_us=500_000))
    expect(grpc.StatusCode.DEADLINE_EXCEEDED, status_of(lambda: list(replies))[0], "status")
    writer.end()


def deadline_reaches_the_server(stub):
    for timeout in (5, 30):
        _, call = stub.EmptyCall.with_call(messages.Empty(), timeout=timeout)
        remaining = int(dict(call.initial_metadata())[REMAINING])
        # grpcio rounds up what it sends.
        if not (timeout - 4) * 1000 < remaining <= timeout * 1010:
            raise AssertionError(f"of {timeout} s the server saw {remaining} ms")


def without_deadline(stub):
    _, call = stub.EmptyCall.with_call(messages.Empty())
    expect(None, dict(call.initial_metadata()).get(REMAINING), "deadline")


def thousand_at_once(stub):
    request = messages.SimpleRequest(response_size=1000, payload=payload(1000))
    calls = [stub.UnaryCall.future(request, timeout=PATIENCE) for _ in range(1000)]
    failed = [call.code().name for call in calls if call.code() != grpc.StatusCode.OK]
    expect([], failed[:3], f"{len(failed)} of 1000 failed")
    expect({1000}, {len(call.result().payload.body) for call in calls}, "sizes")


def slow_reader(stub):
    """A stream of 100 MB to a reader that pauses; whoever runs it watches the proxies' memory."""
    replies = stub.StreamingOutputCall(wants(*[MIB] * 100), timeout=PATIENCE * 2)
    size = 0
    for number, reply in enumerate(replies):
        size += len(reply.payload.body)
        if number % 20 == 0:
            time.sleep(0.5)
    expect(100 * MIB, size, "size")


def quiet_stream(stub):
    """Nothing is said for 20 s of a call without a deadline."""
    replies = stub.StreamingOutputCall(wants(9, 8, interval_us=20_000_000))
    expect([9, 8], [len(reply.payload.body) for reply in replies], "sizes")


def large_upload(stub):
    """The other way: 100 MB to a server that reads as fast as it can."""
    requests = (messages.StreamingInputCallRequest(payload=payload(MIB)) for _ in range(100))
    reply = stub.StreamingInputCall(requests, timeout=PATIENCE * 2)
    expect(100 * MIB, reply.aggregated_payload_size, "aggregated size")


CASES = {
    case.__name__: case
    for case in (
        empty_unary,
        large_unary,
        client_streaming,
        server_streaming,
        ping_pong,
        empty_stream,
        custom_metadata,
        status_code_and_message,
        special_status_message,
        unimplemented_method,
        unimplemented_service,
        cancel_after_begin,
        cancel_after_first_response,
        cancel_reaches_the_server,
        cancel_after_half_close_reaches_the_server,
        timeout_on_sleeping_server,
        deadline_reaches_the_server,
        without_deadline,
        thousand_at_once,
        slow_reader,
        large_upload,
        quiet_stream,
    )
}


def main():
    target, authority, asked = sys.argv[1:]
    options = [
        ("grpc.default_authority", authority),
        ("grpc.enable_http_proxy", int("http_proxy" in os.environ)),
    ]
    with grpc.insecure_channel(target, options=options) as channel:
        stub = services.TestServiceStub(channel)
        stub.channel = channel
        run_cases(CASES, asked.split(","), stub)


if __name__ == "__main__":
    main()
