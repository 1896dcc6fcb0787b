// The asynchronous face.
using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;

namespace FullDuplex.Tests
{
    internal sealed class AsyncTests : IDisposable
    {
        private static readonly TimeSpan Deadline = TimeSpan.FromSeconds(10);

        private readonly WebSocketServer server = new WebSocketServer("ws://127.0.0.1:0");

        public void Dispose() => server.Dispose();

        private static async Task Echo(AsyncConnection connection)
        {
            await foreach (Message message in connection)
                await connection.SendAsync(message);
        }

        [Test]
        public async Task A_handler_awaits_messages_and_sends_them_back()
        {
            server.StartAsync(Echo);
            using Peer peer = await Peer.Connect(server);
            foreach (string text in new[] { "hello", "", "grüß Gott", new string('x', 200_000) })
            {
                await peer.Send(text);
                Check.Equal(text, await peer.Receive());
            }
            await peer.Send(new byte[] { 0, 255 });
            Check.Sequence(new byte[] { 0, 255 }, (byte[])await peer.Receive());
        }

        [Test(SecondsMax = 120)]
        public async Task Ten_thousand_messages_from_each_of_a_hundred_clients_come_back_in_order()
        {
            const int clients = 100, messages = 10_000;
            server.StartAsync(async connection =>
            {
                int received = 0;
                await foreach (Message message in connection)
                {
                    if (received++ % 100 == 0)
                        await Task.Yield();
                    await connection.SendAsync(message);
                }
            });
            byte[] frames = BarePeer.Frames(Enumerable.Range(0, messages).Select(number => number.ToString()));
            await Task.WhenAll(Enumerable.Range(0, clients).Select(async client =>
            {
                using BarePeer peer = await BarePeer.Connect(server);
                Task writing = peer.Write(frames);
                for (int number = 0; number < messages; number++)
                    Check.Equal(number.ToString(), await peer.Receive());
                await writing;
            }));
            Check.Equal((long)clients * messages, server.Stats.MessagesIn);
        }

        [Test]
        public async Task Handlers_work_while_everything_is_collected_all_the_time()
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
            server.Route("/socket", socket => socket.OnMessage = message => socket.Send(message));
            server.RouteAsync("/async", Echo);
            server.Route("/plain", new Handlers { OnMessage = (connection, kind, data) => connection.Send(data, kind) });
            server.Start();
            collector.Start();
            try
            {
                await Task.WhenAll(new[] { "/socket", "/async", "/plain" }.Select(async target =>
                {
                    for (int visit = 0; visit < 10; visit++)
                    {
                        using Peer peer = await Peer.Connect(server, target);
                        for (int number = 0; number < 20; number++)
                        {
                            await peer.Send($"{target} {number}");
                            Check.Equal($"{target} {number}", await peer.Receive());
                        }
                        await peer.Close();
                    }
                }));
            }
            finally
            {
                done.Cancel();
                collector.Join();
            }
        }

        [Test]
        public async Task A_slow_handler_holds_up_only_its_own_connection_and_little_memory()
        {
            var goOn = new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);
            var slow = new TaskCompletionSource<AsyncConnection>();
            int received = 0;
            server.RouteAsync("/slow", async connection =>
            {
                slow.SetResult(connection);
                await goOn.Task;
                await foreach (Message message in connection)
                    received++;
            });
            server.RouteAsync("/quick", Echo);
            server.Start();

            const int messages = 200_000;
            using BarePeer flood = await BarePeer.Connect(server, "/slow");
            Task flooding = flood.Write(BarePeer.Frames(Enumerable.Repeat(new string('x', 100), messages)));
            ConnectionInfo? Info() => slow.Task.Result.Connection.Info;
            await slow.Task;

            // Until it is paused, and nothing more comes in.
            for (long before = -1; Info()!.BytesIn != before || before == 0; await Task.Delay(50))
                before = Info()!.BytesIn;
            Check.True(Info()!.BytesIn < 2_000_000, $"{Info()!.BytesIn} bytes came in, of {messages * 106}");
            Check.True(!flooding.IsCompleted, "TCP holds up the client");

            using Peer quick = await Peer.Connect(server, "/quick");
            await quick.Send("hello");
            Check.Equal("hello", await quick.Receive());

