// The library's option table, typed.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using System.Runtime.CompilerServices;

namespace FullDuplex
{
    /// <summary>How events leave the library.</summary>
    public enum Dispatch
    {
        /// <summary>By callbacks, which is what the routes of this binding are made for.</summary>
        Io,

        /// <summary>By a queue that is polled, which takes no callbacks: a server of this binding does not start with it.</summary>
        Queue,
    }

    /// <summary>When a connection's outbox is full.</summary>
    public enum SendFull
    {
        /// <summary>Close the connection at once.</summary>
        Close,

        /// <summary>Drop the message and keep the connection.</summary>
        Drop,
    }

    /// <summary>Compression of messages (permessage-deflate).</summary>
    public enum Deflate
    {
        /// <summary>None.</summary>
        Off,

        /// <summary>Without memory between messages.</summary>
        Shared,

        /// <summary>Compresses better and keeps windows for each connection.</summary>
        Dedicated,
    }

    /// <summary>Sends to many connections with one system call.</summary>
    public enum IoUring
    {
        /// <summary>Where the kernel has it and nobody forbids it.</summary>
        Auto,

        /// <summary>Each send is a system call.</summary>
        Off,
    }

    /// <summary>Certificates of clients.</summary>
    public enum ClientAuth
    {
        /// <summary>Are not asked for.</summary>
        None,

        /// <summary>Are asked for, and may be missing.</summary>
        Want,

        /// <summary>Must be shown.</summary>
        Need,
    }

    /// <summary>A version of TLS.</summary>
    public enum TlsVersion
    {
        /// <summary>TLS 1.2.</summary>
        Tls12,

        /// <summary>TLS 1.3.</summary>
        Tls13,
    }

    /// <summary>The PROXY protocol, in which a proxy says who its client is.</summary>
    public enum ProxyProtocol
    {
        /// <summary>Not spoken.</summary>
        Off,

        /// <summary>Version 1, a line of text.</summary>
        V1,

        /// <summary>Version 2, binary.</summary>
        V2,

        /// <summary>Either.</summary>
        Any,
    }

    /// <summary>Headers in which a proxy says who its client is.</summary>
    public enum ForwardedHeaders
    {
        /// <summary>None is believed.</summary>
        Off,

        /// <summary>X-Forwarded-For and its kin.</summary>
        XForwardedFor,

        /// <summary>Forwarded (RFC 7239).</summary>
        Forwarded,
    }

    /// <summary>
    /// The options of servers to be: one property for each row of the library's table, and an indexer by their names there.
    /// A bad value is refused at once, with a message that says what would be good. Used by one thread at a time.
    /// </summary>
    public sealed unsafe class ServerOptions
    {
        // A property finds its row by its name: MaxConnectionsPerIp is "max.connections_per_ip".
        private static readonly IReadOnlyDictionary<string, string> RowOf;

        private static readonly string[] Dispatches = { "io", "queue" };
        private static readonly string[] IoUrings = { "auto", "off" };
        private static readonly string[] SendFulls = { "close", "drop" };
        private static readonly string[] Deflates = { "off", "shared", "dedicated" };
        private static readonly string[] ClientAuths = { "none", "want", "need" };
        private static readonly string[] TlsVersions = { "1.2", "1.3" };
        private static readonly string[] ProxyProtocols = { "off", "v1", "v2", "any" };
        private static readonly string[] ForwardedHeaderses = { "off", "x-forwarded-for", "forwarded" };

        private readonly Native.ConfigHandle config = NewConfig();
        private readonly List<KeyValuePair<string, string>> settings = new List<KeyValuePair<string, string>>();

        static ServerOptions()
        {
            NativeFile.IsKnown();
            RowOf = Rows().ToDictionary(PropertyName, row => row);
        }

