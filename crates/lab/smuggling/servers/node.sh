#!/bin/sh
# node.sh ADDRESS PORT FOLDER: answers every request with its method and target, and logs them.
set -eu
cat >"$3/seen.js" <<'CODE'
const http = require('http');
const fs = require('fs');
const [address, port, folder] = process.argv.slice(2);
const log = fs.openSync(folder + '/seen', 'a');
const seen = (line) => fs.writeSync(log, line + '\n');
const server = http.createServer({ keepAliveTimeout: 60000, requestTimeout: 0 }, (request, response) => {
  seen(`200 ${request.method} ${request.url}`);
  request.on('data', () => {});
  request.on('end', () => response.end(`${request.method} ${request.url}`));
});
server.on('clientError', (error, socket) => {
  if (error.code !== 'ECONNRESET') seen(`400 BAD ${error.code}`);
  socket.destroy();
});
server.listen(Number(port), address);
CODE
exec node "$3/seen.js" "$1" "$2" "$3" 2>"$3/errors"
