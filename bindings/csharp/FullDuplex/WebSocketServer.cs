// The server: what it is made of, and its life.
using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Diagnostics;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;

namespace FullDuplex
{
    /// <summary>
    /// A WebSocket server. Give it routes, start it, and dispose of it in the end. Every method may be called from any
    /// thread.
    /// </summary>
    public sealed partial class WebSocketServer : IDisposable
#if !NET472
        , IAsyncDisposable
#endif
    {
        /// <summary>How long <see cref="Dispose"/> lets peers say good-bye.</summary>
        private static readonly TimeSpan DisposeDeadline = TimeSpan.FromSeconds(2);

        private readonly object gate = new object();
        private readonly List<Route> routes = new List<Route>();
        private readonly string? path;
        private readonly TaskCompletionSource<bool> stopped = NewSource();
        private Native.ServerHandle? handle;
        private bool isDisposed;

        /// <summary>A server with these options, which say where it listens.</summary>
        public WebSocketServer(ServerOptions options) => Options = options;

        /// <summary>
        /// A server at a location: ws://0.0.0.0:9990, or wss://… for TLS, with certificate and key in the options. A path
        /// in it is the only one that <see cref="Start(Action{IWebSocketConnection})"/> answers. Any other address that
        /// <see cref="ServerOptions.Listen"/> takes will do, too.
        /// </summary>
        public WebSocketServer(string location, ServerOptions? options = null) : this(options ?? new ServerOptions())
        {
            var place = new Location(location);
            path = place.Path;
            Options["listen"] = place.Address;
        }

        /// <summary>The options it starts with; after the start see <see cref="Set"/>.</summary>
        public ServerOptions Options { get; }

        /// <summary>The subprotocols in order of preference: the option <c>protocols</c>, by the name that Fleck has for it.</summary>
        public IEnumerable<string> SupportedSubProtocols
        {
            get => Options.Protocols;
            set => Options.Protocols = value.ToArray();
        }

        /// <summary>
        /// Decides who may come in, before a connection opens: on the library's thread, so it must be quick. Set it before
        /// the start. Without it everybody may come whom the options allow.
        /// </summary>
        public Func<Request, Decision>? OnRequest { get; set; }

        /// <summary>The same, on the thread pool, taking its time: until <c>timeout.handshake</c>.</summary>
        public Func<Request, Task<Decision>>? OnRequestAsync { get; set; }

        /// <summary>
        /// Messages that wait for an asynchronous handler: with more bytes than this the library stops reading from the
        /// peer, and below half of it reads on. A message counts 64 bytes beside its own.
        /// </summary>
        public int ReceiveHighWater { get; set; } = 128 * 1024;

        /// <summary>
        /// Asynchronous handlers begin, and go on with the next message, on the library's thread instead of the thread pool:
        /// small messages cost half. For handlers that never block between two awaits; one that does holds up the other
        /// connections of its thread. Set it before the start.
        /// </summary>
        public bool HandlersNeverBlock { get; set; }

        // -- routes ---------------------------------------------------------------------------------------

        /// <summary>
        /// The WebSockets of a path, as users of Fleck know them: <paramref name="configure"/> gives each new one its
        /// callbacks. Patterns are "/chat", "/room/:id" and "/files/*"; the most specific wins.
        /// </summary>
        public void Route(string pattern, Action<IWebSocketConnection> configure) => Add(new SocketRoute(this, pattern, configure));

        /// <summary>
        /// The WebSockets of a path, each with a run of an asynchronous handler, on the thread pool. When it returns its
        /// connection closes with 1000; when it throws that is logged, and the connection closes with 1011.
        /// </summary>
        public void RouteAsync(string pattern, Func<AsyncConnection, Task> handler) => Add(new AsyncRoute(this, pattern, handler));

        /// <summary>The WebSockets of a path, as plain events on the library's threads.</summary>
        public void Route(string pattern, Handlers handlers) => Add(new HandlersRoute(this, pattern, handlers));

        /// <summary>Plain HTTP requests of any method for a path, answered at once, on the library's thread.</summary>
        public void RouteHttp(string pattern, Func<HttpRequest, HttpReply> reply) => PagesOf(pattern).Page = reply;

        /// <summary>The same, answered on the thread pool.</summary>
        public void RouteHttp(string pattern, Func<HttpRequest, Task<HttpReply>> reply) => PagesOf(pattern).AsyncPage = reply;

        private void Add(Route route)
        {
            lock (gate)
            {
                MustNotRun();
                // A page that was there first stays on the path.
                if (routes.OfType<PageRoute>().FirstOrDefault(page => page.Pattern == route.Pattern) is { } page)
                {
                    (route.Page, route.AsyncPage) = (page.Page, page.AsyncPage);
                    routes.Remove(page);
                }
                routes.Add(route);
            }
        }

        private Route PagesOf(string pattern)
        {
            lock (gate)
            {
                MustNotRun();
                if (!(routes.Find(one => one.Pattern == pattern) is { } route))
                    routes.Add(route = new PageRoute(this, pattern));
                return route;
            }
        }

        private void MustNotRun()
        {
            if (handle != null || isDisposed)
                throw new InvalidOperationException("routes are given before the start");
        }

        // -- from start to end ------------------------------------------------------------------------------

        /// <summary>Starts with the WebSockets of one handler, on the path of the server's location or on every path.</summary>
        public void Start(Action<IWebSocketConnection> configure)
        {
            Route(path ?? "/*", configure);
            Start();
        }

        /// <summary>The same with an asynchronous handler.</summary>
        public void StartAsync(Func<AsyncConnection, Task> handler)
        {
            RouteAsync(path ?? "/*", handler);
            Start();
        }

        /// <summary>Opens all listeners and starts the threads, or nothing.</summary>
        /// <exception cref="FullDuplexException">It can't: the address is in use, the certificate is unusable …</exception>
        public void Start()
        {
            lock (gate)
            {
                if (isDisposed)
                    throw new ObjectDisposedException(nameof(WebSocketServer));
                if (handle != null)
                    throw new InvalidOperationException("a server starts once");
                Running.Add(this);
                try
                {
                    StartNative();
                }
                catch
                {
                    Running.Remove(this);
                    throw;
                }
            }
        }

        /// <summary>The port of the first listener: the one it got where port 0 was asked for.</summary>
        public int Port => GetPort(0);

        /// <summary>
        /// Begins to stop and returns at once: every connection is closed with <paramref name="code"/>, and what is left
        /// after the deadline is cut. False if it was stopping already, or has never run.
        /// </summary>
        public bool Stop(TimeSpan deadline, int code = 1001, string reason = "", TimeSpan spread = default) =>
            handle != null && StopNative(code, reason, spread, deadline) == Native.FDX_OK;

        /// <summary>
        /// Stops, and completes when every connection has ended, the asynchronous handlers have returned (if they do
        /// until the deadline) and the threads are gone.
        /// </summary>
        public async Task StopAsync(TimeSpan deadline, int code = 1001, string reason = "")
        {
            var clock = Stopwatch.StartNew();
            if (handle == null)
                return;
            Stop(deadline, code, reason);
            await stopped.Task.ConfigureAwait(false);
            TimeSpan left = deadline - clock.Elapsed;
            if (left > TimeSpan.Zero)
                await Task.WhenAny(handlers.Ended, Task.Delay(left)).ConfigureAwait(false);
            // STOPPED was the last event; the thread that had it needs a moment to end.
            await Task.Run(() => WaitNative(Timeout.InfiniteTimeSpan)).ConfigureAwait(false);
        }

        /// <summary>Waits until the server has stopped; false if the time passed first, or on a thread of the server itself.</summary>
        public bool Wait(TimeSpan timeout)
        {
            if (handle == null)
                return true;
            int status = WaitNative(timeout);
            return status != Native.FDX_E_TIMEOUT && status != Native.FDX_E_DEADLOCK && Results.Check(status) == Native.FDX_OK;
        }

        /// <summary>
        /// Stops, with two seconds for good-byes, and waits for the end. In a callback, which can't wait for its own
        /// thread, the server stops in the background.
        /// </summary>
        public void Dispose()
        {
            if (!Retire())
                return;
            Stop(DisposeDeadline);
            Wait(Timeout.InfiniteTimeSpan);
            handle?.Dispose();
        }

#if NET472
        /// <summary>Stops, with two seconds for good-byes, and completes at the end.</summary>
        public async Task DisposeAsync()
#else
        /// <summary>Stops, with two seconds for good-byes, and completes at the end.</summary>
        public async ValueTask DisposeAsync()
#endif
        {
            if (!Retire())
                return;
            await StopAsync(DisposeDeadline).ConfigureAwait(false);
            handle?.Dispose();
        }

        private bool Retire()
        {
            lock (gate)
            {
                bool first = !isDisposed;
                isDisposed = true;
                return first;
            }
        }

        /// <summary>The last event of the server.</summary>
        internal void HasStopped()
        {
            Running.Remove(this);
            stopped.TrySetResult(true);
        }

        /// <summary>Counts the runs of asynchronous handlers.</summary>
        private readonly Countdown handlers = new Countdown();

        internal void HandlerBegins() => handlers.Begin();

        internal void HandlerEnds() => handlers.End();

        internal static TaskCompletionSource<bool> NewSource() =>
            new TaskCompletionSource<bool>(TaskCreationOptions.RunContinuationsAsynchronously);
    }

