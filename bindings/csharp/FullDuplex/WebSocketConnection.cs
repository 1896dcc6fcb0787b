// The face that users of Fleck know: a socket with callbacks.
using System;
using System.Collections.Generic;
using System.Threading;
using System.Threading.Tasks;

namespace FullDuplex
{
    /// <summary>
    /// A WebSocket. Its callbacks run on a thread of the library, which serves its other connections meanwhile not: they
    /// must be quick, and must not block, least of all for a send of their own to end (no <c>Wait()</c>, no <c>Result</c>).
    /// What a callback throws is given to <see cref="OnError"/> and the log, and closes the connection with 1011.
    /// </summary>
    public interface IWebSocketConnection
    {
        /// <summary>The connection has opened.</summary>
        Action OnOpen { get; set; }

        /// <summary>The connection has ended; nothing follows.</summary>
        Action OnClose { get; set; }

        /// <summary>A text has come.</summary>
        Action<string> OnMessage { get; set; }

        /// <summary>A binary message has come.</summary>
        Action<byte[]> OnBinary { get; set; }

        /// <summary>A ping has come; the library has answered it.</summary>
        Action<byte[]> OnPing { get; set; }

        /// <summary>A pong has come.</summary>
        Action<byte[]> OnPong { get; set; }

        /// <summary>One of the other callbacks threw.</summary>
        Action<Exception> OnError { get; set; }

        /// <summary>What is known of the client.</summary>
        IWebSocketConnectionInfo ConnectionInfo { get; }

        /// <summary>True from <see cref="OnOpen"/> until a close begins.</summary>
        bool IsAvailable { get; }

        /// <summary>The connection as a number, for broadcasts and everything else.</summary>
        Connection Connection { get; }

        /// <summary>How it ended; null while it has not.</summary>
        CloseStatus? CloseStatus { get; }

        /// <summary>
        /// Sends a text. It is copied before this returns; the task completes at once, or when a peer that is behind has
        /// caught up.
        /// </summary>
        Task<SendResult> Send(string message);

        /// <summary>Sends a binary message.</summary>
        Task<SendResult> Send(byte[] message);

        /// <summary>Sends a ping of your own, of at most 125 bytes.</summary>
        Task SendPing(byte[] message);

        /// <summary>From now on it gets what is published to a topic. False when it is gone or closing.</summary>
        bool Subscribe(Topic topic);

        /// <summary>It does not any more. False when it is gone.</summary>
        bool Unsubscribe(Topic topic);

        /// <summary>Closes with 1000.</summary>
        void Close();

        /// <summary>Closes with a code (1000 to 1003, 1007 to 1014 or 3000 to 4999; 0 for none) and a reason.</summary>
        void Close(int code, string reason = "");
    }

    /// <summary>What is known of a client.</summary>
    public interface IWebSocketConnectionInfo
    {
        /// <summary>The negotiated subprotocol; null without one.</summary>
        string? NegotiatedSubProtocol { get; }

        /// <summary>The page that a browser acts for.</summary>
        string? Origin { get; }

        /// <summary>The host as the client knows it.</summary>
        string? Host { get; }

        /// <summary>Path and query, as they were asked for.</summary>
        string Path { get; }

        /// <summary>The client's address.</summary>
        string ClientIpAddress { get; }

        /// <summary>The client's port.</summary>
        int ClientPort { get; }

        /// <summary>The cookies by their names.</summary>
        IReadOnlyDictionary<string, string> Cookies { get; }

        /// <summary>The headers by their names, in any case.</summary>
        IReadOnlyDictionary<string, string> Headers { get; }

        /// <summary>A number that no other connection has.</summary>
        Guid Id { get; }

        /// <summary>All there is of the request.</summary>
        Request Request { get; }
    }

    internal sealed class WebSocketConnection : IWebSocketConnection, IWebSocketConnectionInfo
    {
        private static readonly Action Nothing = () => { };

        private readonly Lazy<Guid> id = new Lazy<Guid>(Guid.NewGuid);
        private volatile bool isAvailable;
        private object? closeStatus; // in a box, so that other threads see all of it or nothing

        internal WebSocketConnection(Connection connection, Request request, string subprotocol)
        {
            Connection = connection;
            Request = request;
            NegotiatedSubProtocol = subprotocol == "" ? null : subprotocol;
        }

        public Action OnOpen { get; set; } = Nothing;

        public Action OnClose { get; set; } = Nothing;

        public Action<string> OnMessage { get; set; } = message => { };

