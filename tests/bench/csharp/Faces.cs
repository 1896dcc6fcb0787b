// Our echo in the faces of the C# binding.
//
//     dotnet Faces.dll callbacks|awaiting|never-blocking [--listen 127.0.0.1:0] [--set KEY=VALUE]...
//
// awaiting: as examples/csharp/Echo, on the thread pool. never-blocking: the same on the library's thread.
using System;
using System.Threading;
using System.Threading.Tasks;
using FullDuplex;

internal static class Faces
{
    private static void Main(string[] arguments)
    {
        var options = new ServerOptions();
        for (int index = 1; index + 1 < arguments.Length; index += 2)
        {
            string[] setting = arguments[index + 1].Split(new[] { '=' }, 2);
            if (arguments[index] == "--listen")
                options["listen"] = arguments[index + 1];
            else
                options[setting[0]] = setting[1];
        }
        using var server = new WebSocketServer(options) { HandlersNeverBlock = arguments[0] == "never-blocking" };
        if (arguments[0] == "callbacks")
            server.Route("/*", Echo);
        else
            server.RouteAsync("/*", EchoAsync);
        server.Start();
        Console.WriteLine($"listening on 127.0.0.1:{server.Port}");
        WaitForSigterm(() => server.Stop(TimeSpan.FromSeconds(2)));
    }

    private static void Echo(IWebSocketConnection socket)
    {
        socket.OnMessage = text => socket.Send(text);
        socket.OnBinary = data => socket.Send(data);
    }

    private static async Task EchoAsync(AsyncConnection connection)
    {
        await foreach (Message message in connection)
            await connection.SendAsync(message);
    }

    private static void WaitForSigterm(Action stop)
    {
        var isEnding = new ManualResetEventSlim();
        var hasEnded = new ManualResetEventSlim();
        AppDomain.CurrentDomain.ProcessExit += (sender, args) =>
        {
            // The process ends when this returns, with 143 unless somebody says that all is well.
            isEnding.Set();
            hasEnded.Wait();
            Environment.ExitCode = 0;
        };
        isEnding.Wait();
        stop();
        hasEnded.Set();
    }
}
