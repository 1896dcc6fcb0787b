// The asynchronous face: a connection is a stream of messages that a handler awaits, on the thread pool.
using System;
using System.Collections.Generic;
using System.Threading;
using System.Threading.Tasks;
#if NET472
using BoolTask = System.Threading.Tasks.Task<bool>;
using Bytes = System.ArraySegment<byte>;
using SendTask = System.Threading.Tasks.Task<FullDuplex.SendResult>;
#else
using BoolTask = System.Threading.Tasks.ValueTask<bool>;
using Bytes = System.ReadOnlyMemory<byte>;
using SendTask = System.Threading.Tasks.ValueTask<FullDuplex.SendResult>;
#endif

namespace FullDuplex
{
    /// <summary>
    /// A WebSocket, as an asynchronous handler has it: <c>await foreach (var message in connection)</c> takes the peer's
    /// messages one after the other and ends when the connection has ended. What a handler takes long for, only its own
    /// peer waits for: messages that wait are bounded (<see cref="WebSocketServer.ReceiveHighWater"/>), and then by TCP.
    /// </summary>
    public sealed class AsyncConnection
#if !NET472
        : IAsyncEnumerable<Message>
#endif
    {
        private readonly Inbox inbox;
        private readonly Outbox outbox = new Outbox();
        private readonly TaskCompletionSource<CloseStatus> closed =
            new TaskCompletionSource<CloseStatus>(TaskCreationOptions.RunContinuationsAsynchronously);
        private readonly Lazy<CancellationTokenSource> gone;
        private object? closeStatus; // in a box, so that other threads see all of it or nothing

        internal AsyncConnection(Connection connection, Request request, string subprotocol)
        {
            Connection = connection;
            Request = request;
            Subprotocol = subprotocol == "" ? null : subprotocol;
            inbox = new Inbox(connection);
            gone = new Lazy<CancellationTokenSource>(() => new CancellationTokenSource());
        }

        /// <summary>The connection as a number, for broadcasts and everything else.</summary>
        public Connection Connection { get; }

        /// <summary>What the client asked for.</summary>
        public Request Request { get; }

        /// <summary>The negotiated subprotocol; null without one.</summary>
        public string? Subprotocol { get; }

        /// <summary>How the connection ended; null while it has not.</summary>
        public CloseStatus? CloseStatus => (CloseStatus?)Volatile.Read(ref closeStatus);

        /// <summary>Is cancelled when the connection has ended.</summary>
        public CancellationToken Closed
        {
            get
            {
                CancellationToken token = gone.Value.Token;
                // It may have ended before somebody asked.
                if (CloseStatus != null)
                    gone.Value.Cancel();
                return token;
            }
        }

        // -- receiving ------------------------------------------------------------------------------------

        /// <summary>The peer's messages, until the connection has ended. One reader at a time.</summary>
#if NET472
        public MessageReader GetAsyncEnumerator(CancellationToken cancellationToken = default) =>
#else
        public IAsyncEnumerator<Message> GetAsyncEnumerator(CancellationToken cancellationToken = default) =>
#endif
            new MessageReader(inbox, cancellationToken);

        /// <summary>The next message; null when the connection has ended. One reader at a time.</summary>
#if NET472
        public async Task<Message?> ReceiveAsync(CancellationToken cancellationToken = default)
#else
        public async ValueTask<Message?> ReceiveAsync(CancellationToken cancellationToken = default)
#endif
        {
            using (inbox.CancelWith(cancellationToken))
                return await inbox.MoveNextAsync().ConfigureAwait(false) ? inbox.Current : (Message?)null;
        }

        // -- sending --------------------------------------------------------------------------------------

        /// <summary>
        /// Sends a text. It is copied before this returns; the task completes at once, or when a peer that is behind has
        /// caught up. The token ends the wait and takes nothing back.
        /// </summary>
        public SendTask SendAsync(string text, CancellationToken cancellationToken = default)
        {
            cancellationToken.ThrowIfCancellationRequested();
            int ticket = outbox.Ticket;
            return Outcome(Connection.Send(text), ticket, cancellationToken);
        }

        /// <summary>Sends bytes, as binary or as a text in UTF-8.</summary>
        public SendTask SendAsync(Bytes data, MessageKind kind = MessageKind.Binary, CancellationToken cancellationToken = default)
        {
            cancellationToken.ThrowIfCancellationRequested();
            int ticket = outbox.Ticket;
#if NET472
            return Outcome(Connection.Send(data, kind), ticket, cancellationToken);
#else
            return Outcome(Connection.Send(data.Span, kind), ticket, cancellationToken);
#endif
        }

        /// <summary>Sends bytes, as binary or as a text in UTF-8.</summary>
        public SendTask SendAsync(byte[] data, MessageKind kind = MessageKind.Binary, CancellationToken cancellationToken = default) =>
            SendAsync(new Bytes(data), kind, cancellationToken);

        /// <summary>Sends a message as it came.</summary>
        public SendTask SendAsync(Message message, CancellationToken cancellationToken = default) =>
            SendAsync(message.Data, message.Kind, cancellationToken);

        private SendTask Outcome(SendResult result, int ticket, CancellationToken cancellationToken)
        {
#if NET472
            return outbox.Outcome(result, ticket).Or(cancellationToken);
#else
            return result == SendResult.HighWater
                ? new SendTask(outbox.Outcome(result, ticket).Or(cancellationToken))
                : new SendTask(result);
#endif
        }

        // -- topics ---------------------------------------------------------------------------------------

        /// <summary>
        /// From now on the peer gets what is published to a topic; the handler has no part in it. False when it is gone or closing.
        /// </summary>
        public bool Subscribe(Topic topic) => Connection.Subscribe(topic);

        /// <summary>It does not any more. False when it is gone.</summary>
        public bool Unsubscribe(Topic topic) => Connection.Unsubscribe(topic);

        // -- ending ---------------------------------------------------------------------------------------

        /// <summary>
        /// Begins the close handshake, and completes when the connection has ended. What the peer has sent meanwhile is
        /// not received any more.
        /// </summary>
        public Task<CloseStatus> CloseAsync(int code = 1000, string reason = "", CancellationToken cancellationToken = default)
        {
            Connection.Close(code, reason);
            return closed.Task.Or(cancellationToken);
        }

        /// <summary>Ends the connection at once, dropping what is queued.</summary>
        public void Abort() => Connection.Abort();

        // -- the library's side -----------------------------------------------------------------------------

        internal void Run(Func<AsyncConnection, Task> handler, string pattern)
        {
            Connection.Server.HandlerBegins();
            if (Connection.Server.HandlersNeverBlock)
                _ = Handle(handler, pattern);
            else
                ThreadPool.UnsafeQueueUserWorkItem(state => { _ = Handle(handler, pattern); }, null);
        }

        private async Task Handle(Func<AsyncConnection, Task> handler, string pattern)
        {
            try
            {
                await handler(this).ConfigureAwait(false);
                Connection.Server.Close(Connection.Id, 1000, "");
            }
            catch (OperationCanceledException) when (CloseStatus != null)
            {
                // The connection ended, and the handler with it.
            }
            catch (Exception exception)
            {
                Log.Write(Connection.Id, $"the handler of {pattern} threw; its connection closes with 1011", exception);
                Connection.Server.Close(Connection.Id, 1011, "");
            }
            finally
            {
                inbox.Abandon();
                Connection.Server.HandlerEnds();
            }
        }

        internal void Receive(Message message) => inbox.Add(message);

        internal void Drained() => outbox.Drained();

        internal void Ended(CloseStatus status)
        {
            // With a fence: either this sees that somebody has asked for the token, or who asks sees this.
            Interlocked.Exchange(ref closeStatus, status);
            outbox.Closed();
            inbox.End();
            closed.TrySetResult(status);
            if (gone.IsValueCreated)
                // What hangs on the token runs elsewhere: it may take its time.
                ThreadPool.UnsafeQueueUserWorkItem(_ => gone.Value.Cancel(), null);
        }
    }

