// Sends every message back to the one who sent it.
//
//   echo --listen 127.0.0.1:9001
using System.Threading.Tasks;
using FullDuplex;

namespace Examples
{
    internal static class Echo
    {
        private static Task<int> Main(string[] arguments)
        {
            var line = new CommandLine("echo", "sends every message back", "127.0.0.1:9001");
            return line.Run(arguments, () =>
            {
                // The handler waits for nothing but its connection, so it needs no thread of the pool.
                var server = new WebSocketServer(line.Options) { HandlersNeverBlock = true };
                server.RouteAsync("/*", async connection =>
                {
                    await foreach (Message message in connection)
                        await connection.SendAsync(message);
                });
                return server;
            });
        }
    }
}
