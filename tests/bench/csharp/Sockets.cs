// Our echo in the C# binding's face of callbacks; examples/csharp/Echo is the one that awaits.
//
//     dotnet Sockets.dll [--listen 127.0.0.1:0]
using System;
using System.Threading;
using FullDuplex;

internal static class Sockets
{
    private static void Main(string[] arguments)
    {
        string listen = arguments.Length == 2 && arguments[0] == "--listen" ? arguments[1] : "127.0.0.1:0";
        using var server = new WebSocketServer($"ws://{listen}");
        var isEnding = new ManualResetEventSlim();
        var hasEnded = new ManualResetEventSlim();
        AppDomain.CurrentDomain.ProcessExit += (sender, args) =>
        {
            // SIGTERM. The process ends when this returns, with 143 unless somebody says that all is well.
            isEnding.Set();
            hasEnded.Wait();
            Environment.ExitCode = 0;
        };
        server.Start(socket =>
        {
            socket.OnMessage = text => socket.Send(text);
            socket.OnBinary = data => socket.Send(data);
        });
        Console.WriteLine($"listening on 127.0.0.1:{server.Port}");
        isEnding.Wait();
        server.Stop(TimeSpan.FromSeconds(2));
        hasEnded.Set();
    }
}