    /// <summary>Knows when nothing runs.</summary>
    internal sealed class Countdown
    {
        private int running;
        private TaskCompletionSource<bool>? ended;

        internal void Begin()
        {
            lock (this)
                running++;
        }

        internal void End()
        {
            lock (this)
                if (--running == 0)
                    ended?.TrySetResult(true);
        }

        /// <summary>Completes when nothing runs; to be asked when nothing more begins.</summary>
        internal Task Ended
        {
            get
            {
                lock (this)
                {
                    if (running == 0)
                        return Task.CompletedTask;
                    ended ??= WebSocketServer.NewSource();
                    return ended.Task;
                }
            }
        }
    }

    /// <summary>
    /// The servers that run. The process must not end while their threads are in managed code, or on their way there:
    /// so they are stopped before.
    /// </summary>
    internal static class Running
    {
        // A callback out of which the process exits does not return: its thread is waited for in vain.
        private static readonly TimeSpan GoodByes = TimeSpan.FromMilliseconds(250), Patience = TimeSpan.FromSeconds(1);
        private static readonly ConcurrentDictionary<WebSocketServer, bool> Servers = new ConcurrentDictionary<WebSocketServer, bool>();

        static Running() => AppDomain.CurrentDomain.ProcessExit += (sender, args) =>
        {
            foreach (WebSocketServer server in Servers.Keys)
                server.Stop(GoodByes);
            foreach (WebSocketServer server in Servers.Keys)
                server.Wait(Patience);
            Log.Silence();
        };