        /// <summary>The text of an option, by its name in the table: <c>options["max.message"] = "1m"</c>.</summary>
        /// <exception cref="FullDuplexException">An unknown option (the message names the nearest) or a bad value.</exception>
        public string this[string name]
        {
            get
            {
                byte[] key = Text.ToNul(name);
                string? value = Text.Read((buffer, capacity, needed) =>
                {
                    fixed (byte* keyBytes = key)
                        return Native.fdx_config_get(config, keyBytes, buffer, capacity, needed);
                }, out int status);
                return value ?? throw FullDuplexException.Of(status);
            }
            set
            {
                Set(config, name, value);
                settings.Add(new KeyValuePair<string, string>(name, value));
            }
        }

        /// <summary>Sets options from lines of <c>key = value</c>; a line that begins with # is a comment.</summary>
        public void Load(string text)
        {
            LoadInto(config, text);
            settings.Add(new KeyValuePair<string, string>("", text));
        }

        // -- addresses and threads ---------------------------------------------------------------------

        /// <summary>Where to listen: 0.0.0.0:9990, 127.0.0.1:0 (any free port), [::1]:8080?tls=1, unix:/run/x.sock, fd:3, systemd.</summary>
        public IReadOnlyList<string> Listen
        {
            get => GetList();
            set
            {
                this["listen"] = "";
                foreach (string address in value)
                    this["listen"] = address;
            }
        }

        /// <summary>Shards, each a thread with connections of its own. With 1 no two callbacks ever run at once; 0 is one per core.</summary>
        public long Threads { get => GetNumber(); set => SetNumber(value); }

        /// <summary>How events leave the library.</summary>
        public Dispatch Dispatch { get => (Dispatch)GetChoice(Dispatches); set => SetText(Dispatches[(int)value]); }

        /// <summary>How many queues there are with <see cref="FullDuplex.Dispatch.Queue"/>.</summary>
        public long Queues { get => GetNumber(); set => SetNumber(value); }

        /// <summary>What <see cref="WebSocketServer.ReceiveHighWater"/> is, with <see cref="FullDuplex.Dispatch.Queue"/>.</summary>
        public long RecvHighWater { get => GetSize(); set => SetNumber(value); }

        /// <summary>Whether sends to many connections go to the kernel with one system call.</summary>
        public IoUring IoUring { get => (IoUring)GetChoice(IoUrings); set => SetText(IoUrings[(int)value]); }

        /// <summary>After the last news a thread keeps looking for more for so long before it sleeps. Zero: not at all.</summary>
        public TimeSpan PollSpin { get => GetTime(); set => SetTime(value); }

        // -- who may come -------------------------------------------------------------------------------

        /// <summary>Protocol versions to speak. Others get 426 and the list.</summary>
        public IReadOnlyList<string> Versions { get => GetList(); set => SetList(value); }

        /// <summary>Subprotocols in order of preference; the first that a client offers is chosen.</summary>
        public IReadOnlyList<string> Protocols { get => GetList(); set => SetList(value); }

        /// <summary>Pages that may connect: https://a.example, a.example (any scheme and port), *.b.example, null; or any.</summary>
        public IReadOnlyList<string> Origins { get => GetList(); set => SetList(value); }

        // -- limits -------------------------------------------------------------------------------------

        /// <summary>Longest message from a peer in bytes, over all its fragments. Over it: close code 1009.</summary>
        public long MaxMessage { get => GetSize(); set => SetNumber(value); }

        /// <summary>Longest request head in bytes. Over it: HTTP status 431.</summary>
        public long MaxHandshake { get => GetSize(); set => SetNumber(value); }

        /// <summary>Longest body of a plain HTTP request in bytes. Over it: HTTP status 413.</summary>
        public long MaxBody { get => GetSize(); set => SetNumber(value); }

        /// <summary>Most fragments of one message. Over it: close code 1009.</summary>
        public long MaxFragments { get => GetNumber(); set => SetNumber(value); }