    /// <summary>The messages of a connection, as <c>await foreach</c> takes them.</summary>
    public sealed class MessageReader
#if !NET472
        : IAsyncEnumerator<Message>
#endif
    {
        private readonly Inbox inbox;
        private readonly CancellationTokenRegistration cancellation;

        internal MessageReader(Inbox inbox, CancellationToken cancellationToken)
        {
            this.inbox = inbox;
            cancellation = inbox.CancelWith(cancellationToken);
        }

        /// <summary>The message that was taken last.</summary>
        public Message Current => inbox.Current;

        /// <summary>Takes the next message; false when the connection has ended.</summary>
        public BoolTask MoveNextAsync() => inbox.MoveNextAsync();

        /// <summary>Takes no more.</summary>
#if NET472
        public Task DisposeAsync()
        {
            cancellation.Dispose();
            return Task.CompletedTask;
        }
#else
        public ValueTask DisposeAsync()
        {
            cancellation.Dispose();
            return default;
        }
#endif
    }

    /// <summary>A route with such connections.</summary>
    internal sealed unsafe class AsyncRoute : Route
    {
        private readonly Func<AsyncConnection, Task> handler;

        internal AsyncRoute(WebSocketServer server, string pattern, Func<AsyncConnection, Task> handler) : base(server, pattern) =>
            this.handler = handler;

        internal override Slots Wanted => Slots.WebSocket | Slots.Open | Slots.Message | Slots.Close | Slots.Drain;

        internal override void Open(Native.fdx_event* e)
        {
            var connection = new AsyncConnection(new Connection(Server, e->conn), TakeRequest(e), Text.From(e->data, e->len));
            if (Results.Done(Server.SetState(e->conn, connection)))
                connection.Run(handler, Pattern);
        }

        internal override void Message(Native.fdx_event* e) =>
            (StateOf(e) as AsyncConnection)?.Receive(new Message(Text.Copy(e->data, e->len), Kind(e)));

        internal override void Drain(Native.fdx_event* e) => (StateOf(e) as AsyncConnection)?.Drained();

        internal override void Close(Native.fdx_event* e) => (StateOf(e) as AsyncConnection)?.Ended(CloseOf(e));
    }
}
