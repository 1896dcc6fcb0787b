// A chat: one port serves the page and relays what one person says to all in the same room.
//
//   chat --listen 127.0.0.1:9990 --page examples/web/chat.html
//
// The room is in the path: "/room/any-name", and the lobby is at "/" and "/chat". Each is a topic of the library's, so
// with --set backplane=redis://127.0.0.1:6379 several chats are one.
using System;
using System.Collections.Generic;
using System.IO;
using System.Text;
using System.Threading.Tasks;
using FullDuplex;

namespace Examples
{
    internal static class Chat
    {
        private const string Lobby = "/chat";

        private static Task<int> Main(string[] arguments)
        {
            var line = new CommandLine("chat", "a chat with its page", "127.0.0.1:9990", "examples/web/chat.html");
            return line.Run(arguments, () => Rooms(line), server => PrintLink(line.Options.Listen[0], server));
        }

        private static WebSocketServer Rooms(CommandLine line)
        {
            var server = new WebSocketServer(line.Options);
            var page = new HttpReply(200, File.ReadAllBytes(line.Page!), "text/html; charset=utf-8",
                new Dictionary<string, string> { ["Cache-Control"] = "no-cache" });
            server.Route(Lobby, socket => Enter(server, socket, Lobby));
            foreach (string door in new[] { "/", "/index.html" })
            {
                server.Route(door, socket => Enter(server, socket, Lobby));
                server.RouteHttp(door, request => page);
            }
            server.Route("/room/:name", socket => Enter(server, socket, socket.ConnectionInfo.Request.Path));
            server.RouteHttp("/room/:name", request => page);
            return server;
        }

        private static void Enter(WebSocketServer server, IWebSocketConnection socket, string path)
        {
            if (Encoding.UTF8.GetByteCount(path) > Topic.BytesMax)
            {
                socket.Close(1008, "the name of this room is too long");
                return;
            }
            Topic room = path;
            socket.Subscribe(room);
            // Who is too slow to follow is skipped, or closed: `send.full` says which.
            socket.OnMessage = text => server.Publish(room, text);
            socket.OnBinary = bytes => socket.Close(1003, "this room takes text only");
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
