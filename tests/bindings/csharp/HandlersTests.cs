// The plain face: the library's own events.
using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Linq;
using System.Threading.Tasks;

namespace FullDuplex.Tests
{
    internal sealed class HandlersTests : IDisposable
    {
        private readonly WebSocketServer server = new WebSocketServer("ws://127.0.0.1:0");

        public void Dispose() => server.Dispose();

        [Test]
        public async Task Messages_come_as_spans_and_go_as_spans()
        {
            server.Route("/*", new Handlers { OnMessage = (connection, kind, data) => connection.Send(data, kind) });
            server.Start();
            using Peer peer = await Peer.Connect(server);
            await peer.Send("grüß Gott");
            Check.Equal("grüß Gott", await peer.Receive());
            await peer.Send(new byte[] { 1, 2, 3 });
            Check.Sequence(new byte[] { 1, 2, 3 }, (byte[])await peer.Receive());
        }

        [Test]
        public async Task The_bytes_of_a_message_stay_as_they_are_while_its_handler_sends()
        {
            server.Route("/*", new Handlers
            {
                OnMessage = (connection, kind, data) =>
                {
                    connection.Send("something else");
                    connection.Send(data, kind);
                },
            });
            server.Start();
            using Peer peer = await Peer.Connect(server);
            await peer.Send("hello");
            Check.Equal("something else", await peer.Receive());
            Check.Equal("hello", await peer.Receive());
        }

        [Test]
        public async Task Events_come_in_order_and_carry_the_state_that_was_stored()
        {
            var told = new ConcurrentQueue<string>();
            var ended = new TaskCompletionSource<bool>();
            server.Route("/*", new Handlers
            {
                OnOpen = (connection, request) =>
                {
                    told.Enqueue($"open {request.Path}");
                    connection.SetState("mine");
                },
                OnMessage = (connection, kind, data) => told.Enqueue($"{kind} {connection.State}"),
                OnClose = (connection, status) =>
                {
                    told.Enqueue($"close {status} {connection.State}");
                    ended.SetResult(true);
                },
            });
            server.Start();
            using Peer peer = await Peer.Connect(server, "/here");
            await peer.Send("hello");
            await peer.Send(new byte[1]);
            await peer.Close(1000, "done");
            await ended.Task;
            Check.Sequence(new[] { "open /here", "Text mine", "Binary mine", "close 1000 done (by Peer) mine" }, told);
        }

        [Test]
        public async Task A_long_message_comes_in_pieces_and_goes_in_pieces()
        {
            server.Route("/*", new Handlers
            {
                OnFragment = (connection, kind, data, isLast) => connection.Send(data, kind, isLast ? SendFlags.None : SendFlags.More),
            });
            server.Options.MaxMessage = 1000; // nothing is assembled, so it does not count
            server.Start();
            using Peer peer = await Peer.Connect(server);
            string text = string.Concat(Enumerable.Range(0, 50_000).Select(number => $"{number}ä"));
            await peer.Send(text);
            Check.Equal(text, await peer.Receive());
        }

        [Test]
        public async Task A_paused_peer_is_not_read_until_it_is_resumed()
        {
            var opened = new TaskCompletionSource<Connection>();
            var got = new TaskCompletionSource<bool>();
            server.Route("/*", new Handlers
            {
                OnOpen = (connection, request) =>
                {
                    connection.Pause();
                    opened.SetResult(connection);
                },
                OnMessage = (connection, kind, data) => got.SetResult(true),
            });
            server.Start();
            using Peer peer = await Peer.Connect(server);
            Connection paused = await opened.Task;
            await peer.Send("hello");
            Check.True(await Task.WhenAny(got.Task, Task.Delay(100)) != got.Task, "nothing comes");
            Check.True(paused.Resume(), "it is there");
            await got.Task;
        }

        [Test]
        public async Task A_drain_follows_the_high_water()
        {
            var drained = new TaskCompletionSource<bool>();
            var results = new ConcurrentQueue<SendResult>();
            server.Route("/*", new Handlers
            {
                OnOpen = (connection, request) =>
                {
                    while (!results.Contains(SendResult.HighWater))
                        results.Enqueue(connection.Send(new byte[100_000]));
                },
                OnDrain = connection => drained.SetResult(true),
            });
            server.Start();
            using BarePeer peer = await BarePeer.Connect(server, receiveBuffer: 4096);
            await Eventually.True(() => results.Contains(SendResult.HighWater), "it is high water");
            for (int count = results.Count; count > 0; count--)
                await peer.Receive();
            await drained.Task;
        }

