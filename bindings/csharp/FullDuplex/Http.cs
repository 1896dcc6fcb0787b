// Plain HTTP requests, for the page beside the WebSocket.
using System.Collections.Generic;

namespace FullDuplex
{
    /// <summary>A plain HTTP request.</summary>
    public sealed class HttpRequest
    {
        internal HttpRequest(Request request, byte[] body)
        {
            Request = request;
            Body = body;
        }

        /// <summary>Its method, path, query and headers.</summary>
        public Request Request { get; }

        /// <summary>Its body, of at most <c>max.body</c> bytes.</summary>
        public byte[] Body { get; }
    }

    /// <summary>The answer to a plain HTTP request.</summary>
    public sealed class HttpReply
    {
        private readonly int status;
        private readonly byte[] body;
        private readonly string headers;

        /// <summary>A status from 200 to 599, a body with its type, and headers. The length is set by the server.</summary>
        public HttpReply(int status, byte[] body, string? contentType = null, IEnumerable<KeyValuePair<string, string>>? headers = null)
        {
            this.status = status;
            this.body = body;
            this.headers = (contentType == null ? "" : $"Content-Type: {contentType}\r\n") + HeaderLines.Of(headers);
        }

        /// <summary>A status from 200 to 599, a text, and headers.</summary>
        public HttpReply(int status, string body, string contentType = "text/plain; charset=utf-8", IEnumerable<KeyValuePair<string, string>>? headers = null)
            : this(status, System.Text.Encoding.UTF8.GetBytes(body), contentType, headers)
        {
        }

        /// <summary>The client may have gone meanwhile: that is no error.</summary>
        internal void Apply(WebSocketServer server, ulong request) =>
            Results.Done(server.HttpReply(request, status, headers, body));
    }
}