        /// <summary>Most connections of the server, handshakes included. Over it: HTTP status 503.</summary>
        public long MaxConnections { get => GetNumber(); set => SetNumber(value); }

        /// <summary>Most connections from one address (IPv6: one /64 network). Over it: HTTP status 429. 0: no limit.</summary>
        public long MaxConnectionsPerIp { get => GetNumber(); set => SetNumber(value); }

        /// <summary>Most topics that one connection may be in. Over it: <see cref="Status.Limit"/>.</summary>
        public long MaxTopics { get => GetSize(); set => SetNumber(value); }

        /// <summary>New connections from one address, like "10/s burst 50". Over it: HTTP status 429. "0": no limit.</summary>
        public string RateConnectionsPerIp { get => GetText(); set => SetText(value); }

        /// <summary>Messages, or plain requests, of one connection, like "100/s burst 200". Over it: close code 1008. "0": no limit.</summary>
        public string RateMessages { get => GetText(); set => SetText(value); }

        /// <summary>Bytes of one connection, like "1m/s burst 4m". Over it: close code 1008. "0": no limit.</summary>
        public string RateBytes { get => GetText(); set => SetText(value); }

        // -- sending ------------------------------------------------------------------------------------

        /// <summary>With more bytes than this queued a connection answers <see cref="SendResult.HighWater"/>.</summary>
        public long SendHighWater { get => GetSize(); set => SetNumber(value); }

        /// <summary>A connection has drained when no more bytes than this are queued.</summary>
        public long SendLowWater { get => GetSize(); set => SetNumber(value); }

        /// <summary>Most bytes queued for one connection. Over it nothing is queued, and <see cref="SendFull"/> decides.</summary>
        public long SendLimit { get => GetSize(); set => SetNumber(value); }

        /// <summary>At <see cref="SendLimit"/>: close the connection, or drop the message.</summary>
        public SendFull SendFull { get => (SendFull)GetChoice(SendFulls); set => SetText(SendFulls[(int)value]); }

        // -- time ---------------------------------------------------------------------------------------

        /// <summary>From accepting the TCP connection to its opening, your decision included. Over it: HTTP status 408.</summary>
        public TimeSpan TimeoutHandshake { get => GetTime(); set => SetTime(value); }

        /// <summary>Close (1001) when no message came or went for so long; pings do not count. Zero: never.</summary>
        public TimeSpan TimeoutIdle { get => GetTime(); set => SetTime(value); }

        /// <summary>From the begin of a close to the end of the TCP connection. Over it: it is cut.</summary>
        public TimeSpan TimeoutClose { get => GetTime(); set => SetTime(value); }

        /// <summary>A peer that takes less than <see cref="SendLowWater"/> of what is queued in this time is cut.</summary>
        public TimeSpan TimeoutWriteStall { get => GetTime(); set => SetTime(value); }

        /// <summary>A ping of the library's own goes out so often. Zero: never.</summary>
        public TimeSpan PingInterval { get => GetTime(); set => SetTime(value); }

        /// <summary>A peer that sends nothing for so long after such a ping is cut. Zero: never.</summary>
        public TimeSpan PingTimeout { get => GetTime(); set => SetTime(value); }

        // -- compression --------------------------------------------------------------------------------

        /// <summary>Compression of messages for clients that offer it. For new connections.</summary>
        public Deflate Deflate { get => (Deflate)GetChoice(Deflates); set => SetText(Deflates[(int)value]); }

        /// <summary>How hard to compress, from 1 (fastest) to 9 (smallest).</summary>
        public long DeflateLevel { get => GetNumber(); set => SetNumber(value); }

        /// <summary>The largest window in either direction, from 9 (512 bytes) to 15 (32 KiB).</summary>
        public long DeflateWindowBits { get => GetNumber(); set => SetNumber(value); }

        /// <summary>Messages of fewer bytes go out uncompressed, unless <see cref="SendFlags.Compress"/> asks for it.</summary>
        public long DeflateMinSize { get => GetSize(); set => SetNumber(value); }

