// From start to end, and what a process can do to a server in between.
using System;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Net;
using System.Net.Sockets;
using System.Net.WebSockets;
using System.Threading;
using System.Threading.Tasks;

namespace FullDuplex.Tests
{
    internal sealed class LifeTests
    {
        private static WebSocketServer Echo()
        {
            var server = new WebSocketServer("ws://127.0.0.1:0");
            server.Start(socket => socket.OnMessage = message => socket.Send(message));
            return server;
        }

        [Test(SecondsMax = 120)]
        public async Task A_thousand_servers_come_and_go_and_leave_no_memory_behind()
        {
            async Task ComeAndGo(int times)
            {
                for (int time = 0; time < times; time++)
                {
                    WebSocketServer server = Echo();
                    if (time % 20 == 0)
                    {
                        using Peer peer = await Peer.Connect(server);
                        await peer.Send("hello");
                        Check.Equal("hello", await peer.Receive());
                        peer.Socket.Abort();
                    }
                    await server.DisposeAsync();
                }
                GC.Collect();
                GC.WaitForPendingFinalizers();
                GC.Collect();
            }

            await ComeAndGo(300);
            (long managed, long resident, int threads) = (GC.GetTotalMemory(true), Resident(), Threads());
            await ComeAndGo(700);
            long grown = GC.GetTotalMemory(true) - managed, grownResident = Resident() - resident;
            Check.True(grown < 700_000, $"{grown} managed bytes more after 700 servers");
            // 4 KiB for each would be 2.8 MiB; the heaps of both sides breathe.
            Check.True(grownResident < 12_000_000, $"{grownResident} resident bytes more after 700 servers");
            Check.True(Threads() - threads < 20, $"{Threads() - threads} threads more");
        }

        private static long Resident() => long.Parse(File.ReadAllText("/proc/self/statm").Split(' ')[1]) * Environment.SystemPageSize;

        private static int Threads() => Process.GetCurrentProcess().Threads.Count;

        [Test]
        public void A_server_that_can_not_start_says_why_and_leaves_nothing()
        {
            using WebSocketServer first = Echo();
            using var second = new WebSocketServer($"ws://127.0.0.1:{first.Port}");
            FullDuplexException taken = Check.Throws<FullDuplexException>(() => second.Start(socket => { }));
            Check.Equal(Status.AddressInUse, taken.Status);
            Check.Contains($"{first.Port}", taken.Message);
            Check.Throws<InvalidOperationException>(() => second.Port.ToString());

            using var bad = new WebSocketServer("ws://127.0.0.1:0");
            bad.Route("no slash", socket => { });
            Check.Equal(Status.Config, Check.Throws<FullDuplexException>(() => bad.Start()).Status);
        }

        [Test]
        public void A_server_starts_once_and_takes_no_route_afterwards()
        {
            using WebSocketServer server = Echo();
            Check.Throws<InvalidOperationException>(() => server.Start());
            Check.Throws<InvalidOperationException>(() => server.Route("/late", socket => { }));
            server.Dispose();
            server.Dispose();
            Check.Throws<ObjectDisposedException>(() => server.Start());
        }

        [Test]
        public async Task A_server_that_never_started_can_be_stopped_and_disposed()
        {
            using var server = new WebSocketServer("ws://127.0.0.1:0");
            Check.True(!server.Stop(TimeSpan.Zero), "there is nothing to stop");
            await server.StopAsync(TimeSpan.Zero);
        }

        [Test]
        public async Task A_callback_may_dispose_of_its_server()
        {
            var disposed = new TaskCompletionSource<bool>();
            var server = new WebSocketServer("ws://127.0.0.1:0");
            server.Start(socket => socket.OnMessage = message =>
            {
                server.Dispose();
                disposed.SetResult(true);
            });
            using Peer peer = await Peer.Connect(server);
            await peer.Send("end");
            await disposed.Task;
            Check.Equal("closed 1001", await peer.Receive());
        }

        [Test]
        public async Task A_handler_may_dispose_of_its_server()
        {
            var disposed = new TaskCompletionSource<bool>();
            var server = new WebSocketServer("ws://127.0.0.1:0");
            server.StartAsync(async connection =>
            {
                await connection.ReceiveAsync();
                server.Dispose();
                disposed.SetResult(true);
            });
            using Peer peer = await Peer.Connect(server);
            await peer.Send("end");
            Check.Equal("closed 1001", await peer.Receive());
            await peer.Close();
            await disposed.Task;
        }

