// The face that users of Fleck know.
using System;
using System.Collections.Generic;
using System.Linq;
using System.Net.WebSockets;
using System.Threading;
using System.Threading.Tasks;

namespace FullDuplex.Tests
{
    internal sealed class SocketTests : IDisposable
    {
        private readonly WebSocketServer server = new WebSocketServer("ws://127.0.0.1:0");

        public void Dispose() => server.Dispose();

        [Test]
        public async Task A_server_in_three_lines_sends_texts_and_bytes_back()
        {
            server.Start(socket =>
            {
                socket.OnMessage = message => socket.Send(message);
                socket.OnBinary = bytes => socket.Send(bytes);
            });
            using Peer peer = await Peer.Connect(server);
            foreach (string text in new[] { "hello", "", "grüß Gott, 世界 👋", new string('x', 200_000) })
            {
                await peer.Send(text);
                Check.Equal(text, await peer.Receive());
            }
            foreach (int length in new[] { 0, 1, 125, 126, 65_535, 65_536, 300_000 })
            {
                byte[] bytes = Enumerable.Range(0, length).Select(index => (byte)(index * 7)).ToArray();
                await peer.Send(bytes);
                Check.Sequence(bytes, (byte[])await peer.Receive());
            }
        }

        [Test]
        public async Task A_socket_opens_and_closes_once_and_is_available_in_between()
        {
            var told = new List<string>();
            var ended = new TaskCompletionSource<IWebSocketConnection>();
            server.Start(socket =>
            {
                told.Add($"configured {socket.IsAvailable}");
                socket.OnOpen = () => told.Add($"open {socket.IsAvailable}");
                socket.OnMessage = message => told.Add(message);
                socket.OnClose = () =>
                {
                    told.Add($"close {socket.IsAvailable}");
                    ended.SetResult(socket);
                };
            });
            using Peer peer = await Peer.Connect(server);
            await peer.Send("hello");
            await peer.Close(4321, "enough");
            IWebSocketConnection gone = await ended.Task;
            Check.Sequence(new[] { "configured False", "open True", "hello", "close False" }, told);
            Check.Equal("4321 enough (by Peer)", gone.CloseStatus.ToString());
            Check.Equal(SendResult.Closed, await gone.Send("too late"));
        }

        [Test]
        public async Task Close_tells_the_peer_code_and_reason()
        {
            server.Start(socket => socket.OnMessage = message => socket.Close(4000 + message.Length, message));
            using Peer peer = await Peer.Connect(server);
            await peer.Send("enough");
            Check.Equal("closed 4006 enough", await peer.Receive());
        }

        [Test]
        public async Task ConnectionInfo_tells_what_the_client_asked_for()
        {
            var info = new TaskCompletionSource<IWebSocketConnectionInfo>();
            server.SupportedSubProtocols = new[] { "chat.v2", "chat.v1" };
            server.Start(socket => info.SetResult(socket.ConnectionInfo));
            using Peer peer = await Peer.Connect(server, "/room/a%20b?x=1&y=%C3%A4+b", options =>
            {
                options.SetRequestHeader("Origin", "http://a.example");
                options.SetRequestHeader("Cookie", "session=abc; theme=dark");
                options.SetRequestHeader("X-Mine", "yes");
                options.AddSubProtocol("chat.v1");
            });
            IWebSocketConnectionInfo known = await info.Task;
            Check.Contains("?x=1&y=%C3%A4+b", known.Path);
            Check.Equal("http://a.example", known.Origin);
            Check.Equal("abc dark", $"{known.Cookies["session"]} {known.Cookies["theme"]}");
            Check.Equal("yes", known.Headers["x-mine"]);
            Check.Equal("1 ä b", $"{known.Request.Query["x"]} {known.Request.Query["y"]}");
            Check.Equal("127.0.0.1", known.ClientIpAddress);
            Check.True(known.ClientPort > 0, "the client has a port");
            Check.Contains($":{server.Port}", known.Host ?? "");
            Check.Equal("chat.v1", known.NegotiatedSubProtocol);
            Check.Equal("chat.v1", peer.Socket.SubProtocol);
            Check.True(known.Id != Guid.Empty && known.Id == known.Id, "the id is the same each time");
        }

