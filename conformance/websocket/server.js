// The same server as server_websockets.py, with ws: server.js ADDRESS:PORT [http2]
//
// With http2, WebSockets are streams of HTTP/2 (RFC 8441) and nothing else is taken.

'use strict';
const crypto = require('crypto');
const http = require('http');
const http2 = require('http2');
const { WebSocketServer } = require('ws');

const codes = new Map();
const sockets = new WebSocketServer({
  noServer: true,
  perMessageDeflate: true,
  maxPayload: 1 << 24,
  handleProtocols: (offered) => (offered.has('second') ? 'second' : false),
});

sockets.on('connection', (socket, request) => {
  const [, what, value] = request.url.split('/');
  if (what === 'codes') {
    socket.send(String(codes.get(value) ?? 'none'));
    socket.close();
    return;
  }
  socket.on('error', () => {});
  socket.on('message', (data, isBinary) => {
    if (what === 'close') socket.close(Number(value), 'as asked');
    else socket.send(data, { binary: isBinary });
  });
  socket.on('close', (code) => what === 'code' && codes.set(value, code));
});

function overHttp1() {
  const server = http.createServer((request, response) => response.writeHead(426).end());
  server.on('upgrade', (request, socket, head) => {
    if (request.url === '/refuse') {
      socket.end('HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno\n');
      return;
    }
    accept(request, socket, head);
  });
  return server;
}

function accept(request, socket, head) {
  sockets.handleUpgrade(request, socket, head, (each) => sockets.emit('connection', each, request));
}

function overHttp2() {
  const server = http2.createServer({ settings: { enableConnectProtocol: true } });
  server.on('stream', (stream, headers) => {
    stream.on('error', () => {});
    if (headers[':protocol'] !== 'websocket' || headers['sec-websocket-key']) {
      stream.respond({ ':status': 400 }, { endStream: true });
    } else if (headers[':path'] === '/refuse') {
      stream.respond({ ':status': 403 });
      stream.end('no\n');
    } else {
      accept(asUpgrade(stream, headers), stream, Buffer.alloc(0));
    }
  });
  sockets.on('headers', agree);
  return server;
}

// ws wants to see an Upgrade and its key, and answers it by a head of HTTP/1.1.
function asUpgrade(stream, { ':path': url, ...headers }) {
  const key = crypto.randomBytes(16).toString('base64');
  return { stream, method: 'GET', url, headers: { ...headers, upgrade: 'websocket', 'sec-websocket-key': key } };
}

// What ws would answer, in HTTP/2; the head itself is what it writes first, and is dropped.
function agree(lines, { stream }) {
  const fields = lines.slice(1).map((line) => line.split(': '));
  const kept = fields.filter(([name]) => /^sec-websocket-(protocol|extensions)$/i.test(name));
  stream.respond({ ':status': 200, ...Object.fromEntries(kept) });
  stream.write = () => delete stream.write;
}

const [target, version] = process.argv.slice(2);
const server = version === 'http2' ? overHttp2() : overHttp1();
const [address, port] = target.split(':');
server.listen(Number(port), address);
