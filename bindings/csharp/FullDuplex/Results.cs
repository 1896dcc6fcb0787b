// What a call can come to.
using System;

namespace FullDuplex
{
    /// <summary>What became of a message.</summary>
    public enum SendResult
    {
        /// <summary>It is queued for the peer, or on its way.</summary>
        Sent,

        /// <summary>It is queued, and more than <c>send.high_water</c> waits for this peer: please wait for the drain.</summary>
        HighWater,

        /// <summary>The connection is gone or closing. What was queued before may not have arrived.</summary>
        Closed,

        /// <summary>Not queued: <c>send.limit</c> is reached, and <c>send.full</c> decides whether the connection closes.</summary>
        Full,
    }

    /// <summary>Why a call was not done; the numbers are those of the C header, <c>FDX_E_*</c>.</summary>
    public enum Status
    {
        /// <summary>Done.</summary>
        Ok = Native.FDX_OK,

        /// <summary>An argument that is never allowed: an unknown kind, a bad code or header.</summary>
        InvalidArgument = Native.FDX_E_INVALID_ARG,

        /// <summary>The connection is unknown or gone.</summary>
        NoConnection = Native.FDX_E_NO_CONN,

        /// <summary>The connection's close has begun.</summary>
        Closing = Native.FDX_E_CLOSING,

        /// <summary><c>send.limit</c> is reached.</summary>
        Full = Native.FDX_E_FULL,

        /// <summary>Too big ever to be sent.</summary>
        TooBig = Native.FDX_E_TOO_BIG,

        /// <summary>A text that is not UTF-8.</summary>
        NotUtf8 = Native.FDX_E_UTF8,

        /// <summary>Not possible now: not open yet, decided already, started already.</summary>
        State = Native.FDX_E_STATE,

        /// <summary>The server has stopped.</summary>
        Stopped = Native.FDX_E_STOPPED,

        /// <summary>No memory for it.</summary>
        NoMemory = Native.FDX_E_NOMEM,

        /// <summary>The system said no; see <see cref="FullDuplexException.OsError"/>.</summary>
        Io = Native.FDX_E_IO,

        /// <summary>A certificate or key is unusable.</summary>
        Tls = Native.FDX_E_TLS,

        /// <summary>Someone listens at this address already.</summary>
        AddressInUse = Native.FDX_E_ADDR_IN_USE,

        /// <summary>The system forbids it, for example a port below 1024.</summary>
        Denied = Native.FDX_E_DENIED,

        /// <summary>Not in this build, on this platform, or in the connection's dialect.</summary>
        Unsupported = Native.FDX_E_UNSUPPORTED,

        /// <summary>The time passed first.</summary>
        Timeout = Native.FDX_E_TIMEOUT,

        /// <summary>The library has another ABI than this binding.</summary>
        Version = Native.FDX_E_VERSION,

        /// <summary>A bug of the library, contained; details in the log.</summary>
        Panic = Native.FDX_E_PANIC,

        /// <summary>No such header, parameter or listener.</summary>
        NotFound = Native.FDX_E_NOT_FOUND,

        /// <summary>A buffer is too small.</summary>
        Buffer = Native.FDX_E_BUFFER,

        /// <summary>An unknown option or a bad value; the message says which and what would be good.</summary>
        Config = Native.FDX_E_CONFIG,

        /// <summary>The engine between machines is unusable.</summary>
        Backplane = Native.FDX_E_BACKPLANE,

        /// <summary>The call would wait for its own thread: a callback can't wait for the end of its server.</summary>
        Deadlock = Native.FDX_E_DEADLOCK,

        /// <summary>The server belongs to the process that this one was forked from.</summary>
        Forked = Native.FDX_E_FORKED,

        /// <summary>A wait was ended early.</summary>
        Interrupted = Native.FDX_E_INTERRUPTED,

        /// <summary>A configured limit is reached.</summary>
        Limit = Native.FDX_E_LIMIT,
    }

    /// <summary>The library refused a call; the message says what to do.</summary>
    public sealed class FullDuplexException : Exception
    {
        /// <summary>Made by this library alone.</summary>
        internal FullDuplexException(int status, string message, int osError) : base(message)
        {
            Status = (Status)status;
            OsError = osError;
        }

        /// <summary>Which rule it was.</summary>
        public Status Status { get; }

        /// <summary><c>errno</c> of the system call that failed, or 0.</summary>
        public int OsError { get; }

        internal static FullDuplexException Of(int status)
        {
            unsafe
            {
                return new FullDuplexException(status,
                    $"{Text.FromNul(Native.fdx_status_text(status))} ({Text.FromNul(Native.fdx_status_name(status))})", 0);
            }
        }
    }

    internal static unsafe class Results
    {
        internal static Native.fdx_error NewError() => new Native.fdx_error { struct_size = (uint)sizeof(Native.fdx_error) };

        /// <summary>For calls that fill an error.</summary>
        internal static void Check(int status, in Native.fdx_error error)
        {
            if (status >= 0)
                return;
            fixed (byte* message = error.message)
                throw message[0] == 0
                    ? FullDuplexException.Of(status)
                    : new FullDuplexException(status, Text.FromNul(message), error.os_error);
        }

        internal static int Check(int status) => status >= 0 ? status : throw FullDuplexException.Of(status);

        /// <summary>True if it was done, false if the connection or the server is gone; what else there is was asked wrongly.</summary>
        internal static bool Done(int status)
        {
            switch (status)
            {
                case Native.FDX_E_NO_CONN:
                case Native.FDX_E_CLOSING:
                case Native.FDX_E_STOPPED:
                    return false;
                default:
                    Check(status);
                    return true;
            }
        }

        internal static SendResult OfSend(int status)
        {
            switch (status)
            {
                case Native.FDX_OK: return SendResult.Sent;
                case Native.FDX_HIGH_WATER: return SendResult.HighWater;
                case Native.FDX_E_FULL: return SendResult.Full;
                default: return Done(status) ? SendResult.Sent : SendResult.Closed;
            }
        }
    }
}
