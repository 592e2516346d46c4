// The same client as client_websockets.py, with ws: client.js URL CASE,...
//
// With http_proxy in the environment the target is asked for by CONNECT.

'use strict';
const http = require('http');
const WebSocket = require('ws');
const { runCases, expect } = require('../report');

const MESSAGE = Buffer.alloc(1 << 20, '0123456789abcdef');

// A tunnel to the target, if there is a proxy.
function tunnel(url) {
  if (!process.env.http_proxy) return Promise.resolve(undefined);
  const proxy = new URL(process.env.http_proxy);
  const { hostname, port } = new URL(url);
  const path = `${hostname}:${port || 80}`;
  return new Promise((done, fail) => {
    const options = { host: proxy.hostname, port: proxy.port, method: 'CONNECT', path, agent: false };
    const request = http.request(options);
    request.on('connect', (response, socket) =>
      response.statusCode === 200 ? done(socket) : fail(new Error(`CONNECT: ${response.statusCode}`)),
    );
    request.on('error', fail);
    request.end();
  });
}

async function open(url, { protocols = [], ...options } = {}) {
  const through = await tunnel(url);
  if (through) options.createConnection = () => through;
  options = { perMessageDeflate: false, handshakeTimeout: 20_000, maxPayload: 1 << 24, ...options };
  const socket = new WebSocket(url, protocols, options);
  socket.inbox = [];
  socket.on('message', (data, isBinary) => socket.inbox.push(isBinary ? data : data.toString()));
  await new Promise((done, fail) => {
    socket.once('open', done);
    socket.once('error', fail);
  });
  socket.on('error', () => {});
  return socket;
}

function receive(socket) {
  return new Promise((done, fail) => {
    const late = setTimeout(() => fail(new Error('no message after 30 s')), 30_000);
    const look = () => {
      if (socket.inbox.length === 0) return socket.once('message', look);
      clearTimeout(late);
      done(socket.inbox.shift());
    };
    look();
  });
}

function closed(socket) {
  return new Promise((done) => socket.once('close', (code, reason) => done([code, String(reason)])));
}

async function echo(socket, message) {
  socket.send(message);
  same(message, await receive(socket));
}

function same(message, got) {
  const equal = Buffer.isBuffer(message) ? message.equals(got) : message === got;
  if (!equal) throw new Error(`another message came back: ${String(got).slice(0, 100)}`);
}

const CASES = {
  async echo_text(url) {
    const socket = await open(`${url}/echo`);
    for (const text of ['hello', '', 'küche ☺ 😈']) await echo(socket, text);
    socket.close();
  },
  async echo_binary(url) {
    const socket = await open(`${url}/echo`);
    await echo(socket, Buffer.from([0, 1, 2, 255, 254]));
    socket.close();
  },
  async large_fragmented(url) {
    const socket = await open(`${url}/echo`);
    for (let at = 0; at < MESSAGE.length; at += 16384) {
      socket.send(MESSAGE.subarray(at, at + 16384), { fin: at + 16384 === MESSAGE.length });
    }
    same(MESSAGE, await receive(socket));
    socket.close();
  },
  async ping_pong(url) {
    const socket = await open(`${url}/echo`);
    const pong = new Promise((done) => socket.once('pong', (data) => done(String(data))));
    socket.ping('are you there');
    await echo(socket, 'after');
    expect('are you there', await pong, 'pong');
    socket.close();
  },
  async close_by_client(url) {
    const name = `node${process.pid}-${Date.now()}`;
    const socket = await open(`${url}/code/${name}`);
    const answer = closed(socket);
    socket.close(4001, 'enough');
    await answer;
    let code = 'none';
    for (let tries = 0; code === 'none' && tries < 200; tries += 1) {
      const asked = await open(`${url}/codes/${name}`);
      code = await receive(asked);
      asked.close();
      if (code === 'none') await new Promise((go) => setTimeout(go, 20));
    }
    expect('4001', code, 'the code that the server saw');
  },
  async close_by_server(url) {
    const socket = await open(`${url}/close/4321`);
    const answer = closed(socket);
    socket.send('go');
    expect([4321, 'as asked'], await answer, 'close');
  },
  async subprotocol(url) {
    const socket = await open(`${url}/protocol`, { protocols: ['first', 'second'] });
    expect('second', socket.protocol, 'subprotocol');
    socket.close();
  },
  async permessage_deflate(url) {
    const socket = await open(`${url}/echo`, { perMessageDeflate: true });
    if (!socket.extensions.includes('permessage-deflate')) throw new Error('it was not agreed on');
    await echo(socket, 'again and '.repeat(10000));
    socket.close();
  },
  async two_hundred(url) {
    const sockets = await Promise.all(Array.from({ length: 200 }, () => open(`${url}/echo`)));
    await Promise.all(sockets.map((socket, number) => echo(socket, String(number))));
    for (const socket of sockets) socket.close();
  },
  async refused(url) {
    const answer = await open(`${url}/refuse`).then(() => 'accepted', (error) => error.message);
    expect('Unexpected server response: 403', answer, 'answer');
  },
};

const [url, asked] = process.argv.slice(2);
runCases(CASES, asked.split(','), url).finally(() => process.exit(0));
