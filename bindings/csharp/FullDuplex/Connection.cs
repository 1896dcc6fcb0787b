// A connection, as a number that can be kept and copied.
using System;

namespace FullDuplex
{
    /// <summary>What a message is made of.</summary>
    public enum MessageKind
    {
        /// <summary>Text, which is UTF-8 on its way.</summary>
        Text = (int)Native.FDX_TEXT,

        /// <summary>Bytes.</summary>
        Binary = (int)Native.FDX_BINARY,
    }

    /// <summary>How a message goes out.</summary>
    [Flags]
    public enum SendFlags
    {
        /// <summary>As the options say.</summary>
        None = 0,

        /// <summary>Compress it however short it is, where compression was agreed on.</summary>
        Compress = (int)Native.FDX_F_COMPRESS,

        /// <summary>Don't compress it: for secrets beside text that somebody else has chosen.</summary>
        NoCompress = (int)Native.FDX_F_NO_COMPRESS,

        /// <summary>The message goes on with the next send to this connection, of the same kind.</summary>
        More = (int)Native.FDX_F_MORE,
    }

    /// <summary>
    /// A connection of a server: a number that may be kept, copied and used on any thread. When the connection has gone,
    /// every call says so and does nothing.
    /// </summary>
    public readonly unsafe struct Connection : IEquatable<Connection>
    {
        internal Connection(WebSocketServer server, ulong id, object? state = null)
        {
            Server = server;
            Id = id;
            State = state;
        }

        /// <summary>Whose connection it is.</summary>
        public WebSocketServer Server { get; }

        /// <summary>Its number, never 0 and never used again.</summary>
        public ulong Id { get; }

        /// <summary>In a callback for a route with <see cref="Handlers"/>: what <see cref="SetState"/> has stored.</summary>
        public object? State { get; }

        /// <summary>Sends a text. The library copies it before this returns, and never blocks.</summary>
        /// <exception cref="FullDuplexException">It can never be sent: too big.</exception>
        public SendResult Send(string text, SendFlags flags = SendFlags.None)
        {
            byte[] bytes = Text.Encode(text, out int length);
            return Results.OfSend(Server.Send(Id, MessageKind.Text, bytes, 0, length, flags));
        }

        /// <summary>Sends bytes, as binary or as a text in UTF-8. The library copies them before this returns.</summary>
        /// <exception cref="FullDuplexException">It can never be sent: too big, no UTF-8, or binary on a Hixie connection.</exception>
        public SendResult Send(byte[] data, MessageKind kind = MessageKind.Binary, SendFlags flags = SendFlags.None) =>
            Results.OfSend(Server.Send(Id, kind, data, 0, data.Length, flags));

#if NET472
        /// <summary>Sends bytes, as binary or as a text in UTF-8. The library copies them before this returns.</summary>
        /// <exception cref="FullDuplexException">It can never be sent: too big, no UTF-8, or binary on a Hixie connection.</exception>
        public SendResult Send(ArraySegment<byte> data, MessageKind kind = MessageKind.Binary, SendFlags flags = SendFlags.None) =>
            Results.OfSend(Server.Send(Id, kind, data.Array ?? Array.Empty<byte>(), data.Offset, data.Count, flags));
#else
        /// <summary>Sends bytes, as binary or as a text in UTF-8. The library copies them before this returns.</summary>
        /// <exception cref="FullDuplexException">It can never be sent: too big, no UTF-8, or binary on a Hixie connection.</exception>
        public SendResult Send(ReadOnlySpan<byte> data, MessageKind kind = MessageKind.Binary, SendFlags flags = SendFlags.None)
        {
            fixed (byte* bytes = data)
                return Results.OfSend(Server.Send(Id, kind, bytes, data.Length, flags));
        }
#endif

        /// <summary>
        /// Begins the close handshake; what was sent before goes first. False when the connection is gone or closing
        /// already. 0 is a close without a code.
        /// </summary>
        public bool Close(int code = 1000, string reason = "") => Results.Done(Server.Close(Id, code, reason));

        /// <summary>Ends the connection at once, dropping what is queued. False when it is gone already.</summary>
        public bool Abort() => Results.Done(Server.Abort(Id));

        /// <summary>Sends a ping of your own, of at most 125 bytes. The library pings by itself, too.</summary>
        public bool Ping(byte[] payload) => Results.Done(Server.Ping(Id, payload));

        /// <summary>Stops reading from the peer, so that TCP slows it down. What was read already may still come.</summary>
        public bool Pause() => Results.Done(Server.Pause(Id));

        /// <summary>Reads again.</summary>
        public bool Resume() => Results.Done(Server.Resume(Id));

        /// <summary>
        /// Has the connection get what is published to a topic from now on; that it is in it already is no error. False when it is
        /// gone or closing.
        /// </summary>
        /// <exception cref="FullDuplexException">The name is empty or too long, or <c>max.topics</c> is reached.</exception>
        public bool Subscribe(Topic topic) => Results.Done(Server.Subscribe(Id, topic));

        /// <summary>Ends that; that it is not in the topic is no error. False when it is gone.</summary>
        /// <exception cref="FullDuplexException">The name is empty or too long.</exception>
        public bool Unsubscribe(Topic topic) => Results.Done(Server.Unsubscribe(Id, topic));

        /// <summary>Keeps an object with the connection: from then on its events carry it as <see cref="State"/>.</summary>
        public bool SetState(object? state) => Results.Done(Server.SetState(Id, state));

        /// <summary>What is known of it; null when it is gone.</summary>
        public ConnectionInfo? Info => Server.GetInfo(Id);

        /// <inheritdoc/>
        public bool Equals(Connection other) => Id == other.Id && ReferenceEquals(Server, other.Server);

        /// <inheritdoc/>
        public override bool Equals(object? other) => other is Connection connection && Equals(connection);

        /// <inheritdoc/>
        public override int GetHashCode() => Id.GetHashCode();

        /// <inheritdoc/>
        public override string ToString() => $"#{Id}";

        /// <summary>The same connection.</summary>
        public static bool operator ==(Connection left, Connection right) => left.Equals(right);

        /// <summary>Another connection.</summary>
        public static bool operator !=(Connection left, Connection right) => !left.Equals(right);
    }

