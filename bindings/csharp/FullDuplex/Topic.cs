// Topics: names that connections subscribe to and anybody publishes to.
using System;
using System.Text;

namespace FullDuplex
{
    /// <summary>
    /// The name of a topic: 1 to 255 bytes, any that you like. A string becomes one by itself, in UTF-8; one that is used often
    /// is best made once. A connection leaves all its topics when it ends.
    /// </summary>
    public readonly struct Topic : IEquatable<Topic>
    {
        /// <summary>No name is longer.</summary>
        public const int BytesMax = 255;

        private readonly byte[]? bytes;

        /// <summary>A topic whose name is text.</summary>
        public Topic(string name) => bytes = Encoding.UTF8.GetBytes(name);

        /// <summary>A topic whose name is bytes.</summary>
        public Topic(byte[] name) => bytes = (byte[])name.Clone();

        internal unsafe Topic(byte* name, UIntPtr length) => bytes = Text.Copy(name, length);

        internal byte[] Bytes => bytes ?? Array.Empty<byte>();

        /// <summary>A topic whose name is text.</summary>
        public static implicit operator Topic(string name) => new Topic(name);

        /// <summary>The bytes of its name.</summary>
        public byte[] ToArray() => (byte[])Bytes.Clone();

        /// <summary>Its name as text, if it is UTF-8.</summary>
        public override string ToString() => Encoding.UTF8.GetString(Bytes);

        /// <inheritdoc/>
        public bool Equals(Topic other)
        {
            byte[] mine = Bytes, its = other.Bytes;
            if (mine.Length != its.Length)
                return false;
            for (int index = 0; index < mine.Length; index++)
                if (mine[index] != its[index])
                    return false;
            return true;
        }

        /// <inheritdoc/>
        public override bool Equals(object? other) => other is Topic topic && Equals(topic);

        /// <inheritdoc/>
        public override int GetHashCode()
        {
            uint hash = 2166136261; // FNV-1a
            foreach (byte one in Bytes)
                hash = unchecked((hash ^ one) * 16777619);
            return unchecked((int)hash);
        }

        /// <summary>The same name.</summary>
        public static bool operator ==(Topic left, Topic right) => left.Equals(right);

        /// <summary>Another name.</summary>
        public static bool operator !=(Topic left, Topic right) => !left.Equals(right);
    }

    /// <summary>What happened between a connection and a topic.</summary>
    public enum TopicChange
    {
        /// <summary>It has subscribed.</summary>
        Joined = Native.FDX_TOPIC_JOINED,

        /// <summary>It has left: by itself, or because it ends.</summary>
        Left = Native.FDX_TOPIC_LEFT,
    }

    /// <summary>A connection has joined or left a topic, which has this many subscribers in this process now.</summary>
    public delegate void TopicHandler(Connection connection, Topic topic, TopicChange change, long subscribers);

    /// <summary>What became of a published message, in this process: each subscriber counts once.</summary>
    public readonly struct PublishResult
    {
        internal PublishResult(in Native.fdx_publish_result result)
        {
            Queued = (long)result.queued;
            HighWater = (long)result.high_water;
            Dropped = (long)result.dropped;
        }

        /// <summary>Subscribers for whom it is queued, or on its way.</summary>
        public long Queued { get; }

        /// <summary>Subscribers for whom it is queued behind more than <c>send.high_water</c>.</summary>
        public long HighWater { get; }

        /// <summary>
        /// Subscribers who don't get it: at <c>send.limit</c> (themselves, or their thread of the server with this topic), in the
        /// middle of a message in fragments, or without binary messages (Hixie).
        /// </summary>
        public long Dropped { get; }

        /// <inheritdoc/>
        public override string ToString() => $"{Queued} queued, {HighWater} over the high water, {Dropped} dropped";
    }
}
