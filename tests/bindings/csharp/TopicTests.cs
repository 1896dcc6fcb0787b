// Topics, on all three faces.
using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Linq;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

namespace FullDuplex.Tests
{
    internal sealed class TopicTests : IDisposable
    {
        private readonly WebSocketServer server = new WebSocketServer("ws://127.0.0.1:0");

        public void Dispose() => server.Dispose();

        /// <summary>Each socket is in the topic that its path names.</summary>
        private void StartRooms()
        {
            server.Route("/:topic", socket =>
            {
                Topic topic = socket.ConnectionInfo.Request.Parameters["topic"];
                socket.OnOpen = () => socket.Subscribe(topic);
                socket.OnMessage = text => server.Publish(topic, text);
            });
            server.Start();
        }

        private Task Subscribers(Topic topic, int count) =>
            Eventually.True(() => server.TopicCount(topic) == count, $"{topic} has {count} subscribers");

        [Test]
        public async Task What_is_published_reaches_all_subscribers_and_nobody_else()
        {
            StartRooms();
            using Peer one = await Peer.Connect(server, "/tea"), two = await Peer.Connect(server, "/tea"), other = await Peer.Connect(server, "/coffee");
            await Subscribers("tea", 2);
            await Subscribers("coffee", 1);
            await one.Send("grüß Gott");
            Check.Equal("grüß Gott", await one.Receive());
            Check.Equal("grüß Gott", await two.Receive());
            await other.Send("nobody else");
            Check.Equal("nobody else", await other.Receive());
            Check.Equal("1 0 0", Numbers(server.Publish("coffee", "hello")));
            Check.Equal("0 0 0", Numbers(server.Publish("milk", "hello")));
            Check.Equal("2 3", $"{server.Stats.Topics} {server.Stats.Subscriptions}");
        }

        private static string Numbers(PublishResult result) => $"{result.Queued} {result.HighWater} {result.Dropped}";

        [Test]
        public async Task Texts_bytes_parts_of_arrays_and_shared_messages_can_be_published()
        {
            StartRooms();
            using Peer peer = await Peer.Connect(server, "/tea");
            await Subscribers("tea", 1);
            byte[] bytes = { 9, 1, 2, 3, 9 };
            server.Publish("tea", "");
            server.Publish("tea", new string('ä', 100_000));
            server.Publish("tea", bytes);
            server.Publish("tea", Encoding.UTF8.GetBytes("ein Text"), MessageKind.Text, flags: SendFlags.Compress);
#if NET472
            server.Publish("tea", new ArraySegment<byte>(bytes, 1, 3));
#else
            server.Publish("tea", bytes.AsSpan(1, 3));
#endif
            using (var message = new SharedMessage("made before"))
                server.Publish("tea", message);
            Check.Equal("", await peer.Receive());
            Check.Equal(new string('ä', 100_000), await peer.Receive());
            Check.Sequence(bytes, (byte[])await peer.Receive());
            Check.Equal("ein Text", await peer.Receive());
            Check.Sequence(new byte[] { 1, 2, 3 }, (byte[])await peer.Receive());
            Check.Equal("made before", await peer.Receive());
        }

        [Test]
        public async Task Sockets_asynchronous_connections_and_plain_ones_subscribe_and_leave_alike()
        {
            server.Route("/socket", socket => socket.OnMessage = text => Obey(socket.Connection, text == "in" ? socket.Subscribe("tea") : socket.Unsubscribe("tea")));
            server.RouteAsync("/async", async connection =>
            {
                await foreach (Message message in connection)
                    Obey(connection.Connection, message.Text == "in" ? connection.Subscribe("tea") : connection.Unsubscribe("tea"));
            });
            server.Route("/plain", new Handlers
            {
                OnMessage = (connection, kind, data) => Obey(connection, data.ToArray()[0] == 'i' ? connection.Subscribe("tea") : connection.Unsubscribe("tea")),
            });
            void Obey(Connection connection, bool done) => connection.Send($"{done}");
            server.Start();
            foreach (string face in new[] { "/socket", "/async", "/plain" })
            {
                using Peer peer = await Peer.Connect(server, face);
                async Task Say(string word)
                {
                    await peer.Send(word);
                    Check.Equal("True", await peer.Receive());
                }
                await Say("in");
                await Say("in"); // it is in it already
                Check.Equal(1L, server.TopicCount("tea"));
                Check.Equal("1 0 0", Numbers(server.Publish("tea", "hello")));
                Check.Equal("hello", await peer.Receive());
                await Say("out");
                await Say("out");
                Check.Equal("0 0 0", Numbers(server.Publish("tea", "hello")));
                Check.Equal(0L, server.TopicCount("tea"));
            }
        }

