// The server of the gRPC interoperability tests, with @grpc/grpc-js.
//
//     server.js ADDRESS:PORT

'use strict';
const grpc = require('@grpc/grpc-js');
const { testing, ECHO_INITIAL, ECHO_TRAILING, NAME, ASKED, CANCELLED, REMAINING } = require('./stubs');

// Names of calls.
const cancelled = new Set();

// Sends initial metadata, and gives the trailing one that was asked for.
function begin(call) {
  const initial = new grpc.Metadata();
  const trailing = new grpc.Metadata();
  initial.set(CANCELLED, cancelled.has(call.metadata.get(ASKED)[0]) ? 'yes' : 'no');
  const deadline = call.getDeadline();
  if (Number.isFinite(Number(deadline))) {
    initial.set(REMAINING, String(Number(deadline) - Date.now()));
  }
  for (const value of call.metadata.get(ECHO_INITIAL)) initial.add(ECHO_INITIAL, value);
  for (const value of call.metadata.get(ECHO_TRAILING)) trailing.add(ECHO_TRAILING, value);
  call.sendMetadata(initial);
  return trailing;
}

function payload(size) {
  return { body: Buffer.alloc(size) };
}

function emptyCall(call, reply) {
  const trailing = begin(call);
  reply(null, {}, trailing);
}

function unaryCall(call, reply) {
  const trailing = begin(call);
  const { response_status: status, response_size: size } = call.request;
  if (status) return reply({ code: status.code, details: status.message, metadata: trailing });
  reply(null, { payload: payload(size) }, trailing);
}

function pause(ms) {
  return new Promise((go) => setTimeout(go, ms));
}

// Sends what a request wants, no faster than it is read.
async function send(call, request) {
  for (const { size, interval_us: interval } of request.response_parameters) {
    const until = Date.now() + interval / 1000;
    while (Date.now() < until && !call.cancelled) await pause(10);
    if (call.cancelled) return;
    if (!call.write({ payload: payload(size) })) {
      await new Promise((go) => {
        call.once('drain', go);
        call.once('cancelled', go);
      });
    }
  }
}

async function streamingOutputCall(call) {
  const trailing = begin(call);
  call.on('cancelled', () => cancelled.add(call.metadata.get(NAME)[0]));
  await send(call, call.request);
  call.end(trailing);
}

function streamingInputCall(call, reply) {
  const trailing = begin(call);
  let size = 0;
  call.on('cancelled', () => cancelled.add(call.metadata.get(NAME)[0]));
  call.on('data', (request) => (size += request.payload.body.length));
  call.on('end', () => reply(null, { aggregated_payload_size: size }, trailing));
}

function fullDuplexCall(call) {
  const trailing = begin(call);
  let failed = false;
  let turn = Promise.resolve();
  call.on('cancelled', () => cancelled.add(call.metadata.get(NAME)[0]));
  call.on('error', () => {});
  call.on('data', (request) => {
    turn = turn.then(() => {
      const status = request.response_status;
      if (!status) return send(call, request);
      failed = true;
      call.emit('error', { code: status.code, details: status.message, metadata: trailing });
    });
  });
  call.on('end', () => turn.then(() => failed || call.end(trailing)));
}

const server = new grpc.Server({ 'grpc.max_concurrent_streams': 2000 });
server.addService(testing.TestService.service, {
  EmptyCall: emptyCall,
  UnaryCall: unaryCall,
  StreamingOutputCall: streamingOutputCall,
  StreamingInputCall: streamingInputCall,
  FullDuplexCall: fullDuplexCall,
});
server.bindAsync(process.argv[2], grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
});
