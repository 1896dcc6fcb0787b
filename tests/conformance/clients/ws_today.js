// Talks to an echo server by npm's ws of today, over TLS and with permessage-deflate if it is told so.
//
//     node ws_today.js MODULE < task.json > result.json
//
// task: { url, ca: a PEM file or null, deflate: what ws takes as perMessageDeflate, texts, binary_bytes: [sizes] }
// Each text and then each binary message is sent when the one before has come back.

const fs = require('fs');
const WebSocket = require(process.argv[2]);
const task = JSON.parse(fs.readFileSync(0, 'utf8'));

const messages = [...task.texts, ...task.binary_bytes.map((bytes) => Buffer.alloc(bytes, 'abcdefg'))];
const texts = [];
let binaries_alike = 0;
let transport;

const socket = new WebSocket(task.url, {
  perMessageDeflate: task.deflate,
  ca: task.ca ? fs.readFileSync(task.ca) : undefined,
});
socket.on('upgrade', (answer) => { transport = answer.socket; });
let next = 0;
const send = () => (next < messages.length ? socket.send(messages[next++]) : socket.close(1000, 'bye'));
socket.on('open', send);
socket.on('message', (data, isBinary) => {
  if (isBinary) binaries_alike += data.equals(messages[next - 1]);
  else texts.push(data.toString());
  send();
});
socket.on('close', (code) => {
  process.stdout.write(JSON.stringify({
    texts, binaries_alike, close: code, extensions: socket.extensions, bytes_read: transport.bytesRead,
  }));
});
socket.on('error', (error) => {
  console.error(error);
  process.exit(1);
});
