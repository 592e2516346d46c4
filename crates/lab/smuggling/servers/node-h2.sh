#!/bin/sh
# node-h2.sh ADDRESS PORT FOLDER: answers every request with its method and target, and logs them.
# Speaks HTTP/2.
set -eu
cat >"$3/seen.js" <<'CODE'
const http2 = require('http2');
const fs = require('fs');
const [address, port, folder] = process.argv.slice(2);
const log = fs.openSync(folder + '/seen', 'a');
const seen = (line) => fs.writeSync(log, line + '\n');
const server = http2.createServer((request, response) => {
  seen(`200 ${request.method} ${request.url}`);
  request.on('data', () => {});
  request.on('end', () => response.end(`${request.method} ${request.url}`));
});
server.on('sessionError', (error) => seen(`400 BAD ${error.code}`));
server.listen(Number(port), address);
CODE
exec node "$3/seen.js" "$1" "$2" "$3" 2>"$3/errors"
