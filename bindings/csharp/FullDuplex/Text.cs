// Text on its way to and from the library, which speaks UTF-8.
using System;
using System.Text;

namespace FullDuplex
{
    internal static unsafe class Text
    {
        /// <summary>Text of this many bytes is encoded into memory that its thread keeps.</summary>
        private const int KeptBytesMax = 64 * 1024;

        [ThreadStatic] private static byte[]? scratch;

        internal static string From(byte* bytes, UIntPtr length) =>
            length == UIntPtr.Zero ? "" : Encoding.UTF8.GetString(bytes, checked((int)length));

        internal static string FromNul(byte* text)
        {
            int length = 0;
            while (text != null && text[length] != 0)
                length++;
            return length == 0 ? "" : Encoding.UTF8.GetString(text, length);
        }

        /// <summary>With a NUL at the end, as the library's names and values have it.</summary>
        internal static byte[] ToNul(string text)
        {
            if (text.IndexOf('\0') >= 0)
                throw new ArgumentException("a NUL can't be inside");
            var bytes = new byte[Encoding.UTF8.GetByteCount(text) + 1];
            Encoding.UTF8.GetBytes(text, 0, text.Length, bytes, 0);
            return bytes;
        }

        /// <summary>The bytes of a text, valid until this thread encodes the next one. Half a surrogate pair becomes U+FFFD.</summary>
        internal static byte[] Encode(string text, out int length)
        {
            // The most it can be is quick to say, and too much for a long one.
            bool isShort = text.Length < KeptBytesMax / 4;
            byte[] bytes = Scratch(isShort ? Encoding.UTF8.GetMaxByteCount(text.Length) : Encoding.UTF8.GetByteCount(text));
            length = Encoding.UTF8.GetBytes(text, 0, text.Length, bytes, 0);
            return bytes;
        }

        /// <summary>At least so many bytes, for the moment.</summary>
        internal static byte[] Scratch(int length)
        {
            byte[]? kept = scratch;
            if (kept != null && kept.Length >= length)
                return kept;
            var bytes = new byte[Math.Max(length, 1024)];
            if (bytes.Length <= KeptBytesMax)
                scratch = bytes;
            return bytes;
        }

        internal static byte[] Copy(byte* data, UIntPtr length)
        {
            if (length == UIntPtr.Zero)
                return Array.Empty<byte>();
            var copy = new byte[checked((int)length)];
            fixed (byte* to = copy)
                Buffer.MemoryCopy(data, to, copy.Length, copy.Length);
            return copy;
        }

        /// <summary>A function that fills a buffer as the library does: it says how many bytes would do, NUL included.</summary>
        internal delegate int Fill(byte* buffer, UIntPtr capacity, UIntPtr* needed);

        /// <summary>What such a function tells; null with its status when it tells nothing.</summary>
        internal static string? Read(Fill fill, out int status)
        {
            for (int room = 1024; ; )
            {
                byte[] buffer = Scratch(room);
                UIntPtr needed;
                fixed (byte* bytes = buffer)
                {
                    status = fill(bytes, (UIntPtr)buffer.Length, &needed);
                    if (status == Native.FDX_OK)
                        return From(bytes, needed - 1);
                }
                if (status != Native.FDX_E_BUFFER)
                    return null;
                room = checked((int)needed) + 64; // it may have grown when we ask again
            }
        }
    }
}
