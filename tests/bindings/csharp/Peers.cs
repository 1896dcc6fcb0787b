// Who talks to the servers under test: .NET's own client, and a bare TCP connection for crowds.
using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Net.Security;
using System.Net.Sockets;
using System.Net.WebSockets;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

namespace FullDuplex.Tests
{
    /// <summary>A <see cref="ClientWebSocket"/>, an implementation that shares nothing with ours.</summary>
    internal sealed class Peer : IDisposable
    {
        private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

        private readonly byte[] buffer = new byte[64 * 1024];

        private Peer(ClientWebSocket socket) => Socket = socket;

        public ClientWebSocket Socket { get; }

        public static async Task<Peer> Connect(WebSocketServer server, string target = "/", Action<ClientWebSocketOptions>? options = null)
        {
            var socket = new ClientWebSocket();
            options?.Invoke(socket.Options);
            await socket.ConnectAsync(new Uri($"ws://127.0.0.1:{server.Port}{target}"), Soon());
            return new Peer(socket);
        }

        public Task Send(string text) =>
            Socket.SendAsync(new ArraySegment<byte>(Encoding.UTF8.GetBytes(text)), WebSocketMessageType.Text, true, Soon());

        public Task Send(byte[] bytes) => Socket.SendAsync(new ArraySegment<byte>(bytes), WebSocketMessageType.Binary, true, Soon());

        /// <summary>The next message, a string or a byte array; or how the server closed, as "closed CODE REASON".</summary>
        public async Task<object> Receive()
        {
            var message = new MemoryStream();
            while (true)
            {
                WebSocketReceiveResult part = await Socket.ReceiveAsync(new ArraySegment<byte>(buffer), Soon());
                if (part.MessageType == WebSocketMessageType.Close)
                    return $"closed {(int)part.CloseStatus!} {part.CloseStatusDescription}".TrimEnd();
                message.Write(buffer, 0, part.Count);
                if (part.EndOfMessage)
                    return part.MessageType == WebSocketMessageType.Text ? Encoding.UTF8.GetString(message.ToArray()) : (object)message.ToArray();
            }
        }

        public Task Close(int code = 1000, string reason = "") => Socket.CloseAsync((WebSocketCloseStatus)code, reason, Soon());

        public void Dispose() => Socket.Dispose();

        private static CancellationToken Soon() => new CancellationTokenSource(Patience).Token;
    }

    /// <summary>A WebSocket written by hand, which can send thousands of messages at once.</summary>
    internal sealed class BarePeer : IDisposable
    {
        private readonly Stream stream;
        private byte[] unread = new byte[64 * 1024];
        private int from, to;

        private BarePeer(TcpClient client, Stream stream)
        {
            Client = client;
            this.stream = stream;
        }

        public TcpClient Client { get; }

        public static async Task<BarePeer> Connect(WebSocketServer server, string target = "/", int receiveBuffer = 0, bool isSecure = false)
        {
            var client = new TcpClient { NoDelay = true };
            if (receiveBuffer > 0)
                client.ReceiveBufferSize = receiveBuffer;
            await client.ConnectAsync("127.0.0.1", server.Port);
            Stream stream = client.GetStream();
            if (isSecure)
            {
                var secure = new SslStream(stream, false, (sender, shown, chain, errors) => true);
                await secure.AuthenticateAsClientAsync("localhost");
                stream = secure;
            }
            var peer = new BarePeer(client, stream);
            await peer.Write(Encoding.ASCII.GetBytes($"GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"));
            string head = "";
            while (!head.EndsWith("\r\n\r\n", StringComparison.Ordinal))
            {
                await peer.Need(1);
                head += (char)peer.unread[peer.from++];
            }
            Check.Contains(" 101 ", head);
            return peer;
        }

        /// <summary>Frames of these texts, each of at most 125 bytes, for <see cref="Write"/>.</summary>
        public static byte[] Frames(IEnumerable<string> texts) =>
            texts.Select(Encoding.UTF8.GetBytes).SelectMany(text =>
                // A mask of zeros changes nothing.
                new byte[] { 0x81, (byte)(0x80 | text.Length), 0, 0, 0, 0 }.Concat(text)).ToArray();

        public Task Write(byte[] bytes) => stream.WriteAsync(bytes, 0, bytes.Length);

        /// <summary>The payload of the next frame, as text.</summary>
        public async Task<string> Receive()
        {
            await Need(2);
            int length = unread[from + 1], head = 2;
            if (length == 126)
            {
                await Need(4);
                length = unread[from + 2] << 8 | unread[from + 3];
                head = 4;
            }
            else if (length == 127)
            {
                await Need(10);
                length = unread[from + 6] << 24 | unread[from + 7] << 16 | unread[from + 8] << 8 | unread[from + 9];
                head = 10;
            }
            await Need(head + length);
            string text = Encoding.UTF8.GetString(unread, from + head, length);
            from += head + length;
            return text;
        }

        public void Dispose() => Client.Dispose();

        private async Task Need(int count)
        {
            while (to - from < count)
            {
                if (from > 0)
                    Buffer.BlockCopy(unread, from, unread, 0, to - from);
                (from, to) = (0, to - from);
                if (count > unread.Length)
                    Array.Resize(ref unread, 2 * count);
                int read = await stream.ReadAsync(unread, to, unread.Length - to);
                Check.True(read > 0, "the server ended the connection");
                to += read;
            }
        }
    }

    /// <summary>What the log says during a test.</summary>
    internal sealed class LogReader : IDisposable
    {
        private readonly List<LogEntry> entries = new List<LogEntry>();

        public LogReader(LogLevel level = LogLevel.Error)
        {
            Log.Level = level;
            Log.Sink = entry =>
            {
                lock (entries)
                    entries.Add(entry);
            };
        }

        public List<LogEntry> Entries
        {
            get
            {
                lock (entries)
                    return entries.ToList();
            }
        }

        public void Dispose()
        {
            Log.Sink = null;
            Log.Level = LogLevel.Warning;
        }
    }

    internal static class Eventually
    {
        /// <summary>For what another thread is about to do and nothing can be waited for.</summary>
        public static async Task True(Func<bool> condition, string what)
        {
            for (int tries = 0; !condition(); tries++)
            {
                Check.True(tries < 2000, what);
                await Task.Delay(10);
            }
        }
    }
}