        [Test]
        public async Task Who_publishes_can_be_left_out()
        {
            server.Start(socket =>
            {
                socket.OnOpen = () => socket.Subscribe("tea");
                socket.OnMessage = text => socket.Send(Numbers(server.Publish("tea", text, socket.Connection)));
            });
            using Peer one = await Peer.Connect(server), two = await Peer.Connect(server);
            await Subscribers("tea", 2);
            await one.Send("to the other");
            Check.Equal("1 0 0", await one.Receive());
            Check.Equal("to the other", await two.Receive());
            using var stranger = new WebSocketServer("ws://127.0.0.1:0");
            stranger.Start(socket => { });
            Connection somebody = server.GetConnections().First();
            Check.Throws<ArgumentException>(() => stranger.Publish("tea", "hello", somebody));
        }

        [Test]
        public async Task The_result_tells_who_is_behind_and_who_got_nothing()
        {
            server.Options.SendHighWater = 100_000;
            server.Options.SendLimit = 300_000;
            server.Options.SendFull = SendFull.Drop;
            StartRooms();
            using BarePeer slow = await BarePeer.Connect(server, "/tea", receiveBuffer: 4096);
            await Subscribers("tea", 1);
            var seen = new List<string>();
            // Until nothing moves any more: so long the system takes what is dropped the next time.
            for (int dropped = 0; dropped < 5;)
            {
                PublishResult result = server.Publish("tea", new byte[10_000]);
                Check.Equal(1L, result.Queued + result.HighWater + result.Dropped);
                if (!seen.Contains(Numbers(result)))
                    seen.Add(Numbers(result));
                dropped = result.Dropped == 0 ? 0 : dropped + 1;
                if (result.Dropped > 0)
                    await Task.Delay(20);
            }
            Check.Sequence(new[] { "1 0 0", "0 1 0", "0 0 1" }, seen);
            using Peer quick = await Peer.Connect(server, "/tea");
            await Subscribers("tea", 2);
            Check.Equal("1 0 1", Numbers(server.Publish("tea", new byte[10_000])));
            Check.Equal(10_000, ((byte[])await quick.Receive()).Length);
        }

        [Test]
        public async Task A_connection_that_ends_leaves_its_topics()
        {
            Connection gone = default;
            var ended = new TaskCompletionSource<bool>();
            server.Route("/*", new Handlers
            {
                OnOpen = (connection, request) =>
                {
                    gone = connection;
                    connection.Subscribe("tea");
                    connection.Subscribe("coffee");
                },
                OnClose = (connection, status) =>
                {
                    Check.Equal(0L, server.TopicCount("tea") + server.TopicCount("coffee"));
                    Check.True(!connection.Subscribe("tea"), "nobody comes back");
                    ended.SetResult(true);
                },
            });
            server.Start();
            using (Peer peer = await Peer.Connect(server))
            {
                await Subscribers("coffee", 1);
                await peer.Close();
            }
            await ended.Task;
            await Eventually.True(() => gone.Info == null, "it is gone");
            Check.True(!gone.Subscribe("tea") && !gone.Unsubscribe("tea"), "each call says so");
            Check.Equal("0 0 0", Numbers(server.Publish("tea", "hello", except: gone)));
        }