        /// <summary>Most bytes for the windows of all dedicated connections. Over it: a new connection shares.</summary>
        public long DeflateBudget { get => GetSize(); set => SetNumber(value); }

        // -- TLS ----------------------------------------------------------------------------------------

        /// <summary>Files with certificates in PEM, each with those that link it to its authority behind it.</summary>
        public IReadOnlyList<string> TlsCert { get => GetList(); set => SetList(value); }

        /// <summary>Files with their private keys in PEM, in the same order.</summary>
        public IReadOnlyList<string> TlsKey { get => GetList(); set => SetList(value); }

        /// <summary>A file with the authorities that certificates of clients must come from.</summary>
        public string TlsClientCa { get => GetText(); set => SetText(value); }

        /// <summary>Whether clients are asked for a certificate.</summary>
        public ClientAuth TlsClientAuth { get => (ClientAuth)GetChoice(ClientAuths); set => SetText(ClientAuths[(int)value]); }

        /// <summary>The oldest version of TLS that is spoken.</summary>
        public TlsVersion TlsMin { get => (TlsVersion)GetChoice(TlsVersions); set => SetText(TlsVersions[(int)value]); }

        // -- other machines -----------------------------------------------------------------------------

        /// <summary>Redis, which carries published messages between servers: redis://… or rediss://…, with TLS. "": none.</summary>
        public string Backplane { get => GetText(); set => SetText(value); }

        /// <summary>What stands before each topic there: it keeps applications apart.</summary>
        public string BackplanePrefix { get => GetText(); set => SetText(value); }

        /// <summary>Most bytes of published messages that wait for the other machines. Over it they are lost there, and counted.</summary>
        public long BackplaneLimit { get => GetSize(); set => SetNumber(value); }

        /// <summary>Sharded channels (SPUBLISH, SSUBSCRIBE), for a Redis Cluster.</summary>
        public bool BackplaneSharded { get => GetText() == "on"; set => SetText(value ? "on" : "off"); }

        /// <summary>A file with the authorities that a rediss:// server's certificate must come from. "": the system's.</summary>
        public string BackplaneCa { get => GetText(); set => SetText(value); }

        // -- pages and proxies --------------------------------------------------------------------------

        /// <summary>A path, like /healthz, that answers GET with 200 while the server serves. "": none.</summary>
        public string HttpHealth { get => GetText(); set => SetText(value); }

        /// <summary>A path with the server's sums as OpenMetrics. "": none.</summary>
        public string HttpMetrics { get => GetText(); set => SetText(value); }

        /// <summary>Directories whose files are served where no route answers: "/prefix/=directory".</summary>
        public IReadOnlyList<string> HttpStatic { get => GetList(); set => SetList(value); }

        /// <summary>Addresses and networks of proxies that are believed.</summary>
        public IReadOnlyList<string> ProxyTrusted { get => GetList(); set => SetList(value); }

        /// <summary>The PROXY protocol that trusted proxies speak.</summary>
        public ProxyProtocol ProxyProtocol { get => (ProxyProtocol)GetChoice(ProxyProtocols); set => SetText(ProxyProtocols[(int)value]); }

        /// <summary>The headers of trusted proxies that are believed.</summary>
        public ForwardedHeaders ForwardedHeaders
        {
            get => (ForwardedHeaders)GetChoice(ForwardedHeaderses);
            set => SetText(ForwardedHeaderses[(int)value]);
        }

        // -- below the properties -------------------------------------------------------------------------

        /// <summary>A config of its own for each server: routes are added to it.</summary>
        internal Native.ConfigHandle ToConfig()
        {
            Native.ConfigHandle copy = NewConfig();
            foreach (KeyValuePair<string, string> setting in settings)
                if (setting.Key == "")
                    LoadInto(copy, setting.Value);
                else
                    Set(copy, setting.Key, setting.Value);
            return copy;
        }

