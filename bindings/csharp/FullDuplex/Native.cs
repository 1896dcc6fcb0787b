// The library as C sees it: include/fullduplex.h in C#, with the header's own names, and nothing else.
// It is the one place where a constant, a layout or a function of the header is written down;
// tests/bindings compares all of it with the header.
using System;
using System.Runtime.InteropServices;

namespace FullDuplex
{
    internal static unsafe class Native
    {
        /// <summary>What the runtime is asked for; <see cref="NativeFile"/> knows where it is.</summary>
        internal const string Library = "fullduplex";

        static Native()
        {
            NativeFile.IsKnown();
            if (fdx_check_abi(FDX_ABI) != FDX_OK)
                throw new DllNotFoundException(
                    $"This binding was made for ABI {FDX_ABI} of libfullduplex, and found {Text.FromNul(fdx_version_string())}.");
        }

        // -- numbers ---------------------------------------------------------------------------------

        internal const uint FDX_VERSION_MAJOR = 0, FDX_VERSION_MINOR = 1, FDX_VERSION_PATCH = 0, FDX_VERSION = 0x000100;
        internal const uint FDX_ABI = 0;

        /// <summary>As the length of a string: it ends with NUL.</summary>
        internal static readonly UIntPtr FDX_NTS = new UIntPtr(unchecked((void*)-1));

        internal const uint FDX_TEXT = 1, FDX_BINARY = 2;
        internal const uint FDX_F_COMPRESS = 1, FDX_F_NO_COMPRESS = 2, FDX_F_MORE = 4, FDX_F_SKIP_SENDER = 0x20;

        internal const uint
            FDX_EV_UPGRADE = 1, FDX_EV_OPEN = 2, FDX_EV_MESSAGE = 3, FDX_EV_FRAGMENT = 4, FDX_EV_DRAIN = 5, FDX_EV_CLOSE = 6,
            FDX_EV_PING = 7, FDX_EV_PONG = 8, FDX_EV_HTTP = 9, FDX_EV_TOPIC = 10, FDX_EV_BACKPLANE = 11, FDX_EV_LISTENER = 12,
            FDX_EV_FAULT = 13, FDX_EV_STOPPED = 14, FDX_EV_THREAD_START = 15, FDX_EV_THREAD_STOP = 16;
        internal const uint FDX_EVF_FIN = 1, FDX_EVF_BINARY = 2;

        internal const uint
            FDX_CLOSED_BY_PEER = 1, FDX_CLOSED_BY_HOST = 2, FDX_CLOSED_BY_TIMEOUT = 3, FDX_CLOSED_BY_LIMIT = 4,
            FDX_CLOSED_BY_PROTOCOL = 5, FDX_CLOSED_BY_NETWORK = 6, FDX_CLOSED_BY_SHUTDOWN = 7;

        internal const int FDX_TOPIC_JOINED = 1, FDX_TOPIC_LEFT = 2;
        internal const int FDX_BP_UP = 1, FDX_BP_DOWN = 2, FDX_BP_GAP = 3;

        internal const uint FDX_OPTION_LIVE = 1;
        internal const uint FDX_ROUTE_STREAM = 1, FDX_ROUTE_HTTP = 2, FDX_ROUTE_UPGRADE = 4, FDX_ROUTE_OTHER = 8, FDX_ROUTE_TOPIC = 0x10;
        internal const uint FDX_CI_TLS = 1, FDX_CI_DEFLATE = 2;

        internal const int
            FDX_OK = 0, FDX_HIGH_WATER = 1, FDX_ALREADY = 2,
            FDX_E_INVALID_ARG = -1, FDX_E_NO_CONN = -2, FDX_E_CLOSING = -3, FDX_E_FULL = -4, FDX_E_TOO_BIG = -5,
            FDX_E_UTF8 = -6, FDX_E_STATE = -7, FDX_E_STOPPED = -8, FDX_E_NOMEM = -9, FDX_E_IO = -10, FDX_E_TLS = -11,
            FDX_E_ADDR_IN_USE = -12, FDX_E_DENIED = -13, FDX_E_UNSUPPORTED = -14, FDX_E_TIMEOUT = -15, FDX_E_VERSION = -16,
            FDX_E_PANIC = -17, FDX_E_NOT_FOUND = -18, FDX_E_BUFFER = -19, FDX_E_CONFIG = -20, FDX_E_BACKPLANE = -21,
            FDX_E_DEADLOCK = -22, FDX_E_FORKED = -23, FDX_E_INTERRUPTED = -24, FDX_E_LIMIT = -25;

