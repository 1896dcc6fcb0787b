// The border between the library's threads and managed code. No exception crosses it, and what the library
// holds of ours is kept alive until it says that it lets go.
using System;
using System.Runtime.InteropServices;

namespace FullDuplex
{
    internal static unsafe class Border
    {
        // The library knows these by their addresses, which die with the delegates: static, for ever.
        private static readonly Native.fdx_event_fn UpgradeFn = (user, server, e) => Cross(user, e, Native.FDX_EV_UPGRADE);
        private static readonly Native.fdx_event_fn OpenFn = (user, server, e) => Cross(user, e, Native.FDX_EV_OPEN);
        private static readonly Native.fdx_event_fn MessageFn = OnMessage;
        private static readonly Native.fdx_event_fn CloseFn = (user, server, e) => Cross(user, e, Native.FDX_EV_CLOSE);
        private static readonly Native.fdx_event_fn DrainFn = (user, server, e) => Cross(user, e, Native.FDX_EV_DRAIN);
        private static readonly Native.fdx_event_fn OtherFn = (user, server, e) => Cross(user, e, 0);
        private static readonly Native.fdx_drop_fn DropFn = Drop;

        private static readonly IntPtr Upgrade = Marshal.GetFunctionPointerForDelegate(UpgradeFn);
        private static readonly IntPtr Open = Marshal.GetFunctionPointerForDelegate(OpenFn);
        private static readonly IntPtr Message = Marshal.GetFunctionPointerForDelegate(MessageFn);
        private static readonly IntPtr Close = Marshal.GetFunctionPointerForDelegate(CloseFn);
        private static readonly IntPtr Drain = Marshal.GetFunctionPointerForDelegate(DrainFn);
        private static readonly IntPtr Other = Marshal.GetFunctionPointerForDelegate(OtherFn);

        /// <summary>Frees the handle that it is given.</summary>
        internal static readonly IntPtr DropPointer = Marshal.GetFunctionPointerForDelegate(DropFn);

        /// <summary>What is called for a route. Whoever passes it on owns <c>user_data</c> until the library has taken it.</summary>
        internal static Native.fdx_handlers HandlersOf(Route route, bool decides)
        {
            Slots wanted = route.Wanted;
            IntPtr If(Slots slot, IntPtr callback) => (wanted & slot) != 0 ? callback : IntPtr.Zero;

            return new Native.fdx_handlers
            {
                struct_size = (uint)sizeof(Native.fdx_handlers),
                flags = route.Flags,
                user_data = GCHandle.ToIntPtr(GCHandle.Alloc(route)),
                drop = DropPointer,
                on_upgrade = decides ? If(Slots.WebSocket, Upgrade) : IntPtr.Zero,
                // A route takes WebSockets if it has any of these.
                on_open = If(Slots.Open | Slots.WebSocket, Open),
                on_message = If(Slots.Message, Message),
                on_close = If(Slots.Close, Close),
                on_drain = If(Slots.Drain, Drain),
                on_other = Other,
            };
        }

        /// <summary>A message is what comes most: no lambda and no switch on its way.</summary>
        private static void OnMessage(IntPtr user, IntPtr server, Native.fdx_event* e)
        {
            Route? route = null;
            try
            {
                route = (Route)GCHandle.FromIntPtr(user).Target!;
                route.Message(e);
            }
            catch (Exception exception)
            {
                Contain(route, e, exception);
            }
        }

        private static void Cross(IntPtr user, Native.fdx_event* e, uint slot)
        {
            Route? route = null;
            try
            {
                route = (Route)GCHandle.FromIntPtr(user).Target!;
                switch (slot)
                {
                    case Native.FDX_EV_UPGRADE: route.Upgrade(e); break;
                    case Native.FDX_EV_OPEN: route.Open(e); break;
                    case Native.FDX_EV_CLOSE: route.Close(e); break;
                    case Native.FDX_EV_DRAIN: route.Drain(e); break;
                    default: route.Other(e); break;
                }
            }
            catch (Exception exception)
            {
                Contain(route, e, exception);
            }
        }

        private static void Contain(Route? route, Native.fdx_event* e, Exception exception)
        {
            try
            {
                route?.Failed(e, exception);
            }
            catch (Exception)
            {
                // It was told, or there is nobody left to tell.
            }
        }

        private static void Drop(IntPtr handle)
        {
            try
            {
                GCHandle.FromIntPtr(handle).Free();
            }
            catch (Exception)
            {
                // Nothing may cross.
            }
        }
    }
    /// <summary>The garbage collector must be able to stop every thread that runs managed code.</summary>
    internal static unsafe class Collector
    {
        private const int Unblock = 1, FirstRealTime = 34, Last = 64;

        private static readonly bool UsesSignals =
            Type.GetType("Mono.Runtime") != null && RuntimeInformation.IsOSPlatform(OSPlatform.Linux);

        /// <summary>
        /// Mono's stops threads by real-time signals, and the library's threads block all signals: the collector would
        /// wait for ever. One that has come before is delivered now.
        /// </summary>
        internal static void MayStopThisThread()
        {
            if (!UsesSignals)
                return;
            // A sigset_t, of 128 bytes; signal n is bit n - 1.
            ulong* signals = stackalloc ulong[16];
            for (int word = 0; word < 16; word++)
                signals[word] = 0;
            for (int signal = FirstRealTime; signal <= Last; signal++)
                signals[0] |= 1UL << (signal - 1);
            pthread_sigmask(Unblock, signals, IntPtr.Zero);
        }

        [DllImport("libc")]
        private static extern int pthread_sigmask(int how, ulong* signals, IntPtr before);
    }
}
