// The plainest face: each event is a call, on the thread of the library that has it.
using System;

namespace FullDuplex
{
    /// <summary>A connection has opened. The request may be kept.</summary>
    public delegate void OpenHandler(Connection connection, Request request);

#if NET472
    /// <summary>A message has come. The bytes are valid until the return.</summary>
    public delegate void MessageHandler(Connection connection, MessageKind kind, ArraySegment<byte> data);

    /// <summary>A piece of a message has come; text may be cut inside a character. The bytes are valid until the return.</summary>
    public delegate void FragmentHandler(Connection connection, MessageKind kind, ArraySegment<byte> data, bool isLast);

    /// <summary>A ping or pong has come, with its payload, which is valid until the return.</summary>
    public delegate void PingHandler(Connection connection, ArraySegment<byte> payload);
#else
    /// <summary>A message has come. The bytes are the library's own and valid until the return.</summary>
    public delegate void MessageHandler(Connection connection, MessageKind kind, ReadOnlySpan<byte> data);

    /// <summary>A piece of a message has come; text may be cut inside a character. The bytes are valid until the return.</summary>
    public delegate void FragmentHandler(Connection connection, MessageKind kind, ReadOnlySpan<byte> data, bool isLast);

    /// <summary>A ping or pong has come, with its payload, which is valid until the return.</summary>
    public delegate void PingHandler(Connection connection, ReadOnlySpan<byte> payload);
#endif

    /// <summary>No more than <c>send.low_water</c> is queued for the connection again.</summary>
    public delegate void DrainHandler(Connection connection);

    /// <summary>A connection has ended; nothing follows.</summary>
    public delegate void CloseHandler(Connection connection, CloseStatus status);

    /// <summary>
    /// What is called for the connections of a route, on a thread of the library: what a handler does, the other
    /// connections of that thread wait for. Those that are null cost nothing. They are read when the server starts. An
    /// exception is logged, and closes its connection with 1011.
    /// </summary>
    public sealed class Handlers
    {
        /// <summary>A connection has opened.</summary>
        public OpenHandler? OnOpen { get; set; }

        /// <summary>A whole message has come.</summary>
        public MessageHandler? OnMessage { get; set; }

        /// <summary>Set instead of <see cref="OnMessage"/>, messages come in pieces and are never assembled.</summary>
        public FragmentHandler? OnFragment { get; set; }

        /// <summary>After <see cref="SendResult.HighWater"/>: there is room again.</summary>
        public DrainHandler? OnDrain { get; set; }

        /// <summary>A connection has ended.</summary>
        public CloseHandler? OnClose { get; set; }

        /// <summary>The peer's ping, answered already.</summary>
        public PingHandler? OnPing { get; set; }

        /// <summary>A pong.</summary>
        public PingHandler? OnPong { get; set; }
    }

    /// <summary>A route with such handlers.</summary>
    internal sealed unsafe class HandlersRoute : Route
    {
        private readonly Handlers handlers;

        internal HandlersRoute(WebSocketServer server, string pattern, Handlers handlers) : base(server, pattern)
        {
            if (handlers.OnMessage != null && handlers.OnFragment != null)
                throw new ArgumentException("messages come whole or in pieces: set OnMessage or OnFragment");
            this.handlers = handlers;
        }

        internal override Slots Wanted =>
            (handlers.OnOpen != null ? Slots.Open : 0) | (handlers.OnDrain != null ? Slots.Drain : 0) |
            (handlers.OnMessage != null || handlers.OnFragment != null ? Slots.Message : 0) |
            (handlers.OnClose != null ? Slots.Close : 0) | Slots.WebSocket;

        internal override uint Flags => base.Flags | (handlers.OnFragment != null ? Native.FDX_ROUTE_STREAM : 0);

        internal override void Open(Native.fdx_event* e)
        {
            // After a decision the connection carries its request, which is not the embedder's state.
            if (handlers.OnOpen != null || e->conn_data != IntPtr.Zero)
            {
                Request request = TakeRequest(e);
                handlers.OnOpen?.Invoke(new Connection(Server, e->conn), request);
            }
        }

        internal override void Message(Native.fdx_event* e)
        {
            MessageKind kind = Kind(e);
            if (e->type == Native.FDX_EV_FRAGMENT)
                handlers.OnFragment?.Invoke(ConnectionOf(e), kind, Payload(e), (e->flags & Native.FDX_EVF_FIN) != 0);
            else
                handlers.OnMessage?.Invoke(ConnectionOf(e), kind, Payload(e));
        }

        internal override void Drain(Native.fdx_event* e) => handlers.OnDrain?.Invoke(ConnectionOf(e));

        internal override void Close(Native.fdx_event* e) => handlers.OnClose?.Invoke(ConnectionOf(e), CloseOf(e));

        protected override void Ping(Native.fdx_event* e) => handlers.OnPing?.Invoke(ConnectionOf(e), Payload(e));

        protected override void Pong(Native.fdx_event* e) => handlers.OnPong?.Invoke(ConnectionOf(e), Payload(e));

        protected override Connection ConnectionOf(Native.fdx_event* e) => new Connection(Server, e->conn, StateOf(e));

#if NET472
        private static ArraySegment<byte> Payload(Native.fdx_event* e) => new ArraySegment<byte>(Text.Copy(e->data, e->len));
#else
        private static ReadOnlySpan<byte> Payload(Native.fdx_event* e) => new ReadOnlySpan<byte>(e->data, checked((int)e->len));
#endif
    }
}
