// Other machines, which are other servers of this process here.
using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Linq;
using System.Net;
using System.Net.Sockets;
using System.Runtime.CompilerServices;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

namespace FullDuplex.Tests
{
    internal sealed class BackplaneTests
    {
        /// <summary>Carries envelopes between servers, and notes what it has done.</summary>
        private sealed class Switchboard
        {
            private readonly List<Line> lines = new List<Line>();

            public ConcurrentQueue<string> Told { get; } = new ConcurrentQueue<string>();

            /// <summary>Called in each method, on the library's thread.</summary>
            public Action<string> Before { get; set; } = method => { };

            public IBackplane LineOf(WebSocketServer server)
            {
                var line = new Line(this, server);
                lock (lines)
                    lines.Add(line);
                return line;
            }

            private sealed class Line : IBackplane
            {
                private readonly Switchboard board;
                private readonly WebSocketServer server;
                private readonly HashSet<Topic> channels = new HashSet<Topic>();

                public Line(Switchboard board, WebSocketServer server) => (this.board, this.server) = (board, server);

                public void Publish(Topic channel, byte[] envelope)
                {
                    board.Before("publish");
                    Line[] all;
                    lock (board.lines)
                        all = board.lines.Where(line => line.channels.Contains(channel)).ToArray();
                    // Its own, too: the library knows its echoes.
                    foreach (Line line in all)
                        Check.True(line.server.Deliver(channel, envelope), "it is an envelope");
                    board.Told.Enqueue($"publish {channel}");
                }

                public void Subscribe(Topic channel)
                {
                    board.Before("subscribe");
                    lock (board.lines)
                        channels.Add(channel);
                    board.Told.Enqueue($"subscribe {channel}");
                }

                public void Unsubscribe(Topic channel)
                {
                    board.Before("unsubscribe");
                    lock (board.lines)
                        channels.Remove(channel);
                    board.Told.Enqueue($"unsubscribe {channel}");
                }
            }
        }

        /// <summary>A server whose sockets are in the topic "tea", and publish there what comes.</summary>
        private static WebSocketServer Tea(Switchboard? board = null, Action<WebSocketServer>? configure = null)
        {
            var server = new WebSocketServer("ws://127.0.0.1:0");
            server.Backplane = board?.LineOf(server);
            configure?.Invoke(server);
            server.Start(socket =>
            {
                socket.OnOpen = () => socket.Subscribe("tea");
                socket.OnMessage = text => server.Publish("tea", text);
            });
            return server;
        }

        private static Task Wanted(Switchboard board, int times) =>
            Eventually.True(() => board.Told.Count(told => told == "subscribe fdx:tea") == times, $"{times} servers want it");

        [Test]
        public async Task Servers_with_a_backplane_of_their_own_are_one()
        {
            const int messages = 200;
            var board = new Switchboard();
            using WebSocketServer one = Tea(board), two = Tea(board), three = Tea(board);
            using Peer ann = await Peer.Connect(one), bob = await Peer.Connect(two), cid = await Peer.Connect(three), dora = await Peer.Connect(three);
            await Wanted(board, 3);
            for (int number = 0; number < messages; number++)
                await ann.Send($"{number}");
            foreach (Peer peer in new[] { ann, bob, cid, dora })
                for (int number = 0; number < messages; number++)
                    Check.Equal($"{number}", await peer.Receive());
            // Each got each once, or this would not come next.
            await dora.Send("and back");
            foreach (Peer peer in new[] { ann, bob, cid, dora })
                Check.Equal("and back", await peer.Receive());
            await Eventually.True(() => two.Stats.BackplaneIn >= messages + 1, "it is counted");
            Check.Equal($"{messages} 0", $"{one.Stats.BackplaneOut} {one.Stats.BackplaneLost}");
        }

