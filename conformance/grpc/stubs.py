"""The messages and stubs of interop.proto, made when they are imported."""

import os
import sys

import grpc

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
messages, services = grpc.protos_and_services("interop.proto")

# What the tests say beside the messages.
ECHO_INITIAL = "x-grpc-test-echo-initial"
ECHO_TRAILING = "x-grpc-test-echo-trailing-bin"
# Ours: how many calls the server saw cancelled, and what it knows of the caller's deadline.
CANCELLED = "x-conformance-cancelled"
REMAINING = "x-conformance-remaining-ms"
