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
# Ours: what a call is called, the question whether the call of a name was cancelled, with its answer, and what the
# server knows of the caller's deadline.
NAME = "x-conformance-name"
ASKED = "x-conformance-asked"
CANCELLED = "x-conformance-cancelled"
REMAINING = "x-conformance-remaining-ms"
