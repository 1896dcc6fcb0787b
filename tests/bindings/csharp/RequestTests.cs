// Who may come in, and plain HTTP.
using System;
using System.Collections.Generic;
using System.Linq;
using System.Net;
using System.Net.Http;
using System.Net.WebSockets;
using System.Threading.Tasks;

namespace FullDuplex.Tests
{
    internal sealed class RequestTests : IDisposable
    {
        private readonly WebSocketServer server = new WebSocketServer("ws://127.0.0.1:0");

        public void Dispose() => server.Dispose();

        /// <summary>A handshake as a plain request, to see the answer to it.</summary>
        private async Task<HttpResponseMessage> Knock(string target = "/", params (string Name, string Value)[] headers)
        {
            using var client = new HttpClient();
            using var request = new HttpRequestMessage(HttpMethod.Get, $"http://127.0.0.1:{server.Port}{target}");
            request.Headers.TryAddWithoutValidation("Connection", "Upgrade");
            request.Headers.TryAddWithoutValidation("Upgrade", "websocket");
            request.Headers.TryAddWithoutValidation("Sec-WebSocket-Version", "13");
            request.Headers.TryAddWithoutValidation("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
            foreach ((string name, string value) in headers)
                request.Headers.TryAddWithoutValidation(name, value);
            return await client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead);
        }

        private static Decision OnlyAnn(Request request) =>
            request.Query.TryGetValue("name", out string? name) && name == "ann"
                ? Decision.Accept("v2", new Dictionary<string, string> { ["X-Welcome"] = "yes" })
                : Decision.Refuse(401, "Who are you?", new Dictionary<string, string> { ["WWW-Authenticate"] = "Name" });

        private static Task<Decision> OnlyAnnAfterAWhile(Request request) =>
            Task.Delay(20).ContinueWith(_ => OnlyAnn(request));

        [Test]
        public async Task A_decision_lets_in_with_a_subprotocol_or_refuses_with_status_headers_and_body()
        {
            foreach (bool isAsync in new[] { false, true })
            {
                using var gate = new WebSocketServer("ws://127.0.0.1:0");
                if (isAsync)
                    gate.OnRequestAsync = OnlyAnnAfterAWhile;
                else
                    gate.OnRequest = OnlyAnn;
                gate.Route("/socket", socket => socket.OnOpen = () => socket.Send("hello " + socket.ConnectionInfo.Request.Query["name"]));
                gate.RouteAsync("/async", connection => connection.SendAsync("hello " + connection.Request.Query["name"] + connection.Subprotocol).ToTask());
                gate.Route("/plain", new Handlers { OnOpen = (connection, request) => connection.Send($"hello {request.Query["name"]} {connection.State}") });
                gate.Start();
                foreach ((string path, string greeting) in new[] { ("/socket", "hello ann"), ("/async", "hello annv2"), ("/plain", "hello ann ") })
                {
                    using Peer peer = await Peer.Connect(gate, path + "?name=ann", options =>
                    {
                        options.AddSubProtocol("v1");
                        options.AddSubProtocol("v2");
                    });
                    Check.Equal("v2", peer.Socket.SubProtocol);
                    Check.Equal(greeting, await peer.Receive());
                    await Check.Throws<WebSocketException>(() => Peer.Connect(gate, path));
                }
            }
        }

        [Test]
        public async Task A_refusal_tells_why()
        {
            server.OnRequest = OnlyAnn;
            server.Start(socket => { });
            using HttpResponseMessage answer = await Knock();
            Check.Equal(HttpStatusCode.Unauthorized, answer.StatusCode);
            Check.Equal("Name", answer.Headers.WwwAuthenticate.Single().Scheme);
            Check.Equal("Who are you?", await answer.Content.ReadAsStringAsync());
        }

        [Test]
        public async Task A_decision_that_throws_is_a_500_and_told_to_the_log()
        {
            foreach (bool isAsync in new[] { false, true })
            {
                using var log = new LogReader();
                using var suite = new RequestTests();
                if (isAsync)
                    suite.server.OnRequestAsync = request => throw new InvalidOperationException("undecided");
                else
                    suite.server.OnRequest = request => throw new InvalidOperationException("undecided");
                suite.server.Start(socket => { });
                using HttpResponseMessage answer = await suite.Knock();
                Check.Equal(HttpStatusCode.InternalServerError, answer.StatusCode);
                Check.Equal("undecided", log.Entries.Single().Exception!.Message);
            }
        }