        [Test]
        public async Task A_channel_is_the_prefix_and_the_topic_wanted_from_the_first_subscriber_to_the_last()
        {
            var board = new Switchboard();
            using WebSocketServer server = Tea(board, one => one.Options.BackplanePrefix = "mine/");
            using (Peer first = await Peer.Connect(server))
            {
                await Eventually.True(() => server.TopicCount("tea") == 1, "one is in");
                using (Peer second = await Peer.Connect(server))
                {
                    await Eventually.True(() => server.TopicCount("tea") == 2, "both are in");
                    await Eventually.True(() => board.Told.Count == 1, "it was asked for");
                    await first.Close();
                    await second.Close();
                }
            }
            await Eventually.True(() => board.Told.Count == 2, "it was told twice");
            Check.Sequence(new[] { "subscribe mine/tea", "unsubscribe mine/tea" }, board.Told);
        }

        [Test]
        public async Task What_a_backplane_throws_is_logged_and_hurts_nobody()
        {
            using var log = new LogReader();
            var board = new Switchboard { Before = method => throw new InvalidOperationException("in " + method) };
            using (WebSocketServer server = Tea(board))
            {
                using Peer peer = await Peer.Connect(server);
                await peer.Send("hello");
                Check.Equal("hello", await peer.Receive());
                // Who leaves before anybody has asked for the channel leaves nothing to ask for.
                await Eventually.True(() => log.Entries.Count == 2, "the first two are told");
                await peer.Close();
                await Eventually.True(() => log.Entries.Count == 3, "each is told");
            }
            Check.Sequence(new[] { "in publish", "in subscribe", "in unsubscribe" },
                log.Entries.Select(entry => entry.Exception!.Message).OrderBy(message => message, StringComparer.Ordinal));
            Check.True(log.Entries.All(entry => entry.Text.Contains("backplane")), "the log says who");
        }

        [Test]
        public async Task A_backplane_that_blocks_holds_up_no_connection()
        {
            using var goOn = new ManualResetEventSlim();
            var board = new Switchboard { Before = method => goOn.Wait() };
            using WebSocketServer one = Tea(board), two = Tea(board);
            using Peer ann = await Peer.Connect(one), bob = await Peer.Connect(two);
            for (int number = 0; number < 10; number++)
            {
                await ann.Send($"{number}");
                Check.Equal($"{number}", await ann.Receive());
            }
            Check.Equal(0, board.Told.Count);
            goOn.Set();
            await Wanted(board, 2);
            await ann.Send("now");
            object last;
            do
                last = await bob.Receive();
            while (!"now".Equals(last));
        }

        [Test]
        public async Task While_it_is_down_publishes_wait_and_at_up_all_channels_come_first_and_a_gap_is_told()
        {
            var board = new Switchboard();
            var news = new ConcurrentQueue<BackplaneState>();
            using WebSocketServer server = Tea(board, one => one.OnBackplane = (state, reason) => news.Enqueue(state));
            using Peer peer = await Peer.Connect(server);
            await Wanted(board, 1);
            Check.True(server.SetBackplaneState(BackplaneState.Down), "it runs");
            await Eventually.True(() => news.LastOrDefault() == BackplaneState.Down, "down is told");
            await peer.Send("waits");
            Check.Equal("waits", await peer.Receive());
            Check.Sequence(new[] { "subscribe fdx:tea" }, board.Told);
            Check.True(server.SetBackplaneState(BackplaneState.Up), "it runs");
            await Eventually.True(() => news.LastOrDefault() == BackplaneState.Gap, "a gap is told");
            await Eventually.True(() => board.Told.Count == 3, "the publish goes on");
            Check.Sequence(new[] { "subscribe fdx:tea", "subscribe fdx:tea", "publish fdx:tea" }, board.Told);
            Check.Contains("Down Up Gap", string.Join(" ", news));
            int before = news.Count;
            server.SetBackplaneState(BackplaneState.Gap);
            await Eventually.True(() => news.Count == before + 1, "a gap can be told by itself");
            Check.Equal(BackplaneState.Gap, news.Last());
        }

        [Test]
        public async Task An_exception_in_OnBackplane_is_logged_and_hurts_nobody()
        {
            using var log = new LogReader();
            using WebSocketServer server = Tea(new Switchboard(), one => one.OnBackplane = (state, reason) => throw new InvalidOperationException("no news"));
            server.SetBackplaneState(BackplaneState.Gap);
            await Eventually.True(() => log.Entries.Count > 0, "the log tells");
            Check.True(log.Entries.All(entry => entry.Exception!.Message == "no news" && entry.Text.Contains("the server")), "of this and nothing else");
            using Peer peer = await Peer.Connect(server);
            await peer.Send("hello");
            Check.Equal("hello", await peer.Receive());
        }