        [Test]
        public async Task Any_thread_may_send()
        {
            IWebSocketConnection? socket = null;
            server.Start(opened => opened.OnOpen = () => socket = opened);
            using Peer peer = await Peer.Connect(server);
            await Eventually.True(() => socket != null, "the socket opens");
            await Task.WhenAll(Enumerable.Range(0, 10).Select(number => Task.Run(() => socket!.Send($"{number}"))));
            var received = new List<string>();
            while (received.Count < 10)
                received.Add((string)await peer.Receive());
            Check.Sequence(Enumerable.Range(0, 10), received.Select(int.Parse).OrderBy(number => number));
        }

        [Test]
        public async Task A_broadcast_reaches_all_sockets_of_its_route_and_no_other()
        {
            server.Route("/room", socket => socket.OnMessage = text => server.Broadcast(text, "/room"));
            server.Route("/other", socket => socket.OnMessage = text => socket.Send("other " + text));
            server.Start();
            using Peer one = await Peer.Connect(server, "/room"), two = await Peer.Connect(server, "/room"), other = await Peer.Connect(server, "/other");
            await one.Send("to all");
            Check.Equal("to all", await one.Receive());
            Check.Equal("to all", await two.Receive());
            await other.Send("hello");
            Check.Equal("other hello", await other.Receive());
        }

        [Test]
        public async Task An_exception_in_any_callback_closes_its_connection_with_1011_and_is_told_to_OnError_and_the_log()
        {
            foreach (string place in new[] { "configure", "open", "message", "binary", "ping" })
            {
                using var log = new LogReader();
                using var broken = new WebSocketServer("ws://127.0.0.1:0");
                var told = new TaskCompletionSource<string>();
                broken.Start(socket =>
                {
                    void Throw(string here)
                    {
                        if (here == place)
                            throw new InvalidOperationException("in " + here);
                    }
                    socket.OnError = exception => told.TrySetResult(exception.Message);
                    socket.OnOpen = () => Throw("open");
                    socket.OnMessage = message => Throw("message");
                    socket.OnBinary = bytes => Throw("binary");
                    socket.OnPing = payload => Throw("ping");
                    Throw("configure");
                });
                if (place == "ping")
                {
                    using BarePeer bare = await BarePeer.Connect(broken);
                    await bare.Write(new byte[] { 0x89, 0x80, 0, 0, 0, 0 });
                    Check.Equal("", await bare.Receive()); // the pong
                    Check.Equal("\u0003\ufffd", await bare.Receive()); // 1011 = 03 F3
                }
                else
                {
                    using Peer peer = await Peer.Connect(broken);
                    if (place == "message")
                        await peer.Send("hello");
                    if (place == "binary")
                        await peer.Send(new byte[1]);
                    Check.Equal("closed 1011", await peer.Receive());
                }
                Check.Equal("in " + place, await told.Task);
                LogEntry entry = log.Entries.Single(one => one.Exception != null);
                Check.Contains("1011", entry.Text);
                Check.Contains("SocketTests", entry.Exception!.StackTrace!);
            }
        }

        [Test]
        public async Task A_null_reference_in_a_callback_is_an_exception_as_any_other()
        {
            // The processor finds it, and the runtime makes an exception of the signal.
            using var log = new LogReader();
            string? nothing = null;
            server.Start(socket => socket.OnMessage = message => socket.Send($"{nothing!.Length}"));
            using Peer peer = await Peer.Connect(server);
            await peer.Send("hello");
            Check.Equal("closed 1011", await peer.Receive());
            Check.True(log.Entries.Single().Exception is NullReferenceException, "the log tells which");
        }

