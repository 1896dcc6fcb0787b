// The calls of a server that runs, on top of the library's.
using System;
using System.Collections.Generic;
using System.Linq;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace FullDuplex
{
    public sealed unsafe partial class WebSocketServer
    {
        // -- the running server -----------------------------------------------------------------------------

        /// <summary>Changes an option while the server runs; the table says which can.</summary>
        public void Set(string option, string value)
        {
            Native.fdx_error error = Results.NewError();
            fixed (byte* key = Text.ToNul(option), text = Text.ToNul(value))
                Results.Check(Native.fdx_server_set(Handle, key, text, &error), error);
        }

        /// <summary>Listens at one address more. The id is for <see cref="Unlisten"/>.</summary>
        public (int Id, int Port) Listen(string address)
        {
            Native.fdx_error error = Results.NewError();
            uint id;
            ushort port;
            fixed (byte* text = Text.ToNul(new Location(address).Address))
                Results.Check(Native.fdx_listen(Handle, text, &id, &port, &error), error);
            return ((int)id, port);
        }

        /// <summary>Ends listening at an address; its connections go on. The configured ones count from 0.</summary>
        public void Unlisten(int id) => Results.Check(Native.fdx_unlisten(Handle, (uint)id));

        /// <summary>The port of a configured listener, in their order; 0 for a Unix socket.</summary>
        public int GetPort(int listener)
        {
            ushort port;
            Results.Check(Native.fdx_listener_port(Handle, (uint)listener, &port));
            return port;
        }

        /// <summary>
        /// Shows another certificate from now on, both in PEM. <paramref name="name"/> is the name it is shown for; null
        /// for those in it. When it is unusable the old one stays.
        /// </summary>
        public void SetCertificate(string certificate, string key, string? name = null)
        {
            Native.fdx_error error = Results.NewError();
            byte[] certificateBytes = Text.ToNul(certificate), keyBytes = Text.ToNul(key);
            fixed (byte* sni = name == null ? null : Text.ToNul(name), cert = certificateBytes, secret = keyBytes)
                Results.Check(Native.fdx_set_certificate(Handle, sni, cert, (UIntPtr)(certificateBytes.Length - 1),
                    secret, (UIntPtr)(keyBytes.Length - 1), &error), error);
        }

        /// <summary>The open connections, of one route or of all. The list is old when it is there: for sends, not for bookkeeping.</summary>
        public IReadOnlyList<Connection> GetConnections(string? pattern = null) =>
            Ids(pattern).Select(id => new Connection(this, id)).ToArray();

        /// <summary>Sends a text to every connection, of one route or of all, sharing its bytes. Who is gone or full is left out.</summary>
        public void Broadcast(string text, string? pattern = null)
        {
            using var message = new SharedMessage(text);
            Broadcast(message, pattern);
        }

        /// <summary>Sends a message to every connection, of one route or of all.</summary>
        public void Broadcast(SharedMessage message, string? pattern = null) => Send(Ids(pattern), message, SendFlags.None, null);

        /// <summary>Sends one message to many connections of this server, sharing its bytes, and tells what became of each.</summary>
        public SendResult[] Send(IEnumerable<Connection> connections, SharedMessage message, SendFlags flags = SendFlags.None)
        {
            ulong[] ids = connections.Select(connection => connection.Id).ToArray();
            var statuses = new int[ids.Length];
            Send(ids, message, flags, statuses);
            return statuses.Select(Results.OfSend).ToArray();
        }

        /// <summary>Counted since the start.</summary>
        public ServerStats Stats
        {
            get
            {
                var stats = new Native.fdx_stats { struct_size = (uint)sizeof(Native.fdx_stats) };
                Results.Check(Native.fdx_get_stats(Handle, &stats));
                return new ServerStats(stats);
            }
        }

        /// <summary>The same as OpenMetrics text.</summary>
        public string GetMetrics() =>
            Text.Read((buffer, capacity, needed) => Native.fdx_metrics_text(Handle, buffer, capacity, needed), out int status)
            ?? throw FullDuplexException.Of(status);

        // -- the life of the handle ---------------------------------------------------------------------------

        private Native.ServerHandle Handle => handle ?? throw new InvalidOperationException("the server was not started");

        private void StartNative()
        {
            Native.fdx_error error = Results.NewError();
            using Native.ConfigHandle config = Options.ToConfig();
            bool decides = OnRequest != null || OnRequestAsync != null;
            for (int number = 0; number < routes.Count; number++)
            {
                Native.fdx_handlers handlers = Border.HandlersOf(routes[number], decides);
                int status;
                fixed (byte* pattern = Text.ToNul(routes[number].Pattern))
                    status = Native.fdx_config_route(config, pattern, (uint)number, &handlers, &error);
                if (status < 0)
                    GCHandle.FromIntPtr(handlers.user_data).Free();
                Results.Check(status, error);
            }
            if (Backplane is { } backplane)
            {
                Native.fdx_backplane functions = BackplaneBorder.FunctionsOf(backplane);
                int status = Native.fdx_config_backplane(config, &functions, &error);
                if (status < 0)
                    GCHandle.FromIntPtr(functions.user_data).Free();
                Results.Check(status, error);
            }
            Results.Check(Native.fdx_server_new(config, out Native.ServerHandle server, &error), error);
            // Before the start: the first callback may come before the start returns.
            handle = server;
            int started = Native.fdx_server_start(server, &error);
            if (started < 0)
            {
                handle = null;
                server.Dispose();
            }
            Results.Check(started, error);
        }

        private int StopNative(int code, string reason, TimeSpan spread, TimeSpan deadline)
        {
            byte[] bytes = Text.Encode(reason, out int length);
            fixed (byte* text = bytes)
                return handle!.IsClosed ? Native.FDX_ALREADY
                    : Native.fdx_server_stop(handle, checked((ushort)code), text, (UIntPtr)length, Milliseconds(spread), Milliseconds(deadline));
        }

        private int WaitNative(TimeSpan timeout) =>
            handle!.IsClosed ? Native.FDX_OK
            : Native.fdx_server_wait(handle, timeout < TimeSpan.Zero ? -1 : (int)Math.Min(timeout.TotalMilliseconds, int.MaxValue));

        private static uint Milliseconds(TimeSpan time) => (uint)Math.Max(0, Math.Min(time.TotalMilliseconds, uint.MaxValue));

        // -- connections: the status of the library, or "stopped" when the handle is gone ------------------------

        internal int Send(ulong connection, MessageKind kind, byte[] data, int offset, int length, SendFlags flags)
        {
            fixed (byte* bytes = data)
                return Send(connection, kind, bytes + offset, length, flags);
        }

        internal int Send(ulong connection, MessageKind kind, byte* data, int length, SendFlags flags)
        {
            try
            {
                // The library checks kind and flags.
                return Native.fdx_send(Handle, connection, (uint)kind, data, (UIntPtr)(uint)length, (uint)flags);
            }
            catch (ObjectDisposedException)
            {
                return Native.FDX_E_STOPPED;
            }
        }

        internal int Close(ulong connection, int code, string reason)
        {
            byte[] bytes = Text.Encode(reason, out int length);
            fixed (byte* text = bytes)
            {
                byte* start = text;
                int status = Call(server => Native.fdx_close(server, connection, checked((ushort)code), start, (UIntPtr)(uint)length));
                // Everywhere else a close that has begun has this name.
                return status == Native.FDX_ALREADY ? Native.FDX_E_CLOSING : status;
            }
        }

        internal int Abort(ulong connection) => Call(server => Native.fdx_abort(server, connection));

        internal int Pause(ulong connection) => Call(server => Native.fdx_pause(server, connection));

        internal int Resume(ulong connection) => Call(server => Native.fdx_resume(server, connection));

        internal int Ping(ulong connection, byte[] payload)
        {
            fixed (byte* data = payload)
            {
                byte* start = data;
                return Call(server => Native.fdx_ping(server, connection, start, (UIntPtr)(uint)payload.Length));
            }
        }

        /// <summary>The library keeps a handle to the object, and gives it back when it is replaced or the connection has ended.</summary>
        internal int SetState(ulong connection, object? state)
        {
            if (state == null)
                return Call(server => Native.fdx_conn_set_data(server, connection, IntPtr.Zero, IntPtr.Zero));
            GCHandle kept = GCHandle.Alloc(state);
            int status = Call(server => Native.fdx_conn_set_data(server, connection, GCHandle.ToIntPtr(kept), Border.DropPointer));
            if (status < 0)
                kept.Free();
            return status;
        }

        internal ConnectionInfo? GetInfo(ulong connection)
        {
            var info = new Native.fdx_conn_info { struct_size = (uint)sizeof(Native.fdx_conn_info) };
            Native.fdx_conn_info* filled = &info;
            return Call(server => Native.fdx_conn_get_info(server, connection, filled)) == Native.FDX_OK ? new ConnectionInfo(info) : null;
        }

        // -- handshakes and pages ---------------------------------------------------------------------------------

        internal int Accept(ulong connection, string? subprotocol, string headers)
        {
            byte[] lines = Text.ToNul(headers);
            fixed (byte* name = subprotocol == null ? null : Text.ToNul(subprotocol), text = lines)
            {
                byte* chosen = name, start = text;
                return Call(server => Native.fdx_accept(server, connection, chosen, start, (UIntPtr)(uint)(lines.Length - 1)));
            }
        }

        internal int Reject(ulong connection, int status, string headers, byte[] body)
        {
            byte[] lines = Text.ToNul(headers);
            fixed (byte* text = lines, bytes = body)
            {
                byte* start = text, content = bytes;
                return Call(server => Native.fdx_reject(server, connection, checked((ushort)status), start,
                    (UIntPtr)(uint)(lines.Length - 1), content, (UIntPtr)(uint)body.Length));
            }
        }

        internal int HttpReply(ulong request, int status, string headers, byte[] body)
        {
            byte[] lines = Text.ToNul(headers);
            fixed (byte* text = lines, bytes = body)
            {
                byte* start = text, content = bytes;
                return Call(server => Native.fdx_http_reply(server, request, checked((ushort)status), start,
                    (UIntPtr)(uint)(lines.Length - 1), content, (UIntPtr)(uint)body.Length));
            }
        }

        /// <summary>A part of a request, null if it has none.</summary>
        internal string? GetRequest(ulong connection, string part)
        {
            byte[] name = Text.ToNul(part);
            return Text.Read((buffer, capacity, needed) =>
            {
                fixed (byte* key = name)
                    return Native.fdx_request_get(Handle, connection, key, buffer, capacity, needed);
            }, out _);
        }

        internal string GetRequestHeaders(ulong connection) =>
            Text.Read((buffer, capacity, needed) => Native.fdx_request_headers(Handle, connection, buffer, capacity, needed), out _) ?? "";

        // -- many at once -----------------------------------------------------------------------------------------

        private ulong[] Ids(string? pattern)
        {
            uint route = uint.MaxValue;
            if (pattern != null)
            {
                int index = routes.FindIndex(one => one.Pattern == pattern);
                route = index >= 0 ? (uint)index : throw new ArgumentException($"there is no route {pattern}");
            }
            for (var ids = new ulong[64]; ; )
            {
                UIntPtr needed;
                int status;
                fixed (ulong* list = ids)
                    status = Native.fdx_conns(Handle, route, list, (UIntPtr)(uint)ids.Length, &needed);
                if (status == Native.FDX_E_BUFFER)
                {
                    ids = new ulong[(int)needed + 16]; // somebody may come in meanwhile
                    continue;
                }
                Results.Check(status);
                Array.Resize(ref ids, (int)needed);
                return ids;
            }
        }

        private void Send(ulong[] ids, SharedMessage message, SendFlags flags, int[]? statuses)
        {
            fixed (ulong* list = ids)
            fixed (int* results = statuses)
            {
                int status = Native.fdx_send_msg(Handle, list, (UIntPtr)(uint)ids.Length, message.Handle, (uint)flags, results);
                if (status == Native.FDX_E_INVALID_ARG)
                    Results.Check(status);
            }
        }

        private int Call(Func<Native.ServerHandle, int> function)
        {
            try
            {
                return function(Handle);
            }
            catch (ObjectDisposedException)
            {
                return Native.FDX_E_STOPPED;
            }
        }
    }

    /// <summary>A message for many connections: copied, checked and compressed once.</summary>
    public sealed unsafe class SharedMessage : IDisposable
    {
        static SharedMessage() => NativeFile.IsKnown();

        /// <summary>A text.</summary>
        public SharedMessage(string text) : this(System.Text.Encoding.UTF8.GetBytes(text), MessageKind.Text)
        {
        }

        /// <summary>Bytes, as binary or as a text in UTF-8.</summary>
        public SharedMessage(byte[] data, MessageKind kind = MessageKind.Binary)
        {
            fixed (byte* bytes = data)
                Handle = New(bytes, data.Length, kind);
        }

        internal Native.MessageHandle Handle { get; }

        /// <summary>Gives it back. Sends under way keep what they need.</summary>
        public void Dispose() => Handle.Dispose();

        [MethodImpl(MethodImplOptions.NoInlining)]
        internal static Native.MessageHandle New(byte* data, int length, MessageKind kind)
        {
            Native.MessageHandle handle = Native.fdx_msg_new((uint)kind, data, (UIntPtr)(uint)length);
            return !handle.IsInvalid ? handle
                : throw FullDuplexException.Of(kind == MessageKind.Text ? Native.FDX_E_UTF8 : Native.FDX_E_NOMEM);
        }
    }
}
