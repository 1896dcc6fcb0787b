// A chat room: one port serves the page and relays what one person says to all.
//
//   chat --listen 127.0.0.1:9990 --page examples/web/chat.html
using System;
using System.Collections.Generic;
using System.IO;
using System.Threading.Tasks;
using FullDuplex;

namespace Examples
{
    internal static class Chat
    {
        private static Task<int> Main(string[] arguments)
        {
            var line = new CommandLine("chat", "a chat room with its page", "127.0.0.1:9990", "examples/web/chat.html");
            return line.Run(arguments, () => Room(line), server => PrintLink(line.Options.Listen[0], server));
        }

        private static WebSocketServer Room(CommandLine line)
        {
            var server = new WebSocketServer(line.Options);
            server.Route("/chat", socket =>
            {
                // Who is gone, or too slow to follow, is skipped.
                socket.OnMessage = text => server.Broadcast(text, "/chat");
                socket.OnBinary = bytes => socket.Close(1003, "this room takes text only");
            });
            var page = new HttpReply(200, File.ReadAllBytes(line.Page!), "text/html; charset=utf-8",
                new Dictionary<string, string> { ["Cache-Control"] = "no-cache" });
            server.RouteHttp("/", request => page);
            server.RouteHttp("/index.html", request => page);
            return server;
        }

        /// <summary>":9990" and "0.0.0.0:9990" are every address of this machine; the browser is told one of them.</summary>
        private static void PrintLink(string address, WebSocketServer server)
        {
            int port = server.Port;
            if (port == 0)
                return; // a socket that no browser can open
            string host = address.Substring(0, Math.Max(address.Split('?')[0].LastIndexOf(':'), 0));
            Console.WriteLine($"open http://{(host == "" || host == "0.0.0.0" || host == "[::]" ? "127.0.0.1" : host)}:{port}/");
        }
    }
}
