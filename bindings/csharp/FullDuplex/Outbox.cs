// Sending with patience: who sends more than the peer takes can wait for the drain.
using System.Threading;
using System.Threading.Tasks;

namespace FullDuplex
{
    /// <summary>The sending side of one connection.</summary>
    internal sealed class Outbox
    {
        private static readonly Task<SendResult>[] Done =
        {
            Task.FromResult(SendResult.Sent), Task.FromResult(SendResult.HighWater),
            Task.FromResult(SendResult.Closed), Task.FromResult(SendResult.Full),
        };

        private readonly object gate = new object();
        private TaskCompletionSource<SendResult>? drain;
        private int drains;
        private bool isClosed;

        /// <summary>To be taken before a send, for <see cref="Outcome"/>.</summary>
        internal int Ticket => Volatile.Read(ref drains);

        /// <summary>What a send came to: at once, or with the drain if there is more than enough on its way.</summary>
        internal Task<SendResult> Outcome(SendResult result, int ticket) =>
            result == SendResult.HighWater ? UntilDrain(ticket) : Done[(int)result];

        /// <summary>DRAIN has come.</summary>
        internal void Drained() => End(SendResult.Sent, false);

        /// <summary>CLOSE has come: nobody waits any longer.</summary>
        internal void Closed() => End(SendResult.Closed, true);

        private Task<SendResult> UntilDrain(int ticket)
        {
            lock (gate)
            {
                if (isClosed)
                    return Done[(int)SendResult.Closed];
                // The drain may have come since the send, on the library's thread; then no other will.
                if (drains != ticket)
                    return Done[(int)SendResult.Sent];
                drain ??= new TaskCompletionSource<SendResult>(TaskCreationOptions.RunContinuationsAsynchronously);
                return drain.Task;
            }
        }

        private void End(SendResult result, bool closes)
        {
            TaskCompletionSource<SendResult>? waiting;
            lock (gate)
            {
                drains++;
                isClosed |= closes;
                waiting = drain;
                drain = null;
            }
            waiting?.SetResult(result);
        }
    }

    internal static class Waiting
    {
        /// <summary>The same task, given up when the token is cancelled. What it stands for goes on.</summary>
        internal static async Task<T> Or<T>(this Task<T> task, CancellationToken cancellation)
        {
            if (task.IsCompleted || !cancellation.CanBeCanceled)
                return await task.ConfigureAwait(false);
            var cancelled = WebSocketServer.NewSource();
            using (cancellation.Register(source => ((TaskCompletionSource<bool>)source!).TrySetResult(true), cancelled))
                if (await Task.WhenAny(task, cancelled.Task).ConfigureAwait(false) != task)
                    cancellation.ThrowIfCancellationRequested();
            return await task.ConfigureAwait(false);
        }
    }
}