        [Test]
        public async Task An_exception_in_any_handler_closes_its_connection_with_1011()
        {
            foreach (string place in new[] { "open", "message" })
            {
                using var log = new LogReader();
                using var broken = new WebSocketServer("ws://127.0.0.1:0");
                void Throw(string here)
                {
                    if (here == place)
                        throw new InvalidOperationException("in " + here);
                }
                broken.Route("/*", new Handlers
                {
                    OnOpen = (connection, request) => Throw("open"),
                    OnMessage = (connection, kind, data) => Throw("message"),
                    OnClose = (connection, status) => throw new InvalidOperationException("in close"),
                });
                broken.Start();
                using Peer peer = await Peer.Connect(broken);
                await peer.Send("hello");
                Check.Equal("closed 1011", await peer.Receive());
                await peer.Close();
                await Eventually.True(() => log.Entries.Count == 2, "the log tells of both");
                Check.Sequence(new[] { "in " + place, "in close" }, log.Entries.Select(entry => entry.Exception!.Message));
            }
        }

        [Test]
        public async Task A_shared_message_tells_what_became_of_it_for_each()
        {
            server.Route("/*", new Handlers { OnMessage = (connection, kind, data) => connection.Send(data, kind) });
            server.Start();
            using Peer one = await Peer.Connect(server), two = await Peer.Connect(server);
            await one.Send("hello");
            await one.Receive();
            await two.Send("hello");
            await two.Receive();
            var connections = server.GetConnections();
            using var message = new SharedMessage("to both");
            Check.Sequence(new[] { SendResult.Sent, SendResult.Sent }, server.Send(connections, message));
            Check.Equal("to both", await one.Receive());
            Check.Equal("to both", await two.Receive());
            one.Socket.Abort();
            await Eventually.True(() => server.GetConnections().Count == 1, "one is gone");
            Check.Sequence(new[] { SendResult.Closed, SendResult.Sent },
                server.Send(connections.OrderBy(connection => connection.Info != null), message));
        }

        [Test]
        public async Task A_connection_that_has_gone_is_an_answer_and_no_crash()
        {
            Connection gone = default;
            var ended = new TaskCompletionSource<bool>();
            server.Route("/*", new Handlers
            {
                OnOpen = (connection, request) => gone = connection,
                OnClose = (connection, status) => ended.SetResult(true),
            });
            server.Start();
            using (Peer peer = await Peer.Connect(server))
                await peer.Close();
            await ended.Task;
            void IsGone()
            {
                Check.Equal(SendResult.Closed, gone.Send("hello"));
                Check.True(!gone.Close() && !gone.Abort() && !gone.Pause() && !gone.Resume() && !gone.Ping(new byte[1]), "every call says so");
                Check.True(!gone.SetState("mine") && gone.Info == null, "every call says so");
            }
            await Eventually.True(() => gone.Info == null, "it is gone");
            IsGone();
            server.Dispose();
            IsGone();
        }

        [Test]
        public async Task What_can_never_be_sent_is_an_exception_that_says_why()
        {
            var outcome = new TaskCompletionSource<string>();
            server.Options.SendLimit = 100_000;
            server.Route("/*", new Handlers
            {
                OnOpen = (connection, request) => outcome.SetResult(string.Join(" ", new Action[]
                {
                    () => connection.Send(new byte[100_001]), () => connection.Send(new byte[] { 0xff }, MessageKind.Text),
                    () => connection.Close(1005), () => connection.Close(1000, new string('x', 124)),
                }.Select(misuse => Check.Throws<FullDuplexException>(misuse).Status))),
            });
            server.Start();
            using Peer peer = await Peer.Connect(server);
            Check.Equal("TooBig NotUtf8 InvalidArgument TooBig", await outcome.Task);
        }

        [Test]
        public async Task Info_and_Stats_tell_what_went_on()
        {
            server.Route("/*", new Handlers { OnMessage = (connection, kind, data) => connection.Send(data, kind) });
            server.Start();
            using Peer peer = await Peer.Connect(server);
            await peer.Send("hello");
            await peer.Receive();
            ConnectionInfo info = server.GetConnections().Single().Info!;
            Check.Equal("1 1 13 127.0.0.1 False", $"{info.MessagesIn} {info.MessagesOut} {info.Version} {info.RemoteAddress} {info.IsSecure}");
            Check.Equal(server.Port, info.LocalPort);
            Check.Equal("1 1 1", $"{server.Stats.Connections} {server.Stats.MessagesIn} {server.Stats.Threads}");
            Check.Contains("# EOF", server.GetMetrics());
        }
    }
}
