// The client of the gRPC interoperability tests, with @grpc/grpc-js.
//
//     client.js TARGET AUTHORITY CASE,...
//
// With http_proxy in the environment the target is asked for by CONNECT.

'use strict';
const { randomUUID } = require('crypto');
const grpc = require('@grpc/grpc-js');
const { runCases, expect } = require('../report');
const { testing, ECHO_INITIAL, ECHO_TRAILING, NAME, ASKED, CANCELLED, REMAINING } = require('./stubs');

// Longer than any call here takes; who waits longer hangs.
const PATIENCE = 60_000;
const MIB = 1 << 20;
const SPECIAL = '\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n';

function until(ms = PATIENCE) {
  return { deadline: Date.now() + ms };
}

function payload(size) {
  return { body: Buffer.alloc(size) };
}

// The last reply comes after the interval.
function wants(sizes, carries = 0, interval = 0) {
  const parameters = sizes.map((size) => ({ size, interval_us: 0 }));
  parameters.at(-1).interval_us = interval;
  return { response_parameters: parameters, payload: payload(carries) };
}

// A unary call: its reply or error, and the metadata of both kinds.
function unary(stub, method, request, { metadata = new grpc.Metadata(), options = until() } = {}) {
  return new Promise((done) => {
    const result = {};
    const call = stub[method](request, metadata, options, (error, reply) => {
      Object.assign(result, { error, reply });
      if (result.status) done(result);
    });
    call.on('metadata', (initial) => (result.initial = initial));
    call.on('status', (status) => {
      result.status = status;
      if (result.reply || result.error) done(result);
    });
  });
}

async function succeed(...args) {
  const result = await unary(...args);
  if (result.error) throw result.error;
  return result;
}

// Collects what a stream brings. `on`: called with each reply and the number of them so far.
function collect(call, on = () => {}) {
  return new Promise((done) => {
    const result = { sizes: [] };
    call.on('metadata', (initial) => (result.initial = initial));
    call.on('data', (reply) => {
      result.sizes.push(reply.payload.body.length);
      on(reply, result.sizes.length);
    });
    call.on('error', () => {});
    call.on('status', (status) => done({ ...result, status }));
  });
}

async function emptyUnary(stub) {
  expect({}, (await succeed(stub, 'EmptyCall', {})).reply, 'reply');
}

async function largeUnary(stub) {
  const request = { response_size: 314159, payload: payload(271828) };
  const { reply } = await succeed(stub, 'UnaryCall', request);
  expect(314159, reply.payload.body.length, 'size');
}

async function clientStreaming(stub) {
  const reply = await new Promise((done, fail) => {
    const call = stub.StreamingInputCall(new grpc.Metadata(), until(), (error, reply) =>
      error ? fail(error) : done(reply),
    );
    for (const size of [27182, 8, 1828, 45904]) call.write({ payload: payload(size) });
    call.end();
  });
  expect(74922, reply.aggregated_payload_size, 'aggregated size');
}

async function serverStreaming(stub) {
  const sizes = [31415, 9, 2653, 58979];
  const got = await collect(stub.StreamingOutputCall(wants(sizes), new grpc.Metadata(), until()));
  expect(sizes, got.sizes, 'sizes');
  expect(grpc.status.OK, got.status.code, 'status');
}

function duplex(stub, { metadata = new grpc.Metadata(), options = until() } = {}) {
  return stub.FullDuplexCall(metadata, options);
}

async function pingPong(stub) {
  const turns = [[31415, 27182], [9, 8], [2653, 1828], [58979, 45904]];
  const call = duplex(stub);
  const send = (turn) => call.write(wants([turns[turn][0]], turns[turn][1]));
  const all = collect(call, (_, count) => (count < turns.length ? send(count) : call.end()));
  send(0);
  const got = await all;
  expect(turns.map(([size]) => size), got.sizes, 'sizes');
  expect(grpc.status.OK, got.status.code, 'status');
}

async function emptyStream(stub) {
  const call = duplex(stub);
  const all = collect(call);
  call.end();
  const got = await all;
  expect([], got.sizes, 'replies');
  expect(grpc.status.OK, got.status.code, 'status');
}