            goOn.SetResult(true);
            await flooding;
            await Eventually.True(() => Volatile.Read(ref received) == messages, "everything comes in the end");
        }

        [Test]
        public async Task A_handler_that_blocks_its_thread_does_not_block_the_servers()
        {
            using var goOn = new ManualResetEventSlim();
            server.RouteAsync("/stuck", connection =>
            {
                goOn.Wait();
                return Task.CompletedTask;
            });
            server.RouteAsync("/quick", Echo);
            server.Start();
            using Peer stuck = await Peer.Connect(server, "/stuck"), quick = await Peer.Connect(server, "/quick");
            await quick.Send("hello");
            Check.Equal("hello", await quick.Receive());
            goOn.Set();
            Check.Equal("closed 1000", await stuck.Receive());
        }

        [Test]
        public async Task Handlers_that_never_block_go_on_on_the_servers_thread()
        {
            var threads = new ConcurrentDictionary<string, int>();
            server.HandlersNeverBlock = true;
            server.StartAsync(async connection =>
            {
                await foreach (Message message in connection)
                {
                    threads.TryAdd($"{Thread.CurrentThread.IsThreadPoolThread} {Thread.CurrentThread.ManagedThreadId}", 0);
                    await connection.SendAsync(message);
                }
            });
            using Peer one = await Peer.Connect(server), two = await Peer.Connect(server);
            for (int number = 0; number < 100; number++)
            {
                await one.Send($"{number}");
                await two.Send(new string('x', 1000));
                Check.Equal($"{number}", await one.Receive());
                Check.Equal(new string('x', 1000), await two.Receive());
            }
            Check.Contains("False", threads.Keys.Single());
            await one.Close();
            two.Socket.Abort();
            await server.StopAsync(Deadline);
        }

        [Test]
        public async Task SendAsync_waits_at_the_high_water_until_the_drain()
        {
            var results = new ConcurrentQueue<SendResult>();
            server.StartAsync(async connection =>
            {
                for (int number = 0; number < 300; number++)
                    results.Enqueue(await connection.SendAsync(new byte[100_000]));
            });
            using BarePeer peer = await BarePeer.Connect(server, receiveBuffer: 4096);
            for (int before = -1; results.Count != before || before == 0; await Task.Delay(50))
                before = results.Count;
            Check.True(results.Count < 200, $"{results.Count} of 300 messages were sent to a peer that does not read");
            for (int number = 0; number < 300; number++)
                Check.Equal(100_000, (await peer.Receive()).Length >= 1 ? 100_000 : 0);
            await Eventually.True(() => results.Count == 300, "all are sent");
            Check.True(results.All(result => result == SendResult.Sent), "every send says so");
        }

        [Test]
        public async Task A_token_ends_the_wait_for_the_drain()
        {
            var outcome = new TaskCompletionSource<string>();
            server.StartAsync(async connection =>
            {
                using var impatience = new CancellationTokenSource(TimeSpan.FromMilliseconds(100));
                try
                {
                    while (true)
                        await connection.SendAsync(new byte[100_000], MessageKind.Binary, impatience.Token);
                }
                catch (OperationCanceledException)
                {
                    outcome.SetResult("cancelled");
                }
            });
            using BarePeer peer = await BarePeer.Connect(server, receiveBuffer: 4096);
            Check.Equal("cancelled", await outcome.Task);
        }

        [Test]
        public async Task The_messages_end_when_the_peer_closes_and_tell_how()
        {
            var outcome = new TaskCompletionSource<string>();
            server.StartAsync(async connection =>
            {
                int count = 0;
                await foreach (Message message in connection)
                    count++;
                SendResult late = await connection.SendAsync("too late");
                outcome.SetResult($"{count} messages, {connection.CloseStatus}, {late}, {connection.Closed.IsCancellationRequested}");
            });
            using Peer peer = await Peer.Connect(server);
            await peer.Send("one");
            await peer.Send("two");
            await peer.Close(4444, "tired");
            Check.Equal("2 messages, 4444 tired (by Peer), Closed, True", await outcome.Task);
        }

        [Test]
        public async Task A_handler_that_returns_closes_with_1000_and_one_that_throws_with_1011()
        {
            using var log = new LogReader();
            server.StartAsync(async connection =>
            {
                Message? first = await connection.ReceiveAsync();
                if (first?.Text == "throw")
                    throw new InvalidOperationException("as told");
            });
            using (Peer peer = await Peer.Connect(server))
            {
                await peer.Send("return");
                Check.Equal("closed 1000", await peer.Receive());
            }
            Check.Equal(0, log.Entries.Count);
            using (Peer peer = await Peer.Connect(server))
            {
                await peer.Send("throw");
                Check.Equal("closed 1011", await peer.Receive());
            }
            Check.Equal("as told", log.Entries.Single().Exception!.Message);
        }

        [Test]
        public async Task CloseAsync_completes_with_the_peers_answer()
        {
            var outcome = new TaskCompletionSource<CloseStatus>();
            server.StartAsync(async connection => outcome.SetResult(await connection.CloseAsync(4000, "good-bye")));
            using Peer peer = await Peer.Connect(server);
            Check.Equal("closed 4000 good-bye", await peer.Receive());
            await peer.Close(4000, "good-bye");
            Check.Equal("4000 good-bye (by Host)", (await outcome.Task).ToString());
        }

        [Test]
        public async Task A_token_ends_the_wait_for_a_message_and_leaves_the_connection_open()
        {
            server.StartAsync(async connection =>
            {
                using (var impatience = new CancellationTokenSource(TimeSpan.FromMilliseconds(50)))
                    try
                    {
                        await connection.ReceiveAsync(impatience.Token);
                    }
                    catch (OperationCanceledException)
                    {
                        await connection.SendAsync("nothing came");
                    }
                using (var cancelled = new CancellationTokenSource())
                {
                    cancelled.Cancel();
                    await Check.Throws<OperationCanceledException>(async () => await connection.ReceiveAsync(cancelled.Token));
                }
                await connection.SendAsync((await connection.ReceiveAsync())!.Value);
            });
            using Peer peer = await Peer.Connect(server);
            Check.Equal("nothing came", await peer.Receive());
            await peer.Send("here I am");
            Check.Equal("here I am", await peer.Receive());
        }

        [Test]
        public async Task Closed_is_cancelled_when_the_peer_goes_and_frees_a_handler_that_waits_for_something_else()
        {
            using var log = new LogReader();
            var freed = new TaskCompletionSource<bool>();
            server.StartAsync(async connection =>
            {
                try
                {
                    await Task.Delay(Timeout.Infinite, connection.Closed);
                }
                finally
                {
                    freed.SetResult(true);
                }
            });
            Peer peer = await Peer.Connect(server);
            peer.Socket.Abort();
            await freed.Task;
            await server.StopAsync(Deadline);
            Check.Equal(0, log.Entries.Count);
        }

        [Test]
        public async Task StopAsync_says_good_bye_and_waits_for_the_handlers()
        {
            bool hasEnded = false;
            server.StartAsync(async connection =>
            {
                await foreach (Message message in connection) { }
                await Task.Delay(100);
                hasEnded = true;
            });
            using Peer peer = await Peer.Connect(server);
            Task<object> reading = peer.Receive();
            Task stopping = server.StopAsync(Deadline, 1001, "gone fishing");
            Check.Equal("closed 1001 gone fishing", await reading);
            await peer.Close();
            await stopping;
            Check.True(hasEnded, "the handler has ended");
        }

        [Test]
        public async Task StopAsync_cuts_a_peer_that_does_not_answer_at_its_deadline()
        {
            server.StartAsync(Echo);
            using BarePeer silent = await BarePeer.Connect(server);
            await server.StopAsync(TimeSpan.FromMilliseconds(200));
        }

        [Test]
        public async Task Two_readers_at_a_time_are_refused()
        {
            var outcome = new TaskCompletionSource<string>();
            server.StartAsync(async connection =>
            {
                Task<Message?> first = connection.ReceiveAsync().ToTask();
                outcome.SetResult((await Check.Throws<InvalidOperationException>(async () => await connection.ReceiveAsync())).Message);
                await first;
            });
            using Peer peer = await Peer.Connect(server);
            Check.Contains("one reader", await outcome.Task);
        }
    }

    internal static class Tasks
    {
        /// <summary>What is a ValueTask on one runtime is a Task on the other.</summary>
        internal static Task<T> ToTask<T>(this Task<T> task) => task;

#if NETCOREAPP
        internal static Task<T> ToTask<T>(this ValueTask<T> task) => task.AsTask();
#endif
    }
}