        [Test]
        public void What_is_no_envelope_is_not_delivered()
        {
            var server = Tea(new Switchboard());
            using (server)
            {
                byte[] nonsense = Encoding.ASCII.GetBytes("this is something else");
                Check.True(!server.Deliver("fdx:tea", nonsense), "nonsense");
                Check.True(!server.Deliver("other:tea", nonsense), "another prefix");
                Check.True(!server.Deliver("fdx:tea", new byte[0]), "nothing");
#if NET472
                Check.True(!server.Deliver("fdx:tea", new ArraySegment<byte>(nonsense, 5, 2)), "a part");
#else
                Check.True(!server.Deliver("fdx:tea", nonsense.AsSpan(5, 2)), "a part");
#endif
            }
            Check.True(!server.Deliver("fdx:tea", new byte[1]) && !server.SetBackplaneState(BackplaneState.Up), "it has stopped");
        }

        [Test]
        public void A_server_has_one_backplane_at_most()
        {
            using WebSocketServer none = Tea();
            Check.Equal(Status.State, Check.Throws<FullDuplexException>(() => none.Deliver("fdx:tea", new byte[100])).Status);
            Check.Equal(Status.State, Check.Throws<FullDuplexException>(() => none.SetBackplaneState(BackplaneState.Up)).Status);
            FullDuplexException both = Check.Throws<FullDuplexException>(() => Tea(new Switchboard(), one => one.Options.Backplane = "redis://127.0.0.1:1"));
            Check.Equal(Status.Config, both.Status);
            Check.Contains("backplane", both.Message);
        }

        [Test]
        public async Task Without_Redis_a_server_serves_its_own_and_tells_that_it_is_alone()
        {
            var news = new TaskCompletionSource<string>();
            // Bound and not listening: nobody else gets it, and nobody answers.
            using var nobody = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            nobody.Bind(new IPEndPoint(IPAddress.Loopback, 0));
            int port = ((IPEndPoint)nobody.LocalEndPoint!).Port;
            using WebSocketServer server = Tea(null, one =>
            {
                one.Options.Backplane = $"redis://127.0.0.1:{port}";
                one.OnBackplane = (state, reason) => news.TrySetResult($"{state}: {reason}");
            });
            using Peer peer = await Peer.Connect(server);
            await peer.Send("hello");
            Check.Equal("hello", await peer.Receive());
            Check.Contains("Down: ", await news.Task);
            Check.True((await news.Task).Length > "Down: ".Length, "it says why");
        }

        [Test]
        public async Task A_backplane_works_while_everything_is_collected_all_the_time()
        {
            using var done = new CancellationTokenSource();
            var collector = new Thread(() =>
            {
                while (!done.IsCancellationRequested)
                {
                    GC.Collect();
                    GC.WaitForPendingFinalizers();
                }
            });
            var board = new Switchboard();
            using WebSocketServer one = Tea(board), two = Tea(board);
            using Peer ann = await Peer.Connect(one), bob = await Peer.Connect(two);
            // As with the server's other threads: Mono must know them before it can stop them.
            await Wanted(board, 2);
            collector.Start();
            try
            {
                for (int number = 0; number < 50; number++)
                {
                    await ann.Send($"{number}");
                    Check.Equal($"{number}", await ann.Receive());
                    Check.Equal($"{number}", await bob.Receive());
                }
            }
            finally
            {
                done.Cancel();
                collector.Join();
            }
        }

        [Test]
        public async Task A_backplane_is_let_go_when_its_server_has_ended()
        {
            WeakReference backplane = Used();
            await Eventually.True(() =>
            {
                GC.Collect();
                GC.WaitForPendingFinalizers();
                return !backplane.IsAlive;
            }, "nobody holds it");
        }

        [MethodImpl(MethodImplOptions.NoInlining)]
        private static WeakReference Used()
        {
            using WebSocketServer server = Tea(new Switchboard());
            return new WeakReference(server.Backplane);
        }
    }
}