        /// <summary>The names of all options.</summary>
        internal static IEnumerable<string> Rows()
        {
            for (int index = 0; Row(index) is string name; index++)
                yield return name;
        }

        internal static string PropertyName(string row) => row.Replace(".", "").Replace("_", "").ToLowerInvariant();

        [MethodImpl(MethodImplOptions.NoInlining)]
        private static Native.ConfigHandle NewConfig() => Native.fdx_config_new();

        [MethodImpl(MethodImplOptions.NoInlining)]
        private static string? Row(int index)
        {
            Native.fdx_option_info* row = Native.fdx_option((UIntPtr)(uint)index);
            return row == null ? null : Text.FromNul(row->name);
        }

        private static void Set(Native.ConfigHandle config, string name, string value)
        {
            Native.fdx_error error = Results.NewError();
            fixed (byte* key = Text.ToNul(name), text = Text.ToNul(value))
                Results.Check(Native.fdx_config_set(config, key, text, &error), error);
        }

        private static void LoadInto(Native.ConfigHandle config, string text)
        {
            Native.fdx_error error = Results.NewError();
            byte[] bytes = Text.ToNul(text);
            fixed (byte* data = bytes)
                Results.Check(Native.fdx_config_load(config, data, (UIntPtr)(uint)(bytes.Length - 1), &error), error);
        }

        private static string Name(string property) => RowOf[property.ToLowerInvariant()];

        private string GetText([CallerMemberName] string property = "") => this[Name(property)];

        private void SetText(string value, [CallerMemberName] string property = "") => this[Name(property)] = value;

        private long GetNumber([CallerMemberName] string property = "") =>
            long.Parse(this[Name(property)], CultureInfo.InvariantCulture);

        private void SetNumber(long value, [CallerMemberName] string property = "") =>
            this[Name(property)] = value.ToString(CultureInfo.InvariantCulture);

        private int GetChoice(string[] choices, [CallerMemberName] string property = "") =>
            Array.IndexOf(choices, this[Name(property)].Trim().ToLowerInvariant());

        private IReadOnlyList<string> GetList([CallerMemberName] string property = "") =>
            this[Name(property)].Split(',').Select(item => item.Trim()).Where(item => item != "").ToArray();

        private void SetList(IReadOnlyList<string> value, [CallerMemberName] string property = "") =>
            this[Name(property)] = string.Join(", ", value);

        private long GetSize([CallerMemberName] string property = "")
        {
            string text = this[Name(property)].Trim().ToLowerInvariant();
            int shift = text.EndsWith("k", StringComparison.Ordinal) ? 10 : text.EndsWith("m", StringComparison.Ordinal) ? 20
                : text.EndsWith("g", StringComparison.Ordinal) ? 30 : 0;
            return long.Parse(shift == 0 ? text : text.Substring(0, text.Length - 1), CultureInfo.InvariantCulture) << shift;
        }

        private TimeSpan GetTime([CallerMemberName] string property = "")
        {
            string text = this[Name(property)].Trim().ToLowerInvariant();
            string unit = text.TrimStart("0123456789".ToCharArray());
            long amount = long.Parse(text.Substring(0, text.Length - unit.Length), CultureInfo.InvariantCulture);
            return TimeSpan.FromTicks(amount * (unit.Trim() switch
            {
                "us" => TimeSpan.TicksPerMillisecond / 1000,
                "ms" => TimeSpan.TicksPerMillisecond,
                "m" => TimeSpan.TicksPerMinute,
                "h" => TimeSpan.TicksPerHour,
                _ => TimeSpan.TicksPerSecond,
            }));
        }

        private void SetTime(TimeSpan value, [CallerMemberName] string property = "") =>
            this[Name(property)] = (value.Ticks / 10).ToString(CultureInfo.InvariantCulture) + "us";
    }
}