        [Test]
        public async Task An_exception_in_OnClose_or_OnError_hurts_nobody()
        {
            using var log = new LogReader();
            server.Start(socket =>
            {
                socket.OnClose = () => throw new InvalidOperationException("in close");
                socket.OnError = exception => throw new InvalidOperationException("in error");
                socket.OnMessage = message => throw new InvalidOperationException("in message");
            });
            using (Peer peer = await Peer.Connect(server))
            {
                await peer.Send("hello");
                Check.Equal("closed 1011", await peer.Receive());
            }
            await Eventually.True(() => log.Entries.Any(one => one.Exception?.Message == "in close"), "the log tells of OnClose");
            using (Peer next = await Peer.Connect(server))
                next.Socket.Abort();
            server.Dispose(); // while somebody listens to the log
        }

        [Test]
        public async Task A_send_to_a_peer_that_is_behind_completes_when_it_has_caught_up()
        {
            var opened = new TaskCompletionSource<IWebSocketConnection>();
            server.Start(socket => socket.OnOpen = () => opened.SetResult(socket));
            using BarePeer peer = await BarePeer.Connect(server, receiveBuffer: 4096);
            IWebSocketConnection socket = await opened.Task;
            string text = new string('x', 100_000);
            var sends = new List<Task<SendResult>>();
            while (sends.Count == 0 || sends[sends.Count - 1].IsCompleted)
                sends.Add(socket.Send(text));
            Check.True(sends.Count < 150, "the library takes in no more than send.limit");
            Task<SendResult> last = sends[sends.Count - 1];
            foreach (Task<SendResult> send in sends)
                Check.Equal(text.Length, (await peer.Receive()).Length);
            Check.Equal(SendResult.Sent, await last);
        }

        [Test]
        public async Task Who_waits_for_a_peer_that_goes_is_told()
        {
            var opened = new TaskCompletionSource<IWebSocketConnection>();
            server.Start(socket => socket.OnOpen = () => opened.SetResult(socket));
            BarePeer peer = await BarePeer.Connect(server, receiveBuffer: 4096);
            IWebSocketConnection socket = await opened.Task;
            Task<SendResult> send;
            do
                send = socket.Send(new byte[100_000]);
            while (send.IsCompleted);
            peer.Dispose();
            Check.Equal(SendResult.Closed, await send);
        }

        [Test]
        public void A_location_says_where_how_and_for_which_path()
        {
            foreach ((string location, string listen) in new[]
            {
                ("ws://0.0.0.0:9990", "0.0.0.0:9990"), ("ws://[::1]:9990/", "[::1]:9990"), ("wss://localhost", "localhost:443?tls=1"),
                ("ws://10.0.0.1/chat", "10.0.0.1:80"), ("127.0.0.1:0", "127.0.0.1:0"), ("unix:/run/x.sock", "unix:/run/x.sock"),
            })
            {
                using var one = new WebSocketServer(location);
                Check.Sequence(new[] { listen }, one.Options.Listen);
            }
        }

        [Test]
        public async Task A_path_in_the_location_is_the_only_one_that_is_answered()
        {
            using var chat = new WebSocketServer("ws://127.0.0.1:0/chat");
            chat.Start(socket => socket.OnMessage = message => socket.Send(message));
            using Peer peer = await Peer.Connect(chat, "/chat");
            await Check.Throws<WebSocketException>(() => Peer.Connect(chat, "/elsewhere"));
        }

        [Test]
        public async Task Pings_go_out_and_pongs_come_in()
        {
            var pong = new TaskCompletionSource<string>();
            server.Start(socket =>
            {
                socket.OnPong = payload => pong.TrySetResult(string.Concat(payload.Select(one => (char)one)));
                socket.OnOpen = () => socket.SendPing(new byte[] { (byte)'h', (byte)'i' });
            });
            using Peer peer = await Peer.Connect(server);
            Task<object> reading = peer.Receive();
            Check.Equal("hi", await pong.Task);
            await peer.Socket.CloseOutputAsync(WebSocketCloseStatus.NormalClosure, "", CancellationToken.None);
            await reading;
        }
    }
}
