// Other machines: what carries published messages between servers.
using System;
using System.Runtime.InteropServices;

namespace FullDuplex
{
    /// <summary>How it stands with the other machines.</summary>
    public enum BackplaneState
    {
        /// <summary>Messages go to the other machines and come from them.</summary>
        Up = Native.FDX_BP_UP,

        /// <summary>They don't: what is published reaches this process alone, and waits for the others, up to <c>backplane.limit</c>.</summary>
        Down = Native.FDX_BP_DOWN,

        /// <summary>Messages of other machines may have been lost until now. Who needs all of them asks for them elsewhere.</summary>
        Gap = Native.FDX_BP_GAP,
    }

    /// <summary>News of the backplane, with the reason, for people.</summary>
    public delegate void BackplaneHandler(BackplaneState state, string reason);

    /// <summary>
    /// A backplane of your own: it carries envelopes between the servers that have subscribed to a channel, and gives those
    /// that come to <see cref="WebSocketServer.Deliver(Topic, byte[])"/>. A channel is <c>backplane.prefix</c> with a topic behind
    /// it. The methods are called one at a time, on a thread of the library that serves no connection: they may block, and what
    /// is published meanwhile waits. What they throw is logged, and what was asked for is not done.
    /// </summary>
    public interface IBackplane
    {
        /// <summary>Carries an envelope to every server that has subscribed to the channel; this one may be left out.</summary>
        void Publish(Topic channel, byte[] envelope);

        /// <summary>This server wants what comes for the channel. After a <see cref="BackplaneState.Down"/>, at Up, that is said of each anew.</summary>
        void Subscribe(Topic channel);

        /// <summary>This server does not want it any more.</summary>
        void Unsubscribe(Topic channel);
    }

    /// <summary>The border to the library's thread for such a backplane: as <see cref="Border"/>, for calls that no route has.</summary>
    internal static unsafe class BackplaneBorder
    {
        private static readonly Native.fdx_backplane_publish_fn PublishFn = Publish;
        private static readonly Native.fdx_backplane_channel_fn SubscribeFn = Subscribe;
        private static readonly Native.fdx_backplane_channel_fn UnsubscribeFn = Unsubscribe;

        [ThreadStatic] private static bool isKnownToCollector;

        /// <summary>What is called for a backplane. Whoever passes it on owns <c>user_data</c> until the library has taken it.</summary>
        internal static Native.fdx_backplane FunctionsOf(IBackplane backplane) => new Native.fdx_backplane
        {
            struct_size = (uint)sizeof(Native.fdx_backplane),
            user_data = GCHandle.ToIntPtr(GCHandle.Alloc(backplane)),
            drop = Border.DropPointer,
            publish = Marshal.GetFunctionPointerForDelegate(PublishFn),
            subscribe = Marshal.GetFunctionPointerForDelegate(SubscribeFn),
            unsubscribe = Marshal.GetFunctionPointerForDelegate(UnsubscribeFn),
        };

        private static void Publish(IntPtr user, IntPtr server, byte* channel, UIntPtr length, byte* envelope, UIntPtr envelopeLength) =>
            Cross(user, nameof(IBackplane.Publish), channel, length, (backplane, name) => backplane.Publish(name, Text.Copy(envelope, envelopeLength)));

        private static void Subscribe(IntPtr user, IntPtr server, byte* channel, UIntPtr length) =>
            Cross(user, nameof(IBackplane.Subscribe), channel, length, (backplane, name) => backplane.Subscribe(name));

        private static void Unsubscribe(IntPtr user, IntPtr server, byte* channel, UIntPtr length) =>
            Cross(user, nameof(IBackplane.Unsubscribe), channel, length, (backplane, name) => backplane.Unsubscribe(name));

        private static void Cross(IntPtr user, string method, byte* channel, UIntPtr length, Action<IBackplane, Topic> call)
        {
            try
            {
                // No event tells that this thread begins.
                if (!isKnownToCollector)
                    Collector.MayStopThisThread();
                isKnownToCollector = true;
                call((IBackplane)GCHandle.FromIntPtr(user).Target!, new Topic(channel, length));
            }
            catch (Exception exception)
            {
                Contain(method, exception);
            }
        }

        private static void Contain(string method, Exception exception)
        {
            try
            {
                Log.Write(0, $"{method} of the backplane threw; it is not done", exception);
            }
            catch (Exception)
            {
                // Nothing may cross the border, not even "out of memory".
            }
        }
    }
}
