// The same server as server_websockets.py, with ws: server.js ADDRESS:PORT

'use strict';
const http = require('http');
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

const server = http.createServer((request, response) => response.writeHead(426).end());
server.on('upgrade', (request, socket, head) => {
  if (request.url === '/refuse') {
    socket.end('HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno\n');
    return;
  }
  sockets.handleUpgrade(request, socket, head, (each) => sockets.emit('connection', each, request));
});
const [address, port] = process.argv[2].split(':');
server.listen(Number(port), address);
