// What the library and the binding have to say.
using System;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace FullDuplex
{
    /// <summary>How much a line of the log matters.</summary>
    public enum LogLevel
    {
        /// <summary>Nothing is told.</summary>
        Off = 0,

        /// <summary>Something is broken, such as an exception in a handler.</summary>
        Error = 1,

        /// <summary>Something may need you.</summary>
        Warning = 2,

        /// <summary>Who was refused or cut, and why.</summary>
        Info = 3,

        /// <summary>What happens on the network.</summary>
        Debug = 4,

        /// <summary>Everything.</summary>
        Trace = 5,
    }

    /// <summary>One line of the log.</summary>
    public readonly struct LogEntry
    {
        internal LogEntry(LogLevel level, ulong connection, string target, string text, Exception? exception)
        {
            Level = level;
            ConnectionId = connection;
            Target = target;
            Text = text;
            Exception = exception;
        }

        /// <summary>How much it matters.</summary>
        public LogLevel Level { get; }

        /// <summary>The connection it is about, or 0.</summary>
        public ulong ConnectionId { get; }

        /// <summary>The part that speaks, such as <c>fullduplex::handshake</c>.</summary>
        public string Target { get; }

        /// <summary>What it says.</summary>
        public string Text { get; }

        /// <summary>What one of your handlers threw, if that is what the line is about.</summary>
        public Exception? Exception { get; }

        /// <inheritdoc/>
        public override string ToString() =>
            $"{Level} {Target}{(ConnectionId == 0 ? "" : $" #{ConnectionId}")}: {Text}{(Exception == null ? "" : $"\n{Exception}")}";
    }

    /// <summary>The log of all servers of this process.</summary>
    public static unsafe class Log
    {
        private const string Binding = "FullDuplex";

        private static readonly object Gate = new object();
        private static readonly Native.fdx_log_fn Callback = OnLine;
        private static readonly IntPtr CallbackPointer = Marshal.GetFunctionPointerForDelegate(Callback);
        private static volatile Action<LogEntry>? sink;
        private static LogLevel level = LogLevel.Warning;

        static Log() => NativeFile.IsKnown();

        /// <summary>
        /// Receives each line, on any thread and on several at once; it must not be slow. Without one the library tells
        /// nothing, and exceptions of handlers go to <see cref="Console.Error"/>.
        /// </summary>
        public static Action<LogEntry>? Sink
        {
            get => sink;
            set { lock (Gate) { sink = value; Listen(); } }
        }

        /// <summary>What matters less is not told. <see cref="LogLevel.Warning"/> unless you say otherwise.</summary>
        public static LogLevel Level
        {
            get => level;
            set { lock (Gate) { level = value; Listen(); } }
        }

        /// <summary>An exception of a handler.</summary>
        internal static void Write(ulong connection, string text, Exception exception)
        {
            var entry = new LogEntry(LogLevel.Error, connection, Binding, text, exception);
            if (!(sink is { } receiver))
                Console.Error.WriteLine(entry.ToString());
            else if (level != LogLevel.Off)
                Tell(receiver, entry);
        }

        /// <summary>The process ends, and the library must not call it any more.</summary>
        [MethodImpl(MethodImplOptions.NoInlining)]
        internal static void Silence() => Native.fdx_set_log(0, IntPtr.Zero, IntPtr.Zero, IntPtr.Zero);

        [MethodImpl(MethodImplOptions.NoInlining)]
        private static void Listen()
        {
            if (sink == null)
                Silence();
            else
                Native.fdx_set_log((int)level, CallbackPointer, IntPtr.Zero, IntPtr.Zero);
        }

        private static void OnLine(IntPtr userData, int lineLevel, ulong connection, byte* target, byte* text, UIntPtr length)
        {
            try
            {
                if (sink is { } receiver)
                    Tell(receiver, new LogEntry((LogLevel)lineLevel, connection, Text.FromNul(target), Text.From(text, length), null));
            }
            catch (Exception)
            {
                // Nothing may cross the border, not even "out of memory".
            }
        }

        private static void Tell(Action<LogEntry> receiver, LogEntry entry)
        {
            try
            {
                receiver(entry);
            }
            catch (Exception broken)
            {
                // Where the log itself is broken, one place is left to say so.
                Console.Error.WriteLine(entry.ToString());
                Console.Error.WriteLine(broken);
            }
        }
    }
}