        [Test]
        public async Task A_header_can_not_smuggle_in_another()
        {
            using var log = new LogReader();
            server.OnRequest = request => Decision.Accept(headers: new Dictionary<string, string> { ["X-Mine"] = "a\r\nX-Not-Mine: b" });
            server.Start(socket => { });
            using HttpResponseMessage answer = await Knock();
            Check.Equal(HttpStatusCode.InternalServerError, answer.StatusCode);
            Check.True(log.Entries.Single().Exception is ArgumentException, "the log tells which");
        }

        [Test]
        public async Task A_request_tells_its_path_parameters_origin_and_offers()
        {
            Request? seen = null;
            server.OnRequest = request =>
            {
                seen = request;
                return Decision.Refuse(404);
            };
            server.Route("/room/:id/*", socket => { });
            server.Start();
            using HttpResponseMessage answer = await Knock("/room/a%20b/c/d?x=1&x=2&flag", ("Origin", "http://a.example"),
                ("Sec-WebSocket-Protocol", "v1, v2"), ("X-Twice", "one"), ("X-Twice", "two"));
            Check.Equal("GET a b c/d", $"{seen!.Method} {seen.Parameters["id"]} {seen.Parameters["*"]}");
            Check.Equal("1 True", $"{seen.Query["x"]} {seen.Query.ContainsKey("flag")}");
            Check.Equal("x=1&x=2&flag", seen.QueryString);
            Check.Equal("http://a.example", seen.Origin);
            Check.Sequence(new[] { "v1", "v2" }, seen.Subprotocols);
            Check.Equal("one, two", seen["x-twice"]);
            Check.Equal("127.0.0.1", seen.RemoteAddress);
            Check.Equal(null, seen.TlsVersion);
        }

        [Test]
        public async Task Origins_that_are_not_allowed_are_refused()
        {
            server.Options.Origins = new[] { "https://a.example" };
            server.Start(socket => { });
            using (HttpResponseMessage answer = await Knock("/", ("Origin", "https://b.example")))
                Check.Equal(HttpStatusCode.Forbidden, answer.StatusCode);
            using (Peer peer = await Peer.Connect(server, options: options => options.SetRequestHeader("Origin", "https://a.example")))
                Check.Equal(WebSocketState.Open, peer.Socket.State);
        }

        [Test]
        public async Task Pages_answer_plain_requests_beside_the_sockets_of_the_same_path()
        {
            server.RouteHttp("/now", request => new HttpReply(200, $"{request.Request.Method} {request.Request.Query["x"]} {request.Body.Length}",
                headers: new Dictionary<string, string> { ["X-Mine"] = "yes" }));
            server.RouteHttp("/later", async request =>
            {
                await Task.Delay(10);
                return new HttpReply(201, request.Body, "application/x-mine");
            });
            server.Route("/now", socket => socket.OnMessage = text => socket.Send(text));
            server.Start();
            using var client = new HttpClient();
            string site = $"http://127.0.0.1:{server.Port}";
            using (HttpResponseMessage answer = await client.GetAsync(site + "/now?x=1"))
            {
                Check.Equal("GET 1 0", await answer.Content.ReadAsStringAsync());
                Check.Equal("yes", answer.Headers.GetValues("X-Mine").Single());
            }
            using (HttpResponseMessage answer = await client.PostAsync(site + "/later", new ByteArrayContent(new byte[100_000])))
            {
                Check.Equal("201 application/x-mine", $"{(int)answer.StatusCode} {answer.Content.Headers.ContentType}");
                Check.Equal(100_000, (await answer.Content.ReadAsByteArrayAsync()).Length);
            }
            using (HttpResponseMessage answer = await client.GetAsync(site + "/nowhere"))
                Check.Equal(HttpStatusCode.UpgradeRequired, answer.StatusCode);
            using Peer peer = await Peer.Connect(server, "/now");
            await peer.Send("hello");
            Check.Equal("hello", await peer.Receive());
        }

        [Test]
        public async Task A_page_that_throws_is_a_500_and_told_to_the_log()
        {
            using var log = new LogReader();
            server.RouteHttp("/now", new Func<HttpRequest, HttpReply>(request => throw new InvalidOperationException("now")));
            server.RouteHttp("/later", async request =>
            {
                await Task.Yield();
                throw new InvalidOperationException("later");
            });
            server.Start();
            using var client = new HttpClient();
            foreach (string place in new[] { "now", "later" })
                using (HttpResponseMessage answer = await client.GetAsync($"http://127.0.0.1:{server.Port}/{place}"))
                    Check.Equal(HttpStatusCode.InternalServerError, answer.StatusCode);
            Check.Sequence(new[] { "now", "later" }, log.Entries.Select(entry => entry.Exception!.Message));
        }
    }
}
