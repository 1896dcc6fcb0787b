// A pattern of paths with what happens to those who ask for them; each face of the binding is one kind of it.
using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using System.Threading;
using System.Threading.Tasks;

namespace FullDuplex
{
    /// <summary>Which events the library should call for.</summary>
    [Flags]
    internal enum Slots
    {
        None = 0,
        Open = 1,
        Message = 2,
        Close = 4,
        Drain = 8,

        /// <summary>The route takes WebSockets at all; else it is a page.</summary>
        WebSocket = 16,
    }

    internal abstract unsafe class Route
    {
        private readonly IReadOnlyList<string> parameters;

        protected Route(WebSocketServer server, string pattern)
        {
            Server = server;
            Pattern = pattern;
            parameters = Request.ParametersOf(pattern);
        }

        internal WebSocketServer Server { get; }

        internal string Pattern { get; }

        /// <summary>Answers plain HTTP requests, if the route has pages.</summary>
        internal Func<HttpRequest, HttpReply>? Page { get; set; }

        /// <summary>The same, taking its time.</summary>
        internal Func<HttpRequest, Task<HttpReply>>? AsyncPage { get; set; }

        internal abstract Slots Wanted { get; }

        internal virtual uint Flags =>
            (Page != null || AsyncPage != null ? Native.FDX_ROUTE_HTTP : 0) | (Server.OnTopic != null ? Native.FDX_ROUTE_TOPIC : 0);

        // -- the events, on a thread of the library -------------------------------------------------------

        internal void Upgrade(Native.fdx_event* e)
        {
            ulong connection = e->conn;
            var request = new Request(Server, connection, parameters);
            if (Results.Done(Server.SetState(connection, request)))
                Decide(request, connection);
        }

        internal virtual void Open(Native.fdx_event* e) { }

        internal virtual void Message(Native.fdx_event* e) { }

        internal virtual void Drain(Native.fdx_event* e) { }

        internal virtual void Close(Native.fdx_event* e) { }

        protected virtual void Ping(Native.fdx_event* e) { }

        protected virtual void Pong(Native.fdx_event* e) { }

        internal void Other(Native.fdx_event* e)
        {
            switch ((uint)e->type)
            {
                case Native.FDX_EV_PING: Ping(e); break;
                case Native.FDX_EV_PONG: Pong(e); break;
                case Native.FDX_EV_HTTP: Http(e); break;
                case Native.FDX_EV_TOPIC: ChangeOfTopic(e); break;
                case Native.FDX_EV_BACKPLANE: Server.OnBackplane?.Invoke((BackplaneState)e->code, Text.From(e->data, e->len)); break;
                case Native.FDX_EV_STOPPED: Server.HasStopped(); break;
                case Native.FDX_EV_THREAD_START: Collector.MayStopThisThread(); break;
            }
        }

        private void ChangeOfTopic(Native.fdx_event* e) =>
            Server.OnTopic?.Invoke(ConnectionOf(e), new Topic(e->data, e->len), (TopicChange)e->code, (long)e->arg);

        /// <summary>A handler threw. Called under a net: what it throws itself is dropped.</summary>
        internal virtual void Failed(Native.fdx_event* e, Exception exception)
        {
            // What is nobody's in particular comes to the first route.
            Log.Write(e->conn, $"a handler of {(e->conn == 0 ? "the server" : Pattern)} threw; {Consequence(e)}", exception);
            switch ((uint)e->type)
            {
                case Native.FDX_EV_UPGRADE:
                    Server.Reject(e->conn, 500, "", Array.Empty<byte>());
                    break;
                case Native.FDX_EV_HTTP:
                    Server.HttpReply(e->conn, 500, "", Array.Empty<byte>());
                    break;
                case Native.FDX_EV_CLOSE:
                case Native.FDX_EV_BACKPLANE:
                    break;
                default:
                    Server.Close(e->conn, InternalError, "");
                    break;
            }
        }

        protected const int InternalError = 1011;

        private static string Consequence(Native.fdx_event* e) => (uint)e->type switch
        {
            Native.FDX_EV_UPGRADE => "its client gets status 500",
            Native.FDX_EV_HTTP => "its client gets status 500",
            Native.FDX_EV_CLOSE => "its connection had ended",
            Native.FDX_EV_BACKPLANE => "nothing else happens",
            _ => $"its connection closes with {InternalError}",
        };

        // -- what the events carry -----------------------------------------------------------------------

        protected virtual Connection ConnectionOf(Native.fdx_event* e) => new Connection(Server, e->conn);

        protected static MessageKind Kind(Native.fdx_event* e) =>
            (e->flags & Native.FDX_EVF_BINARY) != 0 ? MessageKind.Binary : MessageKind.Text;

        protected static CloseStatus CloseOf(Native.fdx_event* e) =>
            new CloseStatus(e->code, Text.From(e->data, e->len), (ClosedBy)e->arg);

        /// <summary>What <see cref="WebSocketServer.SetState"/> has stored.</summary>
        protected static object? StateOf(Native.fdx_event* e) =>
            e->conn_data == IntPtr.Zero ? null : GCHandle.FromIntPtr(e->conn_data).Target;

        /// <summary>In OPEN: the request, read now unless it was for a decision.</summary>
        protected Request TakeRequest(Native.fdx_event* e)
        {
            if (!(StateOf(e) is Request request))
                return new Request(Server, e->conn, parameters);
            Server.SetState(e->conn, null);
            return request;
        }

        // -- decisions and pages ---------------------------------------------------------------------------

        private void Decide(Request request, ulong connection)
        {
            if (Server.OnRequestAsync is { } decideLater)
                Later.Decide(decideLater, request, this, connection);
            else if (Server.OnRequest is { } decide)
                decide(request).Apply(Server, connection);
        }

        private void Http(Native.fdx_event* e)
        {
            var request = new HttpRequest(new Request(Server, e->conn, parameters), Text.Copy(e->data, e->len));
            if (AsyncPage is { } replyLater)
                Later.Reply(replyLater, request, this, e->conn);
            else if (Page is { } reply)
                reply(request).Apply(Server, e->conn);
        }
    }

    /// <summary>Answers that take their time, on the thread pool: the library's thread goes on meanwhile.</summary>
    internal static class Later
    {
        internal static void Decide(Func<Request, Task<Decision>> decide, Request request, Route route, ulong connection) =>
            Run(route, connection,
                async () => (await decide(request).ConfigureAwait(false)).Apply(route.Server, connection),
                () => route.Server.Reject(connection, 500, "", Array.Empty<byte>()));

        internal static void Reply(Func<HttpRequest, Task<HttpReply>> reply, HttpRequest request, Route route, ulong token) =>
            Run(route, token,
                async () => (await reply(request).ConfigureAwait(false)).Apply(route.Server, token),
                () => route.Server.HttpReply(token, 500, "", Array.Empty<byte>()));

        private static void Run(Route route, ulong connection, Func<Task> work, Action apologize)
        {
            ThreadPool.UnsafeQueueUserWorkItem(async _ =>
            {
                try
                {
                    await work().ConfigureAwait(false);
                }
                catch (Exception exception)
                {
                    Log.Write(connection, $"a handler of {route.Pattern} threw; its client gets status 500", exception);
                    apologize();
                }
            }, null);
        }
    }

    /// <summary>A route with pages and nothing else.</summary>
    internal sealed class PageRoute : Route
    {
        internal PageRoute(WebSocketServer server, string pattern) : base(server, pattern) { }

        internal override Slots Wanted => Slots.None;
    }
}
