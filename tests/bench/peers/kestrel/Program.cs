// An echo server of ASP.NET Core, to measure ours against: Kestrel and its WebSockets, nothing else in the pipeline.
//
//     dotnet kestrel.dll [--listen 127.0.0.1:0]
//
// As its authors recommend for speed: no logging, the receive that allocates no result (ValueTask), and one buffer for each
// connection that its messages come into and go out of, which grows with them.
using System;
using System.Net;
using System.Net.WebSockets;
using System.Threading;
using System.Threading.Tasks;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Http;

static class Program
{
    const int BufferBytes = 4096;
    const int BufferBytesMax = 256 * 1024;

    static async Task Main(string[] arguments)
    {
        var listen = arguments.Length == 2 && arguments[0] == "--listen" ? arguments[1] : "127.0.0.1:0";
        using var host = new WebHostBuilder()
            .UseKestrel(options =>
            {
                options.Listen(IPEndPoint.Parse(listen));
                options.Limits.MinRequestBodyDataRate = null;
                options.Limits.MinResponseDataRate = null;
            })
            .Configure(application => application
                .UseWebSockets(new WebSocketOptions { ReceiveBufferSize = BufferBytes, KeepAliveInterval = TimeSpan.Zero })
                .Run(Serve))
            .SuppressStatusMessages(true)
            .Build();
        await host.StartAsync();
        foreach (var address in host.ServerFeatures.Get<IServerAddressesFeature>().Addresses)
            Console.WriteLine($"listening on {new Uri(address).Authority}");
        await host.WaitForShutdownAsync();
    }

    static async Task Serve(HttpContext context)
    {
        if (!context.WebSockets.IsWebSocketRequest)
        {
            context.Response.StatusCode = 400;
            return;
        }
        using var socket = await context.WebSockets.AcceptWebSocketAsync();
        try
        {
            await Echo(socket);
        }
        catch (WebSocketException)
        {
            // The load generator says what went wrong.
        }
    }

    static async Task Echo(WebSocket socket)
    {
        Memory<byte> buffer = new byte[BufferBytes];
        while (true)
        {
            var received = await socket.ReceiveAsync(buffer, CancellationToken.None);
            if (received.MessageType == WebSocketMessageType.Close)
            {
                await socket.CloseAsync(WebSocketCloseStatus.NormalClosure, null, CancellationToken.None);
                return;
            }
            await socket.SendAsync(buffer.Slice(0, received.Count), received.MessageType, received.EndOfMessage,
                CancellationToken.None);
            if (!received.EndOfMessage && buffer.Length < BufferBytesMax)
                buffer = new byte[2 * buffer.Length];
        }
    }
}
