// A message of a peer, for asynchronous handlers.
using System.Text;
#if NET472
using Bytes = System.ArraySegment<byte>;
#else
using Bytes = System.ReadOnlyMemory<byte>;
#endif

namespace FullDuplex
{
    /// <summary>A message of a peer. It may be kept.</summary>
    public readonly struct Message
    {
        private readonly byte[]? bytes;

        internal Message(byte[] bytes, MessageKind kind)
        {
            this.bytes = bytes;
            Kind = kind;
        }

        /// <summary>Text or binary.</summary>
        public MessageKind Kind { get; }

        /// <summary>True for text.</summary>
        public bool IsText => Kind == MessageKind.Text;

        /// <summary>Its bytes; a text's are UTF-8.</summary>
        public Bytes Data => new Bytes(Array);

        /// <summary>Its text, made of the bytes each time.</summary>
        public string Text => Encoding.UTF8.GetString(Array);

        internal byte[] Array => bytes ?? System.Array.Empty<byte>();

        /// <inheritdoc/>
        public override string ToString() => IsText ? Text : $"{Array.Length} bytes";
    }
}