        [Test]
        public async Task Sends_of_many_threads_may_meet_the_end_of_the_server()
        {
            for (int round = 0; round < 5; round++)
            {
                IWebSocketConnection? socket = null;
                var server = new WebSocketServer("ws://127.0.0.1:0");
                server.Start(opened => opened.OnOpen = () => socket = opened);
                using Peer peer = await Peer.Connect(server);
                await Eventually.True(() => socket != null, "the socket opens");
                using var begun = new CountdownEvent(4);
                Task[] senders = Enumerable.Range(0, 4).Select(_ => Task.Factory.StartNew(() =>
                {
                    begun.Signal();
                    while (socket!.Connection.Send("hello") != SendResult.Closed) { }
                }, TaskCreationOptions.LongRunning)).ToArray();
                begun.Wait();
                peer.Socket.Abort();
                server.Dispose();
                await Task.WhenAll(senders);
            }
        }

        [Test]
        public async Task An_option_can_change_and_a_listener_can_come_and_go_while_a_server_runs()
        {
            using WebSocketServer server = Echo();
            server.Set("max.message", "10");
            using (Peer peer = await Peer.Connect(server))
            {
                await peer.Send(new string('x', 11));
                Check.Contains("closed 1009", (string)await peer.Receive());
            }
            Check.Equal(Status.State, Check.Throws<FullDuplexException>(() => server.Set("threads", "2")).Status);
            (int id, int port) = server.Listen("ws://127.0.0.1:0");
            using (var client = new TcpClient())
                await client.ConnectAsync(IPAddress.Loopback, port);
            server.Unlisten(id);
            await Eventually.True(() => IsRefused(port), "nobody listens there any more");
        }

        private static bool IsRefused(int port)
        {
            try
            {
                using var client = new TcpClient();
                client.Connect(IPAddress.Loopback, port);
                return false;
            }
            catch (SocketException)
            {
                return true;
            }
        }

        /// <summary>A frame that breaks the protocol, which the library tells the log.</summary>
        private static readonly byte[] Unmasked = { 0x81, 0x01, (byte)'x' };

        [Test]
        public async Task The_log_tells_what_the_library_has_to_say()
        {
            using var log = new LogReader(LogLevel.Debug);
            using (WebSocketServer server = Echo())
            using (BarePeer peer = await BarePeer.Connect(server))
            {
                await peer.Write(Unmasked);
                await Eventually.True(() => log.Entries.Any(entry => entry.ConnectionId != 0), "a line is about the connection");
            }
            Check.True(log.Entries.All(entry => entry.Target.StartsWith("fullduplex", StringComparison.Ordinal) && entry.Text != ""), "each says who speaks");
        }

        [Test]
        public async Task A_log_that_throws_hurts_nobody()
        {
            TextWriter before = Console.Error;
            using var log = new LogReader(LogLevel.Trace);
            Console.SetError(TextWriter.Null);
            try
            {
                Log.Sink = entry => throw new InvalidOperationException("in the log");
                using WebSocketServer server = Echo();
                using (BarePeer bad = await BarePeer.Connect(server))
                {
                    await bad.Write(Unmasked);
                    await bad.Receive(); // the close
                }
                using Peer peer = await Peer.Connect(server);
                await peer.Send("hello");
                Check.Equal("hello", await peer.Receive());
            }
            finally
            {
                Log.Sink = null;
                Console.SetError(before);
            }
        }

        /// <summary>The test's environment names a certificate for localhost and its key.</summary>
        [Test]
        public async Task Wss_needs_a_certificate_and_takes_another_while_it_runs()
        {
            string certificate = Environment.GetEnvironmentVariable("TEST_CERTIFICATE")!, key = Environment.GetEnvironmentVariable("TEST_KEY")!;
            using (var without = new WebSocketServer("wss://127.0.0.1:0"))
                Check.Equal(Status.Tls, Check.Throws<FullDuplexException>(() => without.Start(socket => { })).Status);

            using var server = new WebSocketServer("wss://127.0.0.1:0") { Options = { TlsCert = new[] { certificate }, TlsKey = new[] { key } } };
            IWebSocketConnection? secure = null;
            server.Start(socket =>
            {
                secure = socket;
                socket.OnMessage = message => socket.Send(message);
            });
            for (int visit = 0; visit < 2; visit++)
            {
                using BarePeer peer = await BarePeer.Connect(server, isSecure: true);
                await peer.Write(BarePeer.Frames(new[] { "secret" }));
                Check.Equal("secret", await peer.Receive());
                Check.True(secure!.ConnectionInfo.Request.TlsVersion == "1.2" || secure.ConnectionInfo.Request.TlsVersion == "1.3", "the request knows");
                Check.True(secure.Connection.Info!.IsSecure, "the connection knows");
                server.SetCertificate(File.ReadAllText(certificate), File.ReadAllText(key));
            }
            Check.Equal(Status.Tls, Check.Throws<FullDuplexException>(() => server.SetCertificate("no PEM", "at all")).Status);
        }
    }
}
