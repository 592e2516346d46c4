// Tells what it sees before a reply and of the reply: client_hints.js ADDRESS HOST proxy|listener http1|http2 NAME
//
// Asks for /hints/NAME, and once it has seen three hints, by another request, for /go/NAME. Without the hints it gives
// up and tells what it has.

'use strict';
const http = require('http');
const http2 = require('http2');

const [address, host, entry, version, name] = process.argv.slice(2);
const seen = { hints: [], status: null, body: '' };

function ask1(path, hinted) {
  const [hostname, port] = address.split(':');
  const target = entry === 'proxy' ? `http://${host}${path}` : path;
  const request = http.get({ hostname, port, path: target, headers: { host }, agent: false });
  request.on('information', ({ statusCode, headers }) => hinted(statusCode, headers));
  return new Promise((done, fail) => {
    request.on('error', fail);
    request.on('response', (response) => done([response.statusCode, response]));
  });
}

let session;

// All on one connection, which is a proxy's as it is a server's.
function ask2(path, hinted) {
  session ??= http2.connect(`http://${address}`);
  const request = session.request({ ':path': path, ':authority': host });
  request.on('headers', (headers) => hinted(headers[':status'], headers));
  return new Promise((done, fail) => {
    request.on('error', fail);
    session.on('error', fail);
    request.on('response', (headers) => done([headers[':status'], request]));
  });
}

async function main() {
  const ask = version === 'http2' ? ask2 : ask1;
  const given = setTimeout(end, 10_000);
  const [status, body] = await ask(`/hints/${name}`, (code, headers) => {
    const fields = Object.entries(headers).filter(([field]) => !field.startsWith(':'));
    seen.hints.push([code, Object.fromEntries(fields)]);
    if (seen.hints.length === 3) ask(`/go/${name}`).then(([, said]) => said.resume());
  });
  seen.status = status;
  for await (const part of body) seen.body += part;
  clearTimeout(given);
  end();
}

function end() {
  console.log(JSON.stringify(seen));
  process.exit(0);
}

main();
