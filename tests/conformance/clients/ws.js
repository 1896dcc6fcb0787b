// Talks to an echo server by npm's ws, of 2015 or of today.
//
//     node ws.js MODULE PORT VERSION < texts.json > result.json      VERSION: 8 or 13

const [module_, port, version] = process.argv.slice(2);
const WebSocket = require(module_);
const texts = JSON.parse(require('fs').readFileSync(0, 'utf8'));

const received = [];
const socket = new WebSocket(`ws://127.0.0.1:${port}/echo?from=node`, {
  protocolVersion: Number(version),
  origin: 'http://node.example',
});
socket.on('open', () => socket.send(texts[0]));
socket.on('message', (data) => {
  received.push(data.toString());
  if (received.length < texts.length) socket.send(texts[received.length]);
  else socket.close(1000, 'bye');
});
socket.on('close', (code) => {
  process.stdout.write(JSON.stringify({ received, close: String(code) }));
});
socket.on('error', (error) => {
  console.error(error);
  process.exit(1);
});
