#!/usr/bin/env ruby
# Talks to an echo server by Ruby's `websocket`, which knows every draft by its number.
#
#   websocket.rb PORT VERSION < texts.json > result.json        VERSION: 75, 7, 8, 13

require 'json'
require 'socket'
require 'websocket'

port, version = ARGV.map(&:to_i)
texts = JSON.parse($stdin.read)

socket = TCPSocket.new('127.0.0.1', port)
socket.setsockopt(Socket::IPPROTO_TCP, Socket::TCP_NODELAY, 1)

handshake = WebSocket::Handshake::Client.new(
  url: "ws://127.0.0.1:#{port}/echo?from=ruby", version: version, origin: 'http://ruby.example'
)
socket.write(handshake.to_s)
handshake << socket.readpartial(65_536) until handshake.finished?
raise "handshake: #{handshake.error}" unless handshake.valid?

incoming = WebSocket::Frame::Incoming::Client.new(version: version)
incoming << handshake.leftovers

send_frame = lambda do |type, data = '', **more|
  socket.write(WebSocket::Frame::Outgoing::Client.new(version: version, type: type, data: data, **more).to_s)
end
next_frame = lambda do
  until (frame = incoming.next)
    raise "frame: #{incoming.error}" if incoming.error?
    incoming << socket.readpartial(65_536)
  end
  frame
end

received = texts.map do |text|
  send_frame.call(:text, text)
  next_frame.call.to_s.force_encoding('UTF-8')
end

if version == 75
  socket.close_write                        # it has no other goodbye
  close = 'nothing'
else
  send_frame.call(:close, 'bye', code: 1000)
  frame = next_frame.call
  raise "no close frame, but #{frame.type}" unless frame.type == :close
  close = frame.code
end
rest = socket.read
raise "bytes after the end: #{rest.inspect}" unless rest.empty?

puts JSON.generate({ received: received, close: "#{close}, then the end" })