async function customMetadata(stub) {
  const metadata = new grpc.Metadata();
  metadata.set(ECHO_INITIAL, 'test_initial_metadata_value');
  metadata.set(ECHO_TRAILING, Buffer.from('ababab', 'hex'));
  const request = { response_size: 314159, payload: payload(271828) };
  const single = await succeed(stub, 'UnaryCall', request, { metadata });
  const call = duplex(stub, { metadata });
  const all = collect(call);
  call.write(wants([314159]));
  call.end();
  for (const { initial, status } of [single, await all]) {
    expect(['test_initial_metadata_value'], initial.get(ECHO_INITIAL), 'initial');
    const trailing = status.metadata.get(ECHO_TRAILING).map((value) => value.toString('hex'));
    expect(['ababab'], trailing, 'trailing');
  }
}

async function statusInBothWays(stub, code, message) {
  const status = { code, message };
  const single = await unary(stub, 'UnaryCall', { response_status: status });
  const call = duplex(stub);
  const all = collect(call);
  call.write({ response_status: status });
  call.end();
  for (const got of [single.status, (await all).status]) {
    expect([code, message], [got.code, got.details], 'status');
  }
}

function statusCodeAndMessage(stub) {
  return statusInBothWays(stub, grpc.status.UNKNOWN, 'test status message');
}

function specialStatusMessage(stub) {
  return statusInBothWays(stub, grpc.status.UNKNOWN, SPECIAL);
}

async function unimplementedMethod(stub) {
  const { status } = await unary(stub, 'UnimplementedCall', {});
  expect(grpc.status.UNIMPLEMENTED, status.code, 'status');
}

async function unimplementedService(stub) {
  const other = new testing.UnimplementedService('unused:1', null, {
    channelOverride: stub.getChannel(),
  });
  const { status } = await unary(other, 'UnimplementedCall', {});
  expect(grpc.status.UNIMPLEMENTED, status.code, 'status');
}

async function cancelAfterBegin(stub) {
  const code = await new Promise((done) => {
    const call = stub.StreamingInputCall(new grpc.Metadata(), until(), (error) => done(error?.code));
    call.cancel();
  });
  expect(grpc.status.CANCELLED, code, 'status');
}

async function cancelAfterFirstResponse(stub, request = wants([31415], 27182), metadata) {
  const call = duplex(stub, { metadata });
  const all = collect(call, () => call.cancel());
  call.write(request);
  const got = await all;
  expect([31415], got.sizes, 'sizes');
  expect(grpc.status.CANCELLED, got.status.code, 'status');
}

function cancelReachesTheServer(stub) {
  // It works on the second reply for longer than is waited.
  const request = wants([31415, 1], 0, 300_000_000);
  return reachesTheServer(stub, (metadata) => cancelAfterFirstResponse(stub, request, metadata));
}

function cancelAfterHalfClose(stub) {
  return reachesTheServer(stub, async (metadata) => {
    const call = stub.StreamingOutputCall(wants([9, 1], 0, 300_000_000), metadata, until());
    const got = await collect(call, () => call.cancel());
    expect([9], got.sizes, 'sizes');
  });
}

async function reachesTheServer(stub, cancelled) {
  const name = randomUUID();
  const metadata = new grpc.Metadata();
  metadata.set(NAME, name);
  await cancelled(metadata);
  const last = Date.now() + 5000;
  while (!(await seenCancelled(stub, name))) {
    if (Date.now() > last) throw new Error('the server has not seen it after 5 s');
    await new Promise((go) => setTimeout(go, 20));
  }
}

async function seenCancelled(stub, name) {
  const metadata = new grpc.Metadata();
  metadata.set(ASKED, name);
  const { initial } = await succeed(stub, 'EmptyCall', {}, { metadata });
  return initial.get(CANCELLED)[0] === 'yes';
}

async function timeoutOnSleepingServer(stub) {
  const call = duplex(stub, { options: until(1) });
  const all = collect(call);
  call.write(wants([31415], 27182, 500_000));
  expect(grpc.status.DEADLINE_EXCEEDED, (await all).status.code, 'status');
}