        public Action<byte[]> OnBinary { get; set; } = message => { };

        public Action<byte[]> OnPing { get; set; } = payload => { };

        public Action<byte[]> OnPong { get; set; } = payload => { };

        public Action<Exception> OnError { get; set; } = exception => { };

        public IWebSocketConnectionInfo ConnectionInfo => this;

        public bool IsAvailable { get => isAvailable; internal set => isAvailable = value; }

        public Connection Connection { get; }

        public CloseStatus? CloseStatus => (CloseStatus?)Volatile.Read(ref closeStatus);

        internal Outbox Outbox { get; } = new Outbox();

        internal void Ended(CloseStatus status)
        {
            isAvailable = false;
            Volatile.Write(ref closeStatus, status);
            Outbox.Closed();
        }

        public Task<SendResult> Send(string message)
        {
            int ticket = Outbox.Ticket;
            return Outbox.Outcome(Connection.Send(message), ticket);
        }

        public Task<SendResult> Send(byte[] message)
        {
            int ticket = Outbox.Ticket;
            return Outbox.Outcome(Connection.Send(message), ticket);
        }

        public Task SendPing(byte[] message)
        {
            Connection.Ping(message);
            return Task.CompletedTask;
        }

        public bool Subscribe(Topic topic) => Connection.Subscribe(topic);

        public bool Unsubscribe(Topic topic) => Connection.Unsubscribe(topic);

        public void Close() => Close(1000);

        public void Close(int code, string reason = "")
        {
            IsAvailable = false;
            Connection.Close(code, reason);
        }

        // -- ConnectionInfo --------------------------------------------------------------------------------

        public Request Request { get; }

        public string? NegotiatedSubProtocol { get; }

        public string? Origin => Request.Origin;

        public string? Host => Request.Host;

        public string Path => Request.QueryString == "" ? Request.Path : Request.Path + "?" + Request.QueryString;

        public string ClientIpAddress => Request.RemoteAddress;

        public int ClientPort => Request.RemotePort;

        public IReadOnlyDictionary<string, string> Cookies => Request.Cookies;

        public IReadOnlyDictionary<string, string> Headers => Request.Headers;

        public Guid Id => id.Value;
    }

    /// <summary>A route with such sockets.</summary>
    internal sealed unsafe class SocketRoute : Route
    {
        private readonly Action<IWebSocketConnection> configure;

        internal SocketRoute(WebSocketServer server, string pattern, Action<IWebSocketConnection> configure) : base(server, pattern) =>
            this.configure = configure;

        internal override Slots Wanted => Slots.WebSocket | Slots.Open | Slots.Message | Slots.Close | Slots.Drain;

        internal override void Open(Native.fdx_event* e)
        {
            var socket = new WebSocketConnection(new Connection(Server, e->conn), TakeRequest(e), Text.From(e->data, e->len));
            if (!Results.Done(Server.SetState(e->conn, socket)))
                return;
            try
            {
                configure(socket);
                socket.IsAvailable = true;
                socket.OnOpen();
            }
            catch (Exception exception)
            {
                // The event was made before the socket, and does not carry it.
                Failed(e, exception, socket);
            }
        }

        internal override void Message(Native.fdx_event* e)
        {
            if (!(StateOf(e) is WebSocketConnection socket))
                return;
            if ((e->flags & Native.FDX_EVF_BINARY) == 0)
                socket.OnMessage(Text.From(e->data, e->len));
            else
                socket.OnBinary(Text.Copy(e->data, e->len));
        }

        internal override void Drain(Native.fdx_event* e) => (StateOf(e) as WebSocketConnection)?.Outbox.Drained();

        internal override void Close(Native.fdx_event* e)
        {
            if (!(StateOf(e) is WebSocketConnection socket))
                return;
            socket.Ended(CloseOf(e));
            socket.OnClose();
        }

        protected override void Ping(Native.fdx_event* e) => (StateOf(e) as WebSocketConnection)?.OnPing(Text.Copy(e->data, e->len));

        protected override void Pong(Native.fdx_event* e) => (StateOf(e) as WebSocketConnection)?.OnPong(Text.Copy(e->data, e->len));

        internal override void Failed(Native.fdx_event* e, Exception exception) => Failed(e, exception, StateOf(e) as WebSocketConnection);

        private void Failed(Native.fdx_event* e, Exception exception, WebSocketConnection? socket)
        {
            base.Failed(e, exception);
            if (socket == null)
                return;
            socket.IsAvailable = false;
            socket.OnError(exception);
        }
    }
}