    /// <summary>What is known of a connection, at one moment.</summary>
    public sealed unsafe class ConnectionInfo
    {
        internal ConnectionInfo(in Native.fdx_conn_info info)
        {
            Opened = TimeSpan.FromTicks((long)info.opened_us * 10);
            BytesIn = (long)info.bytes_in;
            BytesOut = (long)info.bytes_out;
            MessagesIn = (long)info.msgs_in;
            MessagesOut = (long)info.msgs_out;
            QueuedBytes = (long)info.queued_bytes;
            Dropped = (long)info.dropped;
            RoundTrip = TimeSpan.FromTicks(info.rtt_us * 10L);
            RemotePort = info.remote_port;
            LocalPort = info.local_port;
            Version = info.version;
            IsSecure = (info.flags & Native.FDX_CI_TLS) != 0;
            IsCompressed = (info.flags & Native.FDX_CI_DEFLATE) != 0;
            fixed (byte* remote = info.remote_addr, peer = info.peer_addr, subprotocol = info.subprotocol)
            {
                RemoteAddress = Text.FromNul(remote);
                PeerAddress = Text.FromNul(peer);
                Subprotocol = Text.FromNul(subprotocol);
            }
        }

        /// <summary>When it opened, on the library's monotonic clock.</summary>
        public TimeSpan Opened { get; }

        /// <summary>On the wire, heads and handshake included.</summary>
        public long BytesIn { get; }

        /// <summary>On the wire, heads and handshake included.</summary>
        public long BytesOut { get; }

        /// <summary>Messages of the peer.</summary>
        public long MessagesIn { get; }

        /// <summary>Messages to the peer.</summary>
        public long MessagesOut { get; }

        /// <summary>Not yet taken by the kernel.</summary>
        public long QueuedBytes { get; }

        /// <summary>Messages refused as <see cref="SendResult.Full"/>.</summary>
        public long Dropped { get; }

        /// <summary>The last round trip of a ping; zero if none was measured yet.</summary>
        public TimeSpan RoundTrip { get; }

        /// <summary>The client's address: what a trusted proxy says, or else <see cref="PeerAddress"/>.</summary>
        public string RemoteAddress { get; }

        /// <summary>The client's port.</summary>
        public int RemotePort { get; }

        /// <summary>The address of the socket's other end; "unix" for a Unix socket.</summary>
        public string PeerAddress { get; }

        /// <summary>The port it came in at.</summary>
        public int LocalPort { get; }

        /// <summary>The protocol version: 13, 8, 7, 76 (Hixie-76) or 75 (Hixie-75).</summary>
        public int Version { get; }

        /// <summary>The connection is encrypted.</summary>
        public bool IsSecure { get; }

        /// <summary>The connection is compressed.</summary>
        public bool IsCompressed { get; }

        /// <summary>The negotiated subprotocol, or "".</summary>
        public string Subprotocol { get; }
    }

    /// <summary>Who ended a connection.</summary>
    public enum ClosedBy
    {
        /// <summary>The peer closed.</summary>
        Peer = (int)Native.FDX_CLOSED_BY_PEER,

        /// <summary>This program did.</summary>
        Host = (int)Native.FDX_CLOSED_BY_HOST,

        /// <summary>The peer stalled, did not answer a ping, or was idle for too long.</summary>
        Timeout = (int)Native.FDX_CLOSED_BY_TIMEOUT,

        /// <summary>A limit: <c>max.message</c>, <c>send.limit</c>.</summary>
        Limit = (int)Native.FDX_CLOSED_BY_LIMIT,

        /// <summary>The peer broke the protocol.</summary>
        Protocol = (int)Native.FDX_CLOSED_BY_PROTOCOL,

        /// <summary>The TCP connection ended without a close.</summary>
        Network = (int)Native.FDX_CLOSED_BY_NETWORK,

        /// <summary>The server is stopping.</summary>
        Shutdown = (int)Native.FDX_CLOSED_BY_SHUTDOWN,
    }

    /// <summary>How a connection ended.</summary>
    public readonly struct CloseStatus
    {
        internal CloseStatus(int code, string reason, ClosedBy by)
        {
            Code = code;
            Reason = reason;
            By = by;
        }

        /// <summary>The peer's code: 1005 if its close had none, 1006 if no close came; ours after a violation.</summary>
        public int Code { get; }

        /// <summary>The reason that came with the code.</summary>
        public string Reason { get; }

        /// <summary>Who ended it.</summary>
        public ClosedBy By { get; }

        /// <inheritdoc/>
        public override string ToString() => $"{Code} {Reason} (by {By})";
    }
}
