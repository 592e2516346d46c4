// The messages and stubs of interop.proto, made when they are loaded.

'use strict';
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const definition = loader.loadSync(path.join(__dirname, 'interop.proto'), {
  keepCase: true,
  longs: Number,
  enums: String,
});

module.exports = {
  testing: grpc.loadPackageDefinition(definition).grpc.testing,
  ECHO_INITIAL: 'x-grpc-test-echo-initial',
  ECHO_TRAILING: 'x-grpc-test-echo-trailing-bin',
  // Ours: what a call is called, the question whether the call of a name was cancelled, with its answer, and what the
  // server knows of the caller's deadline.
  NAME: 'x-conformance-name',
  ASKED: 'x-conformance-asked',
  CANCELLED: 'x-conformance-cancelled',
  REMAINING: 'x-conformance-remaining-ms',
};
