// Topics of a server, and its side of the backplane.
using System;

namespace FullDuplex
{
    public sealed unsafe partial class WebSocketServer
    {
        /// <summary>
        /// Is told who joins and leaves which topic, on every route: on the library's thread, so it must be quick. Set it before
        /// the start; without it nobody is told.
        /// </summary>
        public TopicHandler? OnTopic { get; set; }

        /// <summary>Is told how it stands with the other machines, on the library's thread. Set it before the start.</summary>
        public BackplaneHandler? OnBackplane { get; set; }

        /// <summary>What carries published messages to other machines, instead of the option <c>backplane</c>. Set it before the start.</summary>
        public IBackplane? Backplane { get; set; }

        // -- publishing ---------------------------------------------------------------------------------------

        /// <summary>
        /// Sends a text to all subscribers of a topic but <paramref name="except"/>, here and on the other machines. Its bytes are
        /// copied once. From one thread the messages to a topic keep their order.
        /// </summary>
        /// <exception cref="FullDuplexException">The topic's name is empty or too long, or the message over <c>send.limit</c>.</exception>
        public PublishResult Publish(Topic topic, string text, Connection? except = null, SendFlags flags = SendFlags.None)
        {
            byte[] bytes = Text.Encode(text, out int length);
            fixed (byte* start = bytes)
                return Publish(topic, start, length, MessageKind.Text, except, flags);
        }

        /// <summary>Publishes bytes, as binary or as a text in UTF-8.</summary>
        /// <exception cref="FullDuplexException">The topic's name is empty or too long, the message over <c>send.limit</c>, or the text no UTF-8.</exception>
        public PublishResult Publish(Topic topic, byte[] data, MessageKind kind = MessageKind.Binary, Connection? except = null,
            SendFlags flags = SendFlags.None)
        {
            fixed (byte* start = data)
                return Publish(topic, start, data.Length, kind, except, flags);
        }

#if NET472
        /// <summary>Publishes bytes, as binary or as a text in UTF-8.</summary>
        /// <exception cref="FullDuplexException">The topic's name is empty or too long, the message over <c>send.limit</c>, or the text no UTF-8.</exception>
        public PublishResult Publish(Topic topic, ArraySegment<byte> data, MessageKind kind = MessageKind.Binary, Connection? except = null,
            SendFlags flags = SendFlags.None)
        {
            fixed (byte* start = data.Array)
                return Publish(topic, start + data.Offset, data.Count, kind, except, flags);
        }
#else
        /// <summary>Publishes bytes, as binary or as a text in UTF-8.</summary>
        /// <exception cref="FullDuplexException">The topic's name is empty or too long, the message over <c>send.limit</c>, or the text no UTF-8.</exception>
        public PublishResult Publish(Topic topic, ReadOnlySpan<byte> data, MessageKind kind = MessageKind.Binary, Connection? except = null,
            SendFlags flags = SendFlags.None)
        {
            fixed (byte* start = data)
                return Publish(topic, start, data.Length, kind, except, flags);
        }
#endif

        /// <summary>Publishes a message that was made before.</summary>
        /// <exception cref="FullDuplexException">The topic's name is empty or too long, or the message over <c>send.limit</c>.</exception>
        public PublishResult Publish(Topic topic, SharedMessage message, Connection? except = null, SendFlags flags = SendFlags.None) =>
            Publish(topic, message.Handle, except, flags);

        /// <summary>How many connections of this process are in a topic.</summary>
        public long TopicCount(Topic topic)
        {
            ulong count;
            fixed (byte* name = topic.Bytes)
                Results.Check(Native.fdx_topic_count(Handle, name, (UIntPtr)(uint)topic.Bytes.Length, &count));
            return (long)count;
        }

        private PublishResult Publish(Topic topic, byte* data, int length, MessageKind kind, Connection? except, SendFlags flags)
        {
            using Native.MessageHandle message = SharedMessage.New(data, length, kind);
            return Publish(topic, message, except, flags);
        }

        private PublishResult Publish(Topic topic, Native.MessageHandle message, Connection? except, SendFlags flags)
        {
            if (except is { } other && other.Server != this)
                throw new ArgumentException("it is a connection of another server", nameof(except));
            var result = new Native.fdx_publish_result { struct_size = (uint)sizeof(Native.fdx_publish_result) };
            Native.fdx_publish_result* filled = &result;
            fixed (byte* name = topic.Bytes)
            {
                byte* start = name;
                int status = Call(server => Native.fdx_publish(server, start, (UIntPtr)(uint)topic.Bytes.Length, message,
                    (uint)flags | (except == null ? 0 : Native.FDX_F_SKIP_SENDER), except?.Id ?? 0, filled));
                // When the server has stopped nobody is in a topic.
                Results.Done(status);
            }
            return new PublishResult(result);
        }

        internal int Subscribe(ulong connection, Topic topic)
        {
            fixed (byte* name = topic.Bytes)
            {
                byte* start = name;
                return Call(server => Native.fdx_subscribe(server, connection, start, (UIntPtr)(uint)topic.Bytes.Length));
            }
        }

        internal int Unsubscribe(ulong connection, Topic topic)
        {
            fixed (byte* name = topic.Bytes)
            {
                byte* start = name;
                return Call(server => Native.fdx_unsubscribe(server, connection, start, (UIntPtr)(uint)topic.Bytes.Length));
            }
        }

        // -- a backplane of the embedder's own ----------------------------------------------------------------

        /// <summary>
        /// Takes in what has come for a channel, in the order of its publisher: own envelopes and repeats do no harm. False if it
        /// is no envelope that this version knows, the channel is none of this server's, or the server has stopped.
        /// </summary>
        public bool Deliver(Topic channel, byte[] envelope)
        {
            fixed (byte* start = envelope)
                return Deliver(channel, start, envelope.Length);
        }

#if NET472
        /// <summary>The same, of a part of an array.</summary>
        public bool Deliver(Topic channel, ArraySegment<byte> envelope)
        {
            fixed (byte* start = envelope.Array)
                return Deliver(channel, start + envelope.Offset, envelope.Count);
        }
#else
        /// <summary>The same, of a span.</summary>
        public bool Deliver(Topic channel, ReadOnlySpan<byte> envelope)
        {
            fixed (byte* start = envelope)
                return Deliver(channel, start, envelope.Length);
        }
#endif

        /// <summary>
        /// Says that <see cref="Backplane"/> is down (publishes wait), is up again (all channels are subscribed anew, then publishes
        /// go on, and a gap is told), or had a gap. It begins as up. False if the server has stopped.
        /// </summary>
        public bool SetBackplaneState(BackplaneState state) => Results.Done(Call(server => Native.fdx_backplane_state(server, (int)state)));

        private bool Deliver(Topic channel, byte* envelope, int length)
        {
            byte nothing; // which has an address, too
            byte* content = length == 0 ? &nothing : envelope;
            fixed (byte* name = channel.Bytes)
            {
                byte* start = name;
                int status = Call(server => Native.fdx_backplane_deliver(server, start, (UIntPtr)(uint)channel.Bytes.Length,
                    content, (UIntPtr)(uint)length));
                return status != Native.FDX_E_BACKPLANE && Results.Done(status);
            }
        }
    }
}
