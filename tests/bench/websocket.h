/* The little of RFC 6455 that the C programs under tests/ share: the accept key, masking, frame heads.
 *
 * Nothing here comes from the library: a peer that shared its code would share its mistakes.
 * Each program includes this file once, so everything is `static inline`. */
#ifndef FULLDUPLEX_TESTS_WEBSOCKET_H
#define FULLDUPLEX_TESTS_WEBSOCKET_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    WS_KEY_BYTES = 24,          /* 16 bytes in base64 */
    WS_ACCEPT_BYTES = 28,       /* 20 bytes in base64 */
    WS_SERVER_HEAD_BYTES_MAX = 10,
    WS_CLIENT_HEAD_BYTES_MAX = 14,
    WS_CONTROL_PAYLOAD_BYTES_MAX = 125,

    WS_TEXT = 0x1, WS_BINARY = 0x2, WS_CLOSE = 0x8, WS_PING = 0x9, WS_PONG = 0xA,
    WS_FIN = 0x80, WS_COMPRESSED = 0x40, WS_OPCODE = 0x0F, WS_MASKED = 0x80
};

typedef uint64_t ws_words __attribute__((vector_size(64)));     /* spread over whatever registers there are */

/* Copies `len` bytes and masks (or unmasks) them on the way. `to` may be `from`, or lie before it and overlap. */
static inline void ws_mask(uint8_t *to, const uint8_t *from, size_t len, const uint8_t mask[4])
{
    uint64_t mask8, word;
    ws_words words;
    memcpy(&mask8, mask, 4);
    memcpy((uint8_t *)&mask8 + 4, mask, 4);
    for (; len >= sizeof words; len -= sizeof words, to += sizeof words, from += sizeof words) {
        memcpy(&words, from, sizeof words);
        words ^= mask8;
        memcpy(to, &words, sizeof words);
    }
    for (; len >= sizeof word; len -= sizeof word, to += sizeof word, from += sizeof word) {
        memcpy(&word, from, sizeof word);
        word ^= mask8;
        memcpy(to, &word, sizeof word);
    }
    for (size_t i = 0; i < len; i++)
        to[i] = from[i] ^ mask[i & 3];
}

/* How many bytes the head of a server's frame takes; a client's has four more, the mask. */
static inline size_t ws_server_head_bytes(uint64_t payload_bytes)
{
    return payload_bytes < 126 ? 2 : payload_bytes < 65536 ? 4 : 10;
}

/* Writes the first bytes of a head, all but a mask; gives back how many. `masked` is 0 or WS_MASKED. */
static inline size_t ws_write_head(uint8_t *head, uint8_t first_byte, uint64_t payload_bytes, uint8_t masked)
{
    head[0] = first_byte;
    if (payload_bytes < 126) {
        head[1] = masked | (uint8_t)payload_bytes;
        return 2;
    }
    int length_bytes = payload_bytes < 65536 ? 2 : 8;
    head[1] = masked | (length_bytes == 2 ? 126 : 127);
    for (int i = 0; i < length_bytes; i++)
        head[2 + i] = (uint8_t)(payload_bytes >> 8 * (length_bytes - 1 - i));
    return 2 + (size_t)length_bytes;
}

/* Reads a head, whose mask is counted if there is one: its length in bytes, or 0 if it has not arrived whole. */
static inline size_t ws_read_head(const uint8_t *bytes, size_t len, uint64_t *payload_bytes)
{
    if (len < 2)
        return 0;
    size_t mask_bytes = bytes[1] & WS_MASKED ? 4 : 0;
    uint64_t length = bytes[1] & 0x7F;
    size_t length_bytes = length < 126 ? 0 : length == 126 ? 2 : 8;
    if (len < 2 + length_bytes + mask_bytes)
        return 0;
    if (length_bytes != 0) {
        length = 0;
        for (size_t i = 0; i < length_bytes; i++)
            length = length << 8 | bytes[2 + i];
    }
    *payload_bytes = length;
    return 2 + length_bytes + mask_bytes;
}

static inline void ws_base64(char *text, const uint8_t *bytes, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (; len > 0; bytes += 3, text += 4) {
        uint32_t group = (uint32_t)bytes[0] << 16 | (len > 1 ? bytes[1] << 8 : 0) | (len > 2 ? bytes[2] : 0);
        text[0] = digits[group >> 18];
        text[1] = digits[group >> 12 & 63];
        text[2] = len > 1 ? digits[group >> 6 & 63] : '=';
        text[3] = len > 2 ? digits[group & 63] : '=';
        len -= len > 2 ? 3 : len;
    }
}

static inline uint32_t ws_rotated(uint32_t word, int bits)
{
    return word << bits | word >> (32 - bits);
}

static inline void ws_sha1_block(uint32_t state[5], const uint8_t block[64])
{
    uint32_t w[80];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16
             | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++)
        w[i] = ws_rotated(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);

    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
        uint32_t k = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
        uint32_t next = ws_rotated(a, 5) + f + e + k + w[i];
        e = d, d = c, c = ws_rotated(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/* "concatenate this with the [GUID] … A SHA-1 hash … base64-encoded … of this concatenation" (RFC 6455, 1.3) */
static inline void ws_accept_key(char accept[WS_ACCEPT_BYTES], const char key[WS_KEY_BYTES])
{
    /* 24 + 36 bytes and SHA-1's own padding make exactly two blocks. */
    uint8_t blocks[128] = {0};
    memcpy(blocks, key, WS_KEY_BYTES);
    memcpy(blocks + WS_KEY_BYTES, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    blocks[60] = 0x80;
    blocks[126] = 60 * 8 >> 8;
    blocks[127] = 60 * 8 & 255;

    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    ws_sha1_block(state, blocks);
    ws_sha1_block(state, blocks + 64);

    uint8_t digest[20];
    for (int i = 0; i < 20; i++)
        digest[i] = (uint8_t)(state[i / 4] >> 8 * (3 - i % 4));
    ws_base64(accept, digest, sizeof digest);
}

#endif
