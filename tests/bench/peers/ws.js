// An echo server of npm's ws, to measure ours against. NODE_PATH says where ws is.
//
//     node ws.js [--listen 127.0.0.1:0] [--cert FILE --key FILE] [--deflate shared|dedicated] [--topic]
//
// --topic: everybody is in one topic, and what anybody says goes to all.
// shared: no context is kept between messages, in either direction. dedicated: a window for each connection.
// Compression has our default level, and no message is too small for it.

const fs = require('fs');
const http = require('http');
const https = require('https');
const { parseArgs } = require('util');
const { WebSocketServer } = require('ws');

const { values: options } = parseArgs({
  options: {
    listen: { type: 'string', default: '127.0.0.1:0' },
    cert: { type: 'string' },
    key: { type: 'string' },
    deflate: { type: 'string' },
    topic: { type: 'boolean' },
  },
});
const compression = { threshold: 0, zlibDeflateOptions: { level: 1 } };
const perMessageDeflate = {
  undefined: false,
  shared: { ...compression, serverNoContextTakeover: true, clientNoContextTakeover: true },
  dedicated: compression,
}[options.deflate];
if (perMessageDeflate === undefined) throw new Error('--deflate shared or dedicated');

const server = options.cert
  ? https.createServer({ cert: fs.readFileSync(options.cert), key: fs.readFileSync(options.key) })
  : http.createServer();
const echo = new WebSocketServer({ server, perMessageDeflate, clientTracking: options.topic === true });
echo.on('connection', (socket) => {
  socket.on('message', (data, isBinary) => {
    if (options.topic) echo.clients.forEach((client) => client.send(data, { binary: isBinary }));
    else socket.send(data, { binary: isBinary });
  });
  // The load generator says what went wrong; without a listener the process would end.
  socket.on('error', () => {});
});

const [host, port] = options.listen.split(':');
server.listen({ host, port: Number(port), backlog: 4096 }, () => {
  console.log(`listening on ${host}:${server.address().port}`);
});
process.on('SIGTERM', () => process.exit(0));
