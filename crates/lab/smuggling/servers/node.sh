#!/bin/sh
# node.sh ADDRESS PORT FOLDER http1|http2: answers every request with its method and target, and logs them.
set -eu
cat >"$3/seen.js" <<'CODE'
const http = require('http');
const http2 = require('http2');
const fs = require('fs');
const [address, port, folder, speaks] = process.argv.slice(2);
const log = fs.openSync(folder + '/seen', 'a');
const seen = (line) => fs.writeSync(log, line + '\n');
const answer = (request, response) => {
  seen(`200 ${request.method} ${request.url}`);
  request.on('data', () => {});
  request.on('end', () => response.end(`${request.method} ${request.url}`));
};
const server = speaks === 'http2'
  ? http2.createServer(answer)
  : http.createServer({ keepAliveTimeout: 60000, requestTimeout: 0 }, answer);
server.on('sessionError', (error) => seen(`400 BAD ${error.code}`));
server.on('clientError', (error, socket) => {
  if (error.code !== 'ECONNRESET') seen(`400 BAD ${error.code}`);
  socket.destroy();
});
server.listen(Number(port), address);
CODE
exec node "$3/seen.js" "$1" "$2" "$3" "$4" 2>"$3/errors"