        [Test]
        public async Task A_topics_name_is_1_to_255_bytes_of_any_kind()
        {
            server.Start(socket => { });
            using Peer peer = await Peer.Connect(server);
            await Eventually.True(() => server.GetConnections().Count == 1, "it is open");
            Connection connection = server.GetConnections().Single();
            foreach (Topic name in new[]
            {
                "a", "a\0b", "*", "grüß Gott", new string('x', 255), new Topic(new byte[] { 0 }), new Topic(new byte[] { 0xff, 0, 0xfe }),
            })
            {
                Check.True(connection.Subscribe(name), "it is there");
                Check.Equal(1L, server.TopicCount(name));
                Check.Equal("1 0 0", Numbers(server.Publish(name, name.ToString())));
                Check.Equal(name.ToString(), await peer.Receive());
            }
            Check.Equal(0L, server.TopicCount("a\0"));
            foreach (Topic bad in new Topic[] { "", default, new string('x', 256), new Topic(new byte[0]) })
                foreach (Action misuse in new Action[]
                {
                    () => connection.Subscribe(bad), () => connection.Unsubscribe(bad), () => server.Publish(bad, "hello"), () => server.TopicCount(bad),
                })
                    Check.Equal(Status.InvalidArgument, Check.Throws<FullDuplexException>(misuse).Status);
            Check.Equal(Status.NotUtf8, Check.Throws<FullDuplexException>(() => server.Publish("a", new byte[] { 0xff }, MessageKind.Text)).Status);
            Check.Equal(Status.InvalidArgument, Check.Throws<FullDuplexException>(() => server.Publish("a", "hello", flags: SendFlags.More)).Status);
        }

        [Test]
        public void Topics_with_the_same_bytes_are_the_same()
        {
            Topic text = "grüß", bytes = new Topic(Encoding.UTF8.GetBytes("grüß"));
            Check.True(text == bytes && text.Equals((object)bytes) && text.GetHashCode() == bytes.GetHashCode(), "they are one");
            Check.True(text != "gruß" && text != "" && default(Topic) == "", "others are not");
            byte[] name = { 1, 2 };
            var kept = new Topic(name);
            name[0] = 9;
            kept.ToArray()[1] = 9;
            Check.Sequence(new byte[] { 1, 2 }, kept.ToArray());
            Check.Equal("grüß", bytes.ToString());
        }

        [Test]
        public async Task Over_max_topics_a_connection_gets_into_no_more()
        {
            server.Options.MaxTopics = 2;
            var outcome = new TaskCompletionSource<string>();
            server.Start(socket => socket.OnOpen = () =>
            {
                socket.Subscribe("one");
                socket.Subscribe("two");
                Status status = Check.Throws<FullDuplexException>(() => socket.Subscribe("three")).Status;
                socket.Unsubscribe("one");
                outcome.SetResult($"{status} {socket.Subscribe("three")}");
            });
            using Peer peer = await Peer.Connect(server);
            Check.Equal("Limit True", await outcome.Task);
        }

        [Test]
        public async Task OnTopic_is_told_who_joins_and_leaves_before_the_close()
        {
            var told = new ConcurrentQueue<string>();
            var ended = new TaskCompletionSource<bool>();
            server.OnTopic = (connection, topic, change, subscribers) => told.Enqueue($"{connection.State} {change} {topic} {subscribers}");
            server.Route("/:name", new Handlers
            {
                OnOpen = (connection, request) =>
                {
                    connection.SetState(request.Parameters["name"]);
                    connection.Subscribe("tea");
                    connection.Subscribe("tea");
                    told.Enqueue($"{request.Parameters["name"]} open");
                },
                OnMessage = (connection, kind, data) => connection.Unsubscribe("tea"),
                OnClose = (connection, status) =>
                {
                    told.Enqueue($"{connection.State} close");
                    if ("ann".Equals(connection.State))
                        ended.SetResult(true);
                },
            });
            server.Start();
            using Peer ann = await Peer.Connect(server, "/ann");
            await Eventually.True(() => told.Count == 2, "ann is in");
            using Peer bob = await Peer.Connect(server, "/bob");
            await Eventually.True(() => told.Count == 4, "bob is in");
            await bob.Send("enough");
            await Eventually.True(() => told.Count == 5, "bob is out");
            await bob.Close();
            await ann.Close();
            await ended.Task;
            Check.Sequence(new[]
            {
                "ann open", "ann Joined tea 1", "bob open", "bob Joined tea 2", "bob Left tea 1", "bob close", "ann Left tea 0", "ann close",
            }, told);
        }

