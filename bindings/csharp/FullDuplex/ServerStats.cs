// The sums of a server.
namespace FullDuplex
{
    /// <summary>What a server has counted since its start. What is not in this build of the library is 0.</summary>
    public sealed class ServerStats
    {
        internal ServerStats(in Native.fdx_stats stats)
        {
            Threads = (int)stats.threads;
            Connections = (long)stats.connections;
            PeakConnections = (long)stats.peak_connections;
            Accepted = (long)stats.accepted;
            Rejected = (long)stats.rejected;
            Closed = (long)stats.closed;
            HandshakeErrors = (long)stats.handshake_errors;
            MessagesIn = (long)stats.msgs_in;
            MessagesOut = (long)stats.msgs_out;
            BytesIn = (long)stats.bytes_in;
            BytesOut = (long)stats.bytes_out;
            DroppedMessages = (long)stats.dropped_msgs;
            SlowClosed = (long)stats.slow_closed;
            RateLimited = (long)stats.rate_limited;
            QueuedBytes = (long)stats.queued_bytes;
            EventQueueLength = (long)stats.event_queue_len;
            DeflateBytes = (long)stats.deflate_bytes;
            Topics = (long)stats.topics;
            Subscriptions = (long)stats.subscriptions;
            BackplaneIn = (long)stats.backplane_in;
            BackplaneOut = (long)stats.backplane_out;
            BackplaneLost = (long)stats.backplane_lost;
            Faults = (long)stats.faults;
        }

        /// <summary>Shards.</summary>
        public int Threads { get; }

        /// <summary>Open now.</summary>
        public long Connections { get; }

        /// <summary>Most open at once, summed over the threads.</summary>
        public long PeakConnections { get; }

        /// <summary>TCP connections.</summary>
        public long Accepted { get; }

        /// <summary>Requests answered with a refusal, by the server or by this program.</summary>
        public long Rejected { get; }

        /// <summary>Connections that have ended.</summary>
        public long Closed { get; }

        /// <summary>Requests that were malformed or no handshake of any dialect.</summary>
        public long HandshakeErrors { get; }

        /// <summary>Messages of peers.</summary>
        public long MessagesIn { get; }

        /// <summary>Messages to peers.</summary>
        public long MessagesOut { get; }

        /// <summary>On the wire.</summary>
        public long BytesIn { get; }

        /// <summary>On the wire.</summary>
        public long BytesOut { get; }

        /// <summary>Messages refused with <see cref="SendResult.Full"/>.</summary>
        public long DroppedMessages { get; }

        /// <summary>Connections closed at <c>send.limit</c>.</summary>
        public long SlowClosed { get; }

        /// <summary>Connections refused or closed by <c>max.connections</c>, <c>max.connections_per_ip</c> or a rate.</summary>
        public long RateLimited { get; }

        /// <summary>Not yet taken by the kernel, of all connections.</summary>
        public long QueuedBytes { get; }

        /// <summary>Events that wait in queues.</summary>
        public long EventQueueLength { get; }

        /// <summary>Set aside for the windows of connections with <c>deflate = dedicated</c>; see <c>deflate.budget</c>.</summary>
        public long DeflateBytes { get; }

        /// <summary>Topics.</summary>
        public long Topics { get; }

        /// <summary>Subscriptions to topics.</summary>
        public long Subscriptions { get; }

        /// <summary>Messages from other machines.</summary>
        public long BackplaneIn { get; }

        /// <summary>Messages to other machines.</summary>
        public long BackplaneOut { get; }

        /// <summary>Messages that were lost between machines.</summary>
        public long BackplaneLost { get; }

        /// <summary>Bugs of ours that were contained.</summary>
        public long Faults { get; }
    }
}
