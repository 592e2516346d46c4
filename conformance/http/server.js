// A server of HTTP/1.1, or of HTTP/2 without TLS: server.js ADDRESS:PORT [http2]
//
// /echo sends back the body as it comes and its trailers, /size counts it, /head tells what the request looked like,
// /bytes/N sends N bytes, /status/N answers N, /trailers sends chunks and trailers, /early answers 200 without reading
// the body, /refuse answers 413 and /fail 417 without reading it or asking for it. /wait/NAME answers nothing, /drip/NAME
// a beginning; /gone/NAME tells whether whoever asked for that has gone. /both/N reads the body and sends N bytes, the
// one not waiting for the other. /hints/NAME says 102 and 103 (Early Hints) twice, and replies once /go/NAME was asked.

'use strict';
const http = require('http');
const http2 = require('http2');

const CHUNK = Buffer.alloc(1 << 16, 'x');

function respond(request, response) {
  const [, what, value] = request.url.split(/[/?]/);
  const routes = { echo, size, head, bytes, status, trailers, early, refuse, fail, wait, drip, gone, both, hints, go };
  const route = routes[what];
  if (!route) return response.writeHead(200, { 'content-type': 'text/plain' }).end('hello\n');
  return route(request, response, value);
}

function echo(request, response) {
  // HTTP/1.0 knows no trailers.
  response.writeHead(200, request.httpVersion === '1.0' ? {} : { trailer: 'x-sum' });
  request.on('data', (data) => response.write(data) || pauseUntilDrained(request, response));
  request.on('end', () => {
    response.addTrailers({ 'x-sum': request.trailers['x-sum'] ?? 'none' });
    response.end();
  });
}

function pauseUntilDrained(request, response) {
  request.pause();
  response.once('drain', () => request.resume());
}

function size(request, response) {
  let bytes = 0;
  request.on('data', (data) => (bytes += data.length));
  request.on('end', () => response.end(`${bytes}\n`));
}

function head(request, response) {
  request.resume();
  response.setHeader('content-type', 'application/json');
  const { method, url, httpVersion, headers } = request;
  response.end(JSON.stringify({ method, url, httpVersion, headers }) + '\n');
}

function bytes(request, response, count) {
  let left = Number(count);
  response.setHeader('content-length', left);
  const more = () => {
    while (left > 0 && !response.destroyed) {
      const part = CHUNK.subarray(0, Math.min(left, CHUNK.length));
      left -= part.length;
      if (!response.write(part)) return response.once('drain', more);
    }
    response.end();
  };
  more();
}

function status(request, response, code) {
  request.resume();
  response.statusCode = Number(code);
  if (code === '304') response.setHeader('etag', '"a"');
  response.end();
}

function trailers(request, response) {
  response.writeHead(200, { trailer: 'x-sum' });
  response.write('one,');
  response.write('two');
  response.addTrailers({ 'x-sum': 'seven' });
  response.end();
}

function early(request, response) {
  response.end('enough\n');
}

function refuse(request, response) {
  response.writeHead(413).end('no\n');
}

function fail(request, response) {
  response.writeHead(417).end('no\n');
}

// The reply does not wait for the request.
function both(request, response, count) {
  request.resume();
  bytes(request, response, count);
}

const left = new Set();

function wait(request, response, name) {
  response.on('close', () => left.add(name));
}

function drip(request, response, name) {
  response.on('close', () => left.add(name));
  response.writeHead(200);
  response.write('x');
}

function gone(request, response, name) {
  response.end(left.has(name) ? 'yes\n' : 'no\n');
}

const waiting = new Map();

function hints(request, response, name) {
  request.resume();
  // Node has no other way to say it in HTTP/2.
  if (response.stream) response.stream.additionalHeaders({ ':status': 102 });
  else response.writeProcessing();
  response.writeEarlyHints({ link: '</a.css>; rel=preload; as=style', 'x-kept': '1' });
  response.writeEarlyHints({ link: ['</b.js>; rel=preload; as=script', '</c.woff>; rel=preload; as=font'] });
  waiting.set(name, () => response.end('after the hints\n'));
  response.on('close', () => waiting.delete(name));
}

function go(request, response, name) {
  waiting.get(name)?.();
  response.end('gone\n');
}

// Decides before any of the body is there.
function expects(request, response) {
  if (!['/refuse', '/fail'].includes(request.url)) response.writeContinue();
  respond(request, response);
}

const [target, version] = process.argv.slice(2);
const server = version === 'http2' ? http2.createServer() : http.createServer();
server.on('request', respond);
server.on('checkContinue', expects);
const [address, port] = target.split(':');
server.listen(Number(port), address);
