// Decides who may come in, before a connection opens.
//
//   ws://127.0.0.1:9002/?token=letmein   opens: says "welcome" and sends every message back
//   without the token                    401, and how to get in
//   from a page of another site          403
//
// A client that offers chat.v2 gets it as the subprotocol, else chat.v1 if it offers that.
using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading.Tasks;
using FullDuplex;

namespace Examples
{
    internal static class Gatekeeper
    {
        private static Task<int> Main(string[] arguments)
        {
            var line = new CommandLine("gatekeeper", "decides who may come in", "127.0.0.1:9002");
            return line.Run(arguments, () =>
            {
                var server = new WebSocketServer(line.Options) { OnRequest = Decide };
                server.RouteAsync("/*", WelcomeAndEcho);
                return server;
            });
        }

        private static Decision Decide(Request request)
        {
            if (!request.Query.TryGetValue("token", out string? token) || token != "letmein")
                return Decision.Refuse(401, "A token is needed: connect to /?token=letmein\n",
                    new Dictionary<string, string> { ["WWW-Authenticate"] = "Bearer", ["Content-Type"] = "text/plain" });
            // Browsers always tell the page they act for; a program that tells nothing is no browser.
            if (request.Origin is string origin && !IsLocal(origin))
                return Decision.Refuse(403, "Only pages of this machine may come in.\n",
                    new Dictionary<string, string> { ["Content-Type"] = "text/plain" });
            string? subprotocol = new[] { "chat.v2", "chat.v1" }.FirstOrDefault(request.Subprotocols.Contains);
            return Decision.Accept(subprotocol, new Dictionary<string, string> { ["X-Gatekeeper"] = "open" });
        }

        /// <summary>Parsed and not compared by its beginning, or http://localhost.evil.example would pass.</summary>
        private static bool IsLocal(string origin) =>
            Uri.TryCreate(origin, UriKind.Absolute, out Uri? page) && page.Scheme == "http"
            && (page.Host == "localhost" || page.Host == "127.0.0.1");

        private static async Task WelcomeAndEcho(AsyncConnection connection)
        {
            await connection.SendAsync("welcome");
            // A peer that does not read what it gets is not read from either: SendAsync waits for it.
            await foreach (Message message in connection)
                await connection.SendAsync(message);
        }
    }
}
