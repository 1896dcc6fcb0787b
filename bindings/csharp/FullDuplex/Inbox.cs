// Messages on their way from the library's thread to a handler that awaits them.
using System;
using System.Collections.Generic;
using System.Threading;
using System.Threading.Tasks;
#if NET472
using BoolTask = System.Threading.Tasks.Task<bool>;
#else
using System.Threading.Tasks.Sources;
using BoolTask = System.Threading.Tasks.ValueTask<bool>;
#endif

namespace FullDuplex
{
    /// <summary>
    /// The library's thread adds, one reader takes. The reader goes on by the thread pool, and not on the library's thread
    /// unless it promises never to block. Over its limit the inbox pauses the connection, and below half of it lets it go on.
    /// </summary>
    internal sealed class Inbox
#if NETCOREAPP3_1
        : IValueTaskSource<bool>, IThreadPoolWorkItem
#elif !NET472
        : IValueTaskSource<bool>
#endif
    {
        /// <summary>What a message counts beside its bytes.</summary>
        private const int MessageOverhead = 64;

        private readonly object gate = new object();
        private readonly Connection connection;
        private readonly Queue<Message> messages = new Queue<Message>();
        private long bytes;
        private bool isPaused, isEnded, isAbandoned, isCancelled, isWaiting, isWoken;
        private CancellationToken cancellation;

        internal Inbox(Connection connection) => this.connection = connection;

        /// <summary>The message that was taken last.</summary>
        internal Message Current { get; private set; }

        // -- the library's thread -----------------------------------------------------------------------------

        internal void Add(Message message)
        {
            bool wakes;
            lock (gate)
            {
                if (isAbandoned)
                    return;
                messages.Enqueue(message);
                bytes += message.Array.Length + MessageOverhead;
                if (bytes > connection.Server.ReceiveHighWater)
                {
                    // Again with each message: a resume of the reader's thread may be on its way and undo the one before.
                    isPaused = true;
                    connection.Server.Pause(connection.Id);
                }
                wakes = Wakes();
            }
            if (wakes && connection.Server.HandlersNeverBlock)
                GoOn();
            else if (wakes)
                Schedule();
        }

        internal void End()
        {
            lock (gate)
            {
                isEnded = true;
                Wake();
            }
        }

        // -- the reader -----------------------------------------------------------------------------------------

        internal BoolTask MoveNextAsync()
        {
            lock (gate)
            {
                if (isWaiting)
                    throw new InvalidOperationException("a connection has one reader at a time");
                if (isCancelled)
                    return Cancelled();
                if (Take())
                    return True();
                if (isEnded)
                    return False();
                isWaiting = true;
                return Promise();
            }
        }

        internal CancellationTokenRegistration CancelWith(CancellationToken token)
        {
            lock (gate)
            {
                isCancelled = false;
                cancellation = token;
            }
            return token.CanBeCanceled ? token.Register(inbox => ((Inbox)inbox!).Cancel(), this) : default;
        }

        private void Cancel()
        {
            lock (gate)
            {
                isCancelled = true;
                Wake();
            }
        }

        /// <summary>Nobody will take any more: what comes is dropped, and the connection's close is noticed.</summary>
        internal void Abandon()
        {
            lock (gate)
            {
                isAbandoned = true;
                messages.Clear();
                bytes = 0;
                ResumeIfBelowHalf();
            }
        }

        private bool Take()
        {
            if (messages.Count == 0)
                return false;
            Current = messages.Dequeue();
            bytes -= Current.Array.Length + MessageOverhead;
            ResumeIfBelowHalf();
            return true;
        }

        private void ResumeIfBelowHalf()
        {
            if (!isPaused || bytes > connection.Server.ReceiveHighWater / 2)
                return;
            isPaused = false;
            connection.Server.Resume(connection.Id);
        }

        // -- from one to the other --------------------------------------------------------------------------------

        /// <summary>Has the reader go on, on the thread pool, if it waits.</summary>
        private void Wake()
        {
            if (Wakes())
                Schedule();
        }

        /// <summary>True if the reader waits; then the caller must see to it that it goes on.</summary>
        private bool Wakes()
        {
            bool wakes = isWaiting && !isWoken;
            isWoken |= wakes;
            return wakes;
        }

        /// <summary>The reader goes on, on this thread.</summary>
        private void GoOn()
        {
            bool gotOne, wasCancelled;
            lock (gate)
            {
                isWaiting = isWoken = false;
                wasCancelled = isCancelled;
                gotOne = !wasCancelled && Take();
            }
            if (wasCancelled)
                Fail(new OperationCanceledException(cancellation));
            else
                Fulfil(gotOne);
        }

#if NET472
        private static readonly Task<bool> TrueTask = Task.FromResult(true), FalseTask = Task.FromResult(false);
        private static readonly WaitCallback OnThePool = inbox => ((Inbox)inbox).GoOn();
        private TaskCompletionSource<bool>? promise;

        private static BoolTask True() => TrueTask;

        private static BoolTask False() => FalseTask;

        private BoolTask Cancelled() => Task.FromCanceled<bool>(cancellation);

        private BoolTask Promise() => (promise = new TaskCompletionSource<bool>()).Task;

        private void Schedule() => ThreadPool.UnsafeQueueUserWorkItem(OnThePool, this);

        private void Fulfil(bool gotOne) => promise!.SetResult(gotOne);

        private void Fail(Exception exception) => promise!.SetException(exception);
#else
        private ManualResetValueTaskSourceCore<bool> promise;

        private static BoolTask True() => new BoolTask(true);

        private static BoolTask False() => new BoolTask(false);

        private BoolTask Cancelled() => new BoolTask(Task.FromCanceled<bool>(cancellation));

        private BoolTask Promise()
        {
            promise.Reset();
            return new BoolTask(this, promise.Version);
        }

#if NETCOREAPP3_1
        private void Schedule() => ThreadPool.UnsafeQueueUserWorkItem(this, preferLocal: false);

        void IThreadPoolWorkItem.Execute() => GoOn();
#else
        private static readonly WaitCallback OnThePool = inbox => ((Inbox)inbox).GoOn();

        private void Schedule() => ThreadPool.UnsafeQueueUserWorkItem(OnThePool, this);
#endif

        private void Fulfil(bool gotOne) => promise.SetResult(gotOne);

        private void Fail(Exception exception) => promise.SetException(exception);

        bool IValueTaskSource<bool>.GetResult(short token) => promise.GetResult(token);

        ValueTaskSourceStatus IValueTaskSource<bool>.GetStatus(short token) => promise.GetStatus(token);

        void IValueTaskSource<bool>.OnCompleted(Action<object?> continuation, object? state, short token, ValueTaskSourceOnCompletedFlags flags) =>
            promise.OnCompleted(continuation, state, token, flags);
#endif
    }
}
