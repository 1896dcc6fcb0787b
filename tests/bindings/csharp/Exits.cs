// The process ends in the middle of traffic: tests/bindings/csharp/test_csharp.py runs this and looks how.
using System;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;

namespace FullDuplex.Tests
{
    internal static class Exits
    {
        private const int Code = 7;

        /// <summary>Ends with <see cref="Code"/> from the main thread, a callback on the library's thread, or an asynchronous handler.</summary>
        internal static int Run(string place)
        {
            using var server = new WebSocketServer("127.0.0.1:0") { Options = { Threads = 2 } };
            int messages = 0;
            bool IsTime() => Interlocked.Increment(ref messages) > 5_000;

            server.Route("/", socket => socket.OnMessage = text =>
            {
                if (IsTime() && place == "callback")
                    Environment.Exit(Code);
                socket.Send(text);
            });
            server.RouteAsync("/async", async connection =>
            {
                await foreach (Message message in connection)
                {
                    if (IsTime() && place == "handler")
                        Environment.Exit(Code);
                    await connection.SendAsync(message);
                }
            });
            server.Start();
            byte[] frames = BarePeer.Frames(Enumerable.Repeat("hello", 100));
            for (int peer = 0; peer < 8; peer++)
                _ = Talk(server, place == "handler" || peer % 2 == 0 ? "/async" : "/", frames);
            SpinWait.SpinUntil(() => Volatile.Read(ref messages) > 5_000 && place == "main", TimeSpan.FromSeconds(20));
            Environment.Exit(place == "main" ? Code : 1);
            return 1;
        }

        private static async Task Talk(WebSocketServer server, string target, byte[] frames)
        {
            try
            {
                using BarePeer peer = await BarePeer.Connect(server, target: target);
                while (true)
                {
                    await peer.Write(frames);
                    for (int echo = 0; echo < 100; echo++)
                        await peer.Receive();
                }
            }
            catch (Exception)
            {
                // The server has gone, as it should.
            }
        }
    }
}