        internal static void Add(WebSocketServer server) => Servers[server] = true;

        internal static void Remove(WebSocketServer server) => Servers.TryRemove(server, out _);
    }

    /// <summary>An address of the library, from a location such as ws://0.0.0.0:9990/chat.</summary>
    internal readonly struct Location
    {
        internal Location(string location)
        {
            Path = null;
            Address = location;
            bool isSecure = location.StartsWith("wss://", StringComparison.OrdinalIgnoreCase);
            if (!isSecure && !location.StartsWith("ws://", StringComparison.OrdinalIgnoreCase))
                return;
            string rest = location.Substring(location.IndexOf("//", StringComparison.Ordinal) + 2);
            int slash = rest.IndexOf('/');
            string authority = slash < 0 ? rest : rest.Substring(0, slash);
            string path = slash < 0 ? "" : rest.Substring(slash);
            Path = path == "" || path == "/" ? null : path;
            bool hasPort = authority.LastIndexOf(':') > authority.LastIndexOf(']');
            Address = authority + (hasPort ? "" : isSecure ? ":443" : ":80") + (isSecure ? "?tls=1" : "");
        }

        /// <summary>As the option <c>listen</c> takes it.</summary>
        internal string Address { get; }

        /// <summary>Null for every path.</summary>
        internal string? Path { get; }
    }
}