async function deadlineReachesTheServer(stub) {
  for (const seconds of [5, 30]) {
    const { initial } = await succeed(stub, 'EmptyCall', {}, { options: until(seconds * 1000) });
    const remaining = Number(initial.get(REMAINING)[0]);
    if (!(remaining > (seconds - 4) * 1000 && remaining <= seconds * 1010)) {
      throw new Error(`of ${seconds} s the server saw ${remaining} ms`);
    }
  }
}

async function withoutDeadline(stub) {
  const { initial } = await succeed(stub, 'EmptyCall', {}, { options: {} });
  expect([], initial.get(REMAINING), 'deadline');
}

async function thousandAtOnce(stub) {
  const request = { response_size: 1000, payload: payload(1000) };
  const calls = Array.from({ length: 1000 }, () => unary(stub, 'UnaryCall', request));
  const results = await Promise.all(calls);
  const failed = results.filter(({ error }) => error).map(({ error }) => error.message);
  expect([], failed.slice(0, 3), `${failed.length} of 1000 failed`);
  for (const { reply } of results) expect(1000, reply.payload.body.length, 'size');
}

// A stream of 100 MB to a reader that pauses; whoever runs it watches the proxies' memory.
async function slowReader(stub) {
  const options = until(2 * PATIENCE);
  const call = stub.StreamingOutputCall(wants(Array(100).fill(MIB)), new grpc.Metadata(), options);
  const got = await collect(call, (_, count) => {
    if (count % 20 !== 1) return;
    call.pause();
    setTimeout(() => call.resume(), 500);
  });
  expect(100, got.sizes.filter((size) => size === MIB).length, 'messages');
  expect(grpc.status.OK, got.status.code, 'status');
}

// Nothing is said for 20 s of a call without a deadline.
async function quietStream(stub) {
  const got = await collect(stub.StreamingOutputCall(wants([9, 8], 0, 20_000_000), new grpc.Metadata(), {}));
  expect([9, 8], got.sizes, 'sizes');
  expect(grpc.status.OK, got.status.code, 'status');
}

// 100 MB the other way.
async function largeUpload(stub) {
  const reply = await new Promise((done, fail) => {
    const options = until(2 * PATIENCE);
    const call = stub.StreamingInputCall(new grpc.Metadata(), options, (error, reply) =>
      error ? fail(error) : done(reply),
    );
    let left = 100;
    const more = () => (left-- > 0 ? call.write({ payload: payload(MIB) }, more) : call.end());
    more();
  });
  expect(100 * MIB, reply.aggregated_payload_size, 'aggregated size');
}

const CASES = {
  empty_unary: emptyUnary,
  large_unary: largeUnary,
  client_streaming: clientStreaming,
  server_streaming: serverStreaming,
  ping_pong: pingPong,
  empty_stream: emptyStream,
  custom_metadata: customMetadata,
  status_code_and_message: statusCodeAndMessage,
  special_status_message: specialStatusMessage,
  unimplemented_method: unimplementedMethod,
  unimplemented_service: unimplementedService,
  cancel_after_begin: cancelAfterBegin,
  cancel_after_first_response: cancelAfterFirstResponse,
  cancel_reaches_the_server: cancelReachesTheServer,
  cancel_after_half_close_reaches_the_server: cancelAfterHalfClose,
  timeout_on_sleeping_server: timeoutOnSleepingServer,
  deadline_reaches_the_server: deadlineReachesTheServer,
  without_deadline: withoutDeadline,
  thousand_at_once: thousandAtOnce,
  slow_reader: slowReader,
  large_upload: largeUpload,
  quiet_stream: quietStream,
};

const [target, authority, asked] = process.argv.slice(2);
const stub = new testing.TestService(target, grpc.credentials.createInsecure(), {
  'grpc.default_authority': authority,
  'grpc.enable_http_proxy': 'http_proxy' in process.env ? 1 : 0,
});
runCases(CASES, asked.split(','), stub).finally(() => process.exit(0));
