// What the example programs share: the command line, the lines that say where a server listens, and the wait
// for Ctrl-C. Nothing here is needed to use the library.
using System;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;
using FullDuplex;

namespace Examples
{
    /// <summary>--listen ADDR, --set KEY=VALUE and, if the program has a page, --page FILE.</summary>
    internal sealed class CommandLine
    {
        private static readonly TimeSpan GoodByes = TimeSpan.FromSeconds(2);

        private readonly string program, about, defaultListen;

        internal CommandLine(string program, string about, string defaultListen, string? defaultPage = null)
        {
            this.program = program;
            this.about = about;
            this.defaultListen = defaultListen;
            Page = defaultPage;
        }

        internal ServerOptions Options { get; } = new ServerOptions();

        /// <summary>The file of the page; null for a program without one.</summary>
        internal string? Page { get; private set; }

        /// <summary>Runs a program: an error is one line, and exit code 1.</summary>
        internal async Task<int> Run(string[] arguments, Func<WebSocketServer> makeServer, Action<WebSocketServer>? whenStarted = null)
        {
            var ending = new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);
            var ended = new ManualResetEventSlim();
            Console.CancelKeyPress += (sender, pressed) =>
            {
                pressed.Cancel = true;
                ending.TrySetResult(true);
            };
            AppDomain.CurrentDomain.ProcessExit += (sender, args) =>
            {
                // SIGTERM. The process ends when this returns, with 143 unless somebody says that all is well.
                ending.TrySetResult(true);
                if (ended.Wait(2 * GoodByes))
                    Environment.ExitCode = exitCode;
            };
            try
            {
                if (Read(arguments))
                    await Serve(makeServer, whenStarted, ending.Task);
            }
            catch (Exception error) when (error is FullDuplexException || error is UsageException || error is System.IO.IOException)
            {
                Console.Error.WriteLine($"error: {error.Message}");
                exitCode = 1;
            }
            finally
            {
                ended.Set();
            }
            return exitCode;
        }

        private volatile int exitCode;

        private async Task Serve(Func<WebSocketServer> makeServer, Action<WebSocketServer>? whenStarted, Task ending)
        {
            await using WebSocketServer server = makeServer();
            server.Start();
            Announce(server);
            whenStarted?.Invoke(server);
            await ending;
            await server.StopAsync(GoodByes, 1001, "the server is stopping");
        }

        /// <summary>False when it was all about help.</summary>
        private bool Read(string[] arguments)
        {
            for (int index = 0; index < arguments.Length; index++)
            {
                string name = arguments[index];
                if (name == "--help")
                {
                    PrintHelp();
                    return false;
                }
                if (name != "--listen" && name != "--set" && !(name == "--page" && Page != null))
                    throw new UsageException($"unknown option {name}, see {program} --help");
                if (++index == arguments.Length)
                    throw new UsageException($"{name} needs a value, see {program} --help");
                string value = arguments[index];
                int equals = value.IndexOf('=');
                if (name == "--listen")
                    Options["listen"] = value;
                else if (name == "--page")
                    Page = value;
                else if (equals >= 0)
                    Options[value.Substring(0, equals)] = value.Substring(equals + 1);
                else
                    throw new UsageException("--set needs KEY=VALUE, such as --set max.message=1m");
            }
            if (Options.Listen.Count == 0)
                Options["listen"] = defaultListen;
            return true;
        }

        private void PrintHelp() => Console.WriteLine(
            $"{program}: {about}\n\nusage: {program} [--listen ADDR]... [--set KEY=VALUE]...{(Page == null ? "" : " [--page FILE]")}\n\n"
            + $"  --listen ADDR     127.0.0.1:8080, :8080, [::1]:8080; port 0 picks a free one (default {defaultListen})\n"
            + "  --set KEY=VALUE   any option of the library, such as max.message=1m or threads=2\n"
            + (Page == null ? "" : "  --page FILE       the page to serve\n")
            + "  --help            this text");

        /// <summary>"listening on ADDRESS" for each listener, with the port that :0 became.</summary>
        private void Announce(WebSocketServer server)
        {
            foreach ((string listen, int index) in Options.Listen.Select((listen, index) => (listen, index)))
            {
                string address = listen.Split('?')[0];
                bool isAnyPort = address.EndsWith(":0", StringComparison.Ordinal) && !address.StartsWith("fd:", StringComparison.Ordinal);
                Console.WriteLine("listening on " + (isAnyPort ? address.Substring(0, address.Length - 1) + server.GetPort(index) : address));
            }
        }

        private sealed class UsageException : Exception
        {
            internal UsageException(string message) : base(message) { }
        }
    }
}