        // -- layouts ---------------------------------------------------------------------------------

        // Most are filled by the library.
#pragma warning disable CS0649, CS0169
        internal struct fdx_error
        {
            internal uint struct_size;
            internal int status;
            internal int os_error;
            internal uint reserved;
            internal fixed byte message[240];
        }

        internal struct fdx_option_info
        {
            internal uint struct_size;
            internal uint flags;
            internal byte* name;
            internal byte* type;
            internal byte* default_value;
            internal byte* help;
        }

        internal struct fdx_event
        {
            internal ushort struct_size;
            internal ushort type;
            internal uint flags;
            internal ulong conn;
            internal IntPtr conn_data;
            internal byte* data;
            internal UIntPtr len;
            internal uint route;
            internal int code;
            internal ulong arg;
            internal ulong time_us;
        }

        internal struct fdx_batch_view
        {
            internal uint struct_size;
            internal uint reserved;
            internal fdx_event* events;
            internal UIntPtr count;
            internal UIntPtr stride;
            internal byte* block;
            internal UIntPtr block_len;
            internal IntPtr batch;
        }

        internal struct fdx_handlers
        {
            internal uint struct_size;
            internal uint flags;
            internal IntPtr user_data;
            internal IntPtr drop;
            internal IntPtr on_upgrade;
            internal IntPtr on_open;
            internal IntPtr on_message;
            internal IntPtr on_close;
            internal IntPtr on_drain;
            internal IntPtr on_other;
        }

        internal struct fdx_backplane
        {
            internal uint struct_size;
            internal uint reserved;
            internal IntPtr user_data;
            internal IntPtr drop;
            internal IntPtr publish;
            internal IntPtr subscribe;
            internal IntPtr unsubscribe;
        }

        internal struct fdx_publish_result
        {
            internal uint struct_size;
            internal uint reserved;
            internal ulong queued;
            internal ulong high_water;
            internal ulong dropped;
        }

        internal struct fdx_conn_info
        {
            internal uint struct_size;
            internal uint route;
            internal ulong opened_us;
            internal ulong bytes_in;
            internal ulong bytes_out;
            internal ulong msgs_in;
            internal ulong msgs_out;
            internal ulong queued_bytes;
            internal ulong dropped;
            internal uint rtt_us;
            internal ushort remote_port;
            internal ushort local_port;
            internal ushort version;
            internal ushort http;
            internal uint flags;
            internal fixed byte remote_addr[64];
            internal fixed byte peer_addr[64];
            internal fixed byte subprotocol[64];
        }

        internal struct fdx_stats
        {
            internal uint struct_size;
            internal uint threads;
            internal ulong connections;
            internal ulong peak_connections;
            internal ulong accepted;
            internal ulong rejected;
            internal ulong closed;
            internal ulong handshake_errors;
            internal ulong msgs_in;
            internal ulong msgs_out;
            internal ulong bytes_in;
            internal ulong bytes_out;
            internal ulong dropped_msgs;
            internal ulong slow_closed;
            internal ulong rate_limited;
            internal ulong queued_bytes;
            internal ulong event_queue_len;
            internal ulong deflate_bytes;
            internal ulong topics;
            internal ulong subscriptions;
            internal ulong backplane_in;
            internal ulong backplane_out;
            internal ulong backplane_lost;
            internal ulong faults;
        }

#pragma warning restore CS0649, CS0169

        // -- functions that the library calls ------------------------------------------------------------

        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        internal delegate void fdx_drop_fn(IntPtr user_data);

        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        internal delegate void fdx_event_fn(IntPtr user_data, IntPtr server, fdx_event* @event);

        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        internal delegate void fdx_log_fn(IntPtr user_data, int level, ulong conn, byte* target, byte* text, UIntPtr len);

        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        internal delegate void fdx_backplane_publish_fn(IntPtr user_data, IntPtr server, byte* channel, UIntPtr len, byte* envelope, UIntPtr elen);

