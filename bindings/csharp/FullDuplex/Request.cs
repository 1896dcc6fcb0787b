// The request that a connection or a page begins with.
using System;
using System.Collections.Generic;
using System.Linq;

namespace FullDuplex
{
    /// <summary>What a client asked for, as it was when it asked: it may be kept for as long as you like.</summary>
    public sealed unsafe class Request
    {
        private readonly Lazy<IReadOnlyDictionary<string, string>> headers, query, cookies;

        /// <summary>Between the event that announces it and the return from OPEN: then the library forgets it.</summary>
        internal Request(WebSocketServer server, ulong connection, IReadOnlyList<string> parameters)
        {
            string? Get(string name) => server.GetRequest(connection, name);

            Server = server;
            Method = Get(":method") ?? "GET";
            Path = Get(":path") ?? "/";
            QueryString = Get(":query") ?? "";
            TlsVersion = Get(":tls_version");
            TlsSubject = Get(":tls_subject");
            if (parameters.Count > 0)
                Parameters = parameters.ToDictionary(name => name, name => Get("/" + name) ?? "");
            if (server.GetInfo(connection) is { } info)
            {
                RemoteAddress = info.RemoteAddress;
                RemotePort = info.RemotePort;
            }
            string lines = server.GetRequestHeaders(connection);
            headers = new Lazy<IReadOnlyDictionary<string, string>>(() => ParseHeaders(lines));
            query = new Lazy<IReadOnlyDictionary<string, string>>(() => ParsePairs(QueryString, '&', FormDecode));
            cookies = new Lazy<IReadOnlyDictionary<string, string>>(() => ParsePairs(this["Cookie"] ?? "", ';', text => text.Trim()));
        }

        /// <summary>Who was asked.</summary>
        public WebSocketServer Server { get; }

        /// <summary>GET for every WebSocket.</summary>
        public string Method { get; }

        /// <summary>The path, without the query.</summary>
        public string Path { get; }

        /// <summary>What stands behind the question mark, or "".</summary>
        public string QueryString { get; }

        /// <summary>The keys of the query, decoded; of a key that stands twice the first value.</summary>
        public IReadOnlyDictionary<string, string> Query => query.Value;

        /// <summary>The parameters of the route's pattern, decoded: "id" of "/room/:id", and "*" for what a star took.</summary>
        public IReadOnlyDictionary<string, string> Parameters { get; } = new Dictionary<string, string>();

        /// <summary>The header lines by their names, in any case; several of one name are joined by a comma.</summary>
        public IReadOnlyDictionary<string, string> Headers => headers.Value;

        /// <summary>A header, in any case, or null.</summary>
        public string? this[string header] => Headers.TryGetValue(header, out string? value) ? value : null;

        /// <summary>The cookies by their names.</summary>
        public IReadOnlyDictionary<string, string> Cookies => cookies.Value;

        /// <summary>The page that a browser acts for; null from a program. (HyBi-07 and -08 have another name for it.)</summary>
        public string? Origin => this["Origin"] ?? this["Sec-WebSocket-Origin"];

        /// <summary>The host as the client knows it.</summary>
        public string? Host => this["Host"];

        /// <summary>The subprotocols that the client offers, in its order.</summary>
        public IReadOnlyList<string> Subprotocols =>
            (this["Sec-WebSocket-Protocol"] ?? "").Split(',', ' ').Select(name => name.Trim()).Where(name => name != "").ToArray();

        /// <summary>The client's address, or what a trusted proxy says of it; "" for a plain HTTP request.</summary>
        public string RemoteAddress { get; } = "";

        /// <summary>The client's port; 0 for a plain HTTP request.</summary>
        public int RemotePort { get; }

        /// <summary>"1.2" or "1.3"; null without TLS.</summary>
        public string? TlsVersion { get; }

        /// <summary>Of the client's certificate, like "CN=ann, O=Example"; null if it showed none.</summary>
        public string? TlsSubject { get; }

        /// <summary>The names in a route's pattern.</summary>
        internal static IReadOnlyList<string> ParametersOf(string pattern) =>
            pattern.Split('/').Where(part => part == "*" || part.StartsWith(":", StringComparison.Ordinal))
                .Select(part => part.TrimStart(':')).ToArray();

        private static IReadOnlyDictionary<string, string> ParseHeaders(string lines)
        {
            var headers = new Dictionary<string, string>(StringComparer.OrdinalIgnoreCase);
            foreach (string line in lines.Split(new[] { "\r\n" }, StringSplitOptions.RemoveEmptyEntries))
            {
                int colon = line.IndexOf(':');
                if (colon <= 0)
                    continue;
                string name = line.Substring(0, colon), value = line.Substring(colon + 1).Trim();
                headers[name] = headers.TryGetValue(name, out string? first) ? first + ", " + value : value;
            }
            return headers;
        }

        private static IReadOnlyDictionary<string, string> ParsePairs(string text, char separator, Func<string, string> decode)
        {
            var pairs = new Dictionary<string, string>();
            foreach (string pair in text.Split(separator))
            {
                int equals = pair.IndexOf('=');
                string name = decode(equals < 0 ? pair : pair.Substring(0, equals));
                if (name != "" && !pairs.ContainsKey(name))
                    pairs.Add(name, equals < 0 ? "" : decode(pair.Substring(equals + 1)));
            }
            return pairs;
        }

        private static string FormDecode(string text) => Uri.UnescapeDataString(text.Replace('+', ' '));
    }

    /// <summary>Whether a client may come in: <see cref="Accept"/> or <see cref="Refuse(int, string, IEnumerable{KeyValuePair{string, string}})"/>.</summary>
    public sealed unsafe class Decision
    {
        private readonly int refusal;
        private readonly string? subprotocol;
        private readonly string headers;
        private readonly byte[] body;

        private Decision(int refusal, string? subprotocol, IEnumerable<KeyValuePair<string, string>>? headers, byte[] body)
        {
            this.refusal = refusal;
            this.subprotocol = subprotocol;
            this.headers = HeaderLines.Of(headers);
            this.body = body;
        }

        /// <summary>
        /// Lets the client in. <paramref name="subprotocol"/> must be one that it offers; "" is none, null lets the option
        /// <c>protocols</c> choose. The headers are added to the answer.
        /// </summary>
        public static Decision Accept(string? subprotocol = null, IEnumerable<KeyValuePair<string, string>>? headers = null) =>
            new Decision(0, subprotocol, headers, Array.Empty<byte>());

        /// <summary>Turns the client away with an HTTP status from 300 to 599, a text for people, and headers.</summary>
        public static Decision Refuse(int status, string body = "", IEnumerable<KeyValuePair<string, string>>? headers = null) =>
            new Decision(status, null, headers, System.Text.Encoding.UTF8.GetBytes(body));

        /// <summary>Tells the library. The client may have gone meanwhile: that is no error.</summary>
        internal void Apply(WebSocketServer server, ulong connection) =>
            Results.Done(refusal == 0
                ? server.Accept(connection, subprotocol, headers)
                : server.Reject(connection, refusal, headers, body));
    }

    internal static class HeaderLines
    {
        internal static string Of(IEnumerable<KeyValuePair<string, string>>? headers) =>
            headers == null ? "" : string.Concat(headers.Select(header => $"{OneLine(header.Key)}: {OneLine(header.Value)}\r\n"));

        /// <summary>A line break inside would be a header of somebody else's making.</summary>
        private static string OneLine(string text) =>
            text.IndexOfAny(new[] { '\r', '\n' }) < 0 ? text : throw new ArgumentException($"a header can't have a line break: {text}");
    }
}
