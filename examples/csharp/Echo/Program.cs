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
                var server = new WebSocketServer(line.Options);
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