        [Test]
        public async Task OnTopic_hears_of_every_face_and_may_publish()
        {
            server.OnTopic = (connection, topic, change, subscribers) => server.Publish(topic, $"{change} {subscribers}");
            server.Route("/socket", socket => socket.Subscribe("tea"));
            server.RouteAsync("/async", connection =>
            {
                connection.Subscribe("tea");
                return Task.Delay(Timeout.Infinite, connection.Closed);
            });
            server.Start();
            using Peer socket = await Peer.Connect(server, "/socket");
            Check.Equal("Joined 1", await socket.Receive());
            using (Peer connection = await Peer.Connect(server, "/async"))
            {
                Check.Equal("Joined 2", await socket.Receive());
                Check.Equal("Joined 2", await connection.Receive());
                await connection.Close();
            }
            Check.Equal("Left 1", await socket.Receive());
        }

        [Test]
        public async Task An_exception_in_OnTopic_closes_its_connection_with_1011()
        {
            using var log = new LogReader();
            server.OnTopic = (connection, topic, change, subscribers) =>
            {
                if (change == TopicChange.Joined && topic == "tea")
                    throw new InvalidOperationException("no tea");
            };
            StartRooms();
            using Peer tea = await Peer.Connect(server, "/tea"), coffee = await Peer.Connect(server, "/coffee");
            Check.Equal("closed 1011", await tea.Receive());
            await coffee.Send("hello");
            Check.Equal("hello", await coffee.Receive());
            Check.Equal("no tea", log.Entries.Single().Exception!.Message);
        }

        [Test]
        public async Task Publishers_of_many_threads_keep_their_order_while_others_come_and_go()
        {
            const int publishers = 4, messages = 2_000;
            server.Options.Threads = 2;
            server.Options.SendLimit = 64 << 20;
            server.Options.SendHighWater = 32 << 20;
            StartRooms();
            BarePeer[] listeners = await Task.WhenAll(Enumerable.Range(0, 6).Select(_ => BarePeer.Connect(server, "/tea")));
            await Subscribers("tea", listeners.Length);
            using var done = new CancellationTokenSource();
            Task coming = Task.Run(async () =>
            {
                while (!done.IsCancellationRequested)
                    using (Peer visitor = await Peer.Connect(server, "/tea"))
                        await visitor.Receive();
            });
            Task[] publishing = Enumerable.Range(0, publishers).Select(publisher => Task.Factory.StartNew(() =>
            {
                for (int number = 0; number < messages; number++)
                    Check.True(server.Publish("tea", $"{publisher} {number}").Queued >= listeners.Length, "all get it");
            }, TaskCreationOptions.LongRunning)).ToArray();
            await Task.WhenAll(listeners.Select(async listener =>
            {
                var next = new int[publishers];
                for (int count = 0; count < publishers * messages; count++)
                {
                    string[] words = (await listener.Receive()).Split(' ');
                    Check.Equal(next[int.Parse(words[0])]++, int.Parse(words[1]));
                }
            }));
            await Task.WhenAll(publishing);
            done.Cancel();
            // Whoever has come last waits for one more.
            while (!coming.IsCompleted)
            {
                server.Publish("tea", "good-bye");
                await Task.WhenAny(coming, Task.Delay(10));
            }
            await coming;
            foreach (BarePeer listener in listeners)
                listener.Dispose();
        }

        [Test]
        public async Task When_the_server_has_stopped_nobody_is_in_a_topic()
        {
            using (var never = new WebSocketServer("ws://127.0.0.1:0"))
                Check.Throws<InvalidOperationException>(() => never.Publish("tea", "hello"));
            StartRooms();
            using Peer peer = await Peer.Connect(server, "/tea");
            await Subscribers("tea", 1);
            using var begun = new CountdownEvent(4);
            Task[] publishing = Enumerable.Range(0, 4).Select(_ => Task.Factory.StartNew(() =>
            {
                begun.Signal();
                while (server.Publish("tea", "hello").Queued == 1) { }
            }, TaskCreationOptions.LongRunning)).ToArray();
            begun.Wait();
            peer.Socket.Abort();
            server.Dispose();
            await Task.WhenAll(publishing);
            Check.Equal("0 0 0", Numbers(server.Publish("tea", "hello")));
        }
    }
}