        [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
        internal delegate void fdx_backplane_channel_fn(IntPtr user_data, IntPtr server, byte* channel, UIntPtr len);

        // -- functions that it has -------------------------------------------------------------------------

        [DllImport(Library)] internal static extern uint fdx_version();
        [DllImport(Library)] internal static extern byte* fdx_version_string();
        [DllImport(Library)] internal static extern int fdx_check_abi(uint abi);
        [DllImport(Library)] internal static extern int fdx_has(byte* feature);
        [DllImport(Library)] internal static extern byte* fdx_status_name(int status);
        [DllImport(Library)] internal static extern byte* fdx_status_text(int status);

        [DllImport(Library)] internal static extern ConfigHandle fdx_config_new();
        [DllImport(Library)] internal static extern void fdx_config_free(IntPtr config);
        [DllImport(Library)] internal static extern int fdx_config_set(ConfigHandle config, byte* key, byte* value, fdx_error* error);
        [DllImport(Library)] internal static extern int fdx_config_get(ConfigHandle config, byte* key, byte* buf, UIntPtr cap, UIntPtr* needed);
        [DllImport(Library)] internal static extern int fdx_config_load(ConfigHandle config, byte* data, UIntPtr len, fdx_error* error);
        [DllImport(Library)] internal static extern fdx_option_info* fdx_option(UIntPtr index);
        [DllImport(Library)] internal static extern int fdx_config_route(ConfigHandle config, byte* pattern, uint route, fdx_handlers* handlers, fdx_error* error);
        [DllImport(Library)] internal static extern int fdx_config_backplane(ConfigHandle config, fdx_backplane* backplane, fdx_error* error);

        [DllImport(Library)] internal static extern int fdx_server_new(ConfigHandle config, out ServerHandle server, fdx_error* error);
        [DllImport(Library)] internal static extern IntPtr fdx_server_ref(ServerHandle server);
        [DllImport(Library)] internal static extern void fdx_server_unref(IntPtr server);
        [DllImport(Library)] internal static extern int fdx_server_start(ServerHandle server, fdx_error* error);
        [DllImport(Library)] internal static extern int fdx_server_stop(ServerHandle server, ushort code, byte* reason, UIntPtr len, uint spread_ms, uint deadline_ms);
        [DllImport(Library)] internal static extern int fdx_server_wait(ServerHandle server, int timeout_ms);
        [DllImport(Library)] internal static extern int fdx_server_set(ServerHandle server, byte* key, byte* value, fdx_error* error);
        [DllImport(Library)] internal static extern int fdx_listen(ServerHandle server, byte* address, uint* out_id, ushort* out_port, fdx_error* error);
        [DllImport(Library)] internal static extern int fdx_set_certificate(ServerHandle server, byte* sni, byte* cert, UIntPtr cert_len, byte* key, UIntPtr key_len, fdx_error* error);
        [DllImport(Library)] internal static extern int fdx_unlisten(ServerHandle server, uint id);
        [DllImport(Library)] internal static extern int fdx_listener_fd(ServerHandle server, uint id, IntPtr* out_fd);
        [DllImport(Library)] internal static extern int fdx_listener_port(ServerHandle server, uint index, ushort* out_port);

        [DllImport(Library)] internal static extern int fdx_poll(ServerHandle server, uint queue, UIntPtr max_events, int timeout_ms, fdx_batch_view* view);
        [DllImport(Library)] internal static extern void fdx_batch_free(IntPtr batch);
        [DllImport(Library)] internal static extern int fdx_wake(ServerHandle server, uint queue);
        [DllImport(Library)] internal static extern int fdx_queue_fd(ServerHandle server, uint queue, IntPtr* out_fd);
        [DllImport(Library)] internal static extern int fdx_queue_notify_fd(ServerHandle server, uint queue, IntPtr fd, byte* payload, UIntPtr len);

        [DllImport(Library)] internal static extern int fdx_accept(ServerHandle server, ulong conn, byte* subprotocol, byte* headers, UIntPtr len);
        [DllImport(Library)] internal static extern int fdx_reject(ServerHandle server, ulong conn, ushort status, byte* headers, UIntPtr hlen, byte* body, UIntPtr blen);
        [DllImport(Library)] internal static extern int fdx_http_reply(ServerHandle server, ulong conn, ushort status, byte* headers, UIntPtr hlen, byte* body, UIntPtr blen);
        [DllImport(Library)] internal static extern int fdx_request_get(ServerHandle server, ulong conn, byte* name, byte* buf, UIntPtr cap, UIntPtr* needed);
        [DllImport(Library)] internal static extern int fdx_request_headers(ServerHandle server, ulong conn, byte* buf, UIntPtr cap, UIntPtr* needed);

        [DllImport(Library)] internal static extern int fdx_send(ServerHandle server, ulong conn, uint kind, byte* data, UIntPtr len, uint flags);
        [DllImport(Library)] internal static extern int fdx_submit(ServerHandle server, byte* records, UIntPtr len, int* results, UIntPtr results_cap);
        [DllImport(Library)] internal static extern MessageHandle fdx_msg_new(uint kind, byte* data, UIntPtr len);
        [DllImport(Library)] internal static extern IntPtr fdx_msg_ref(MessageHandle msg);
        [DllImport(Library)] internal static extern void fdx_msg_unref(IntPtr msg);
        [DllImport(Library)] internal static extern int fdx_send_msg(ServerHandle server, ulong* conns, UIntPtr count, MessageHandle msg, uint flags, int* results);

        [DllImport(Library)] internal static extern int fdx_subscribe(ServerHandle server, ulong conn, byte* topic, UIntPtr len);
        [DllImport(Library)] internal static extern int fdx_unsubscribe(ServerHandle server, ulong conn, byte* topic, UIntPtr len);
        [DllImport(Library)] internal static extern int fdx_publish(ServerHandle server, byte* topic, UIntPtr len, MessageHandle msg, uint flags, ulong sender, fdx_publish_result* result);
        [DllImport(Library)] internal static extern int fdx_topic_count(ServerHandle server, byte* topic, UIntPtr len, ulong* count);
        [DllImport(Library)] internal static extern int fdx_backplane_deliver(ServerHandle server, byte* channel, UIntPtr len, byte* envelope, UIntPtr elen);
        [DllImport(Library)] internal static extern int fdx_backplane_state(ServerHandle server, int code);

        [DllImport(Library)] internal static extern int fdx_close(ServerHandle server, ulong conn, ushort code, byte* reason, UIntPtr len);
        [DllImport(Library)] internal static extern int fdx_abort(ServerHandle server, ulong conn);
        [DllImport(Library)] internal static extern int fdx_pause(ServerHandle server, ulong conn);
        [DllImport(Library)] internal static extern int fdx_resume(ServerHandle server, ulong conn);
        [DllImport(Library)] internal static extern int fdx_ping(ServerHandle server, ulong conn, byte* data, UIntPtr len);
        [DllImport(Library)] internal static extern int fdx_conn_set_data(ServerHandle server, ulong conn, IntPtr data, IntPtr drop);
        [DllImport(Library)] internal static extern int fdx_conn_get_info(ServerHandle server, ulong conn, fdx_conn_info* info);
        [DllImport(Library)] internal static extern int fdx_conns(ServerHandle server, uint route, ulong* conns, UIntPtr cap, UIntPtr* needed);
        [DllImport(Library)] internal static extern int fdx_get_stats(ServerHandle server, fdx_stats* stats);
        [DllImport(Library)] internal static extern int fdx_metrics_text(ServerHandle server, byte* buf, UIntPtr cap, UIntPtr* needed);
        [DllImport(Library)] internal static extern void fdx_set_log(int max_level, IntPtr log, IntPtr user_data, IntPtr drop);

        // -- what must be given back ---------------------------------------------------------------------------

        internal abstract class OwnedHandle : SafeHandle
        {
            protected OwnedHandle() : base(IntPtr.Zero, true) { }
            public override bool IsInvalid => handle == IntPtr.Zero;
        }

        internal sealed class ConfigHandle : OwnedHandle
        {
            protected override bool ReleaseHandle() { fdx_config_free(handle); return true; }
        }

        internal sealed class ServerHandle : OwnedHandle
        {
            protected override bool ReleaseHandle() { fdx_server_unref(handle); return true; }
        }

        internal sealed class MessageHandle : OwnedHandle
        {
            protected override bool ReleaseHandle() { fdx_msg_unref(handle); return true; }
        }
    }
}
