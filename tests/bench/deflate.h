/* permessage-deflate for the load generator, with zlib: JSON texts that differ from message to message.
 *
 * Each connection sends the same rotation of texts from a place of its own, so every message is known beforehand and is
 * compressed once, not while the load runs:
 *
 * - `alone`: with an empty context. That is always allowed.
 * - `in_context`: as a client with a context sends it. The window is no longer than what the rotation repeats, so from
 *   the second time round a message's compressed form is the same each time.
 *
 * For the same reason any answer can be inflated without those before it: what a window would hold is known.
 * Without WITH_DEFLATE (no zlib to build with) `deflate_prepare` ends the program. */
#ifndef FULLDUPLEX_BENCH_DEFLATE_H
#define FULLDUPLEX_BENCH_DEFLATE_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROTATION = 64,
    WINDOW_BYTES = 32 * 1024,
    DEFLATE_SIZE_MIN = WINDOW_BYTES / ROTATION,
    DEFLATE_TAIL_BYTES = 4,         /* "Append 4 octets of 0x00 0x00 0xff 0xff" before inflating (RFC 7692, 7.2.2) */
    DEFLATE_CLIENT_LEVEL = 6        /* zlib's default, which browsers use */
};

struct compressed {
    uint8_t *bytes;
    size_t len;
};

static struct {
    size_t text_bytes;
    uint8_t *texts;                 /* the rotation twice: what goes before a text of the second lies before it */
    struct compressed alone[ROTATION], in_context[ROTATION];
    size_t compressed_bytes_max;    /* of any message, a server's too, with its tail */
} rotation;

/* Which text is message `number` of connection `index`. */
static inline size_t deflate_text(uint32_t index, uint32_t number)
{
    return ((uint64_t)index * 7 + number) % ROTATION;
}

static inline const struct compressed *deflate_message(uint32_t index, uint32_t number, bool with_context)
{
    size_t text = deflate_text(index, number);
    return with_context && number >= ROTATION ? &rotation.in_context[text] : &rotation.alone[text];
}

#ifdef WITH_DEFLATE
#include <zlib.h>

static inline uint64_t deflate_random(void)
{
    static uint64_t state = 0x9E3779B97F4A7C15;     /* the same texts in every run */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545F4914F6CDD1D;
}

#define DEFLATE_ANY(words) (words)[deflate_random() % (sizeof (words) / sizeof *(words))]

/* Exactly `len` bytes of JSON, as an application pushes it: records with names that repeat and values that don't. */
static inline void deflate_write_json(char *text, size_t len)
{
    static const char *const symbols[] = {"EURUSD", "GBPJPY", "AAPL", "BTC-EUR", "SAP.DE", "NESN.SW", "XAU", "ETH-USD"};
    static const char *const users[] = {"anna.schmidt", "jörg", "m.okafor", "li.wei", "sofía", "t.nguyen", "o'brien"};
    static const char *const states[] = {"open", "filled", "partially_filled", "cancelled"};
    static const char *const words[] = {"please", "check", "the", "limit", "before", "market", "opens", "again", "for"};
    char record[512];
    size_t at = (size_t)snprintf(text, len, "{\"type\":\"update\",\"channel\":\"orders\",\"sequence\":%u,\"orders\":[",
                                 (unsigned)(deflate_random() % 10000000));
    for (bool first = true;; first = false) {
        uint64_t bits = deflate_random();
        size_t record_bytes = (size_t)snprintf(record, sizeof record,
            "%s{\"id\":\"%016llx\",\"symbol\":\"%s\",\"side\":\"%s\",\"price\":%u.%04u,\"quantity\":%u,"
            "\"state\":\"%s\",\"user\":{\"name\":\"%s\",\"id\":%u},\"time\":\"2026-0%u-%02uT%02u:%02u:%02u.%03uZ\"}",
            first ? "" : ",", (unsigned long long)deflate_random(), DEFLATE_ANY(symbols), bits & 1 ? "buy" : "sell",
            (unsigned)(bits >> 1 & 1023), (unsigned)(bits >> 11) % 10000, (unsigned)(bits >> 24 & 511) * 10,
            DEFLATE_ANY(states), DEFLATE_ANY(users), (unsigned)(bits >> 33 & 65535), (unsigned)(bits >> 49 & 7) + 1,
            (unsigned)(bits >> 52) % 28 + 1, (unsigned)(bits >> 5) % 24, (unsigned)(bits >> 13) % 60,
            (unsigned)(bits >> 21) % 60, (unsigned)(bits >> 29) % 1000);
        if (at + record_bytes + 32 > len)
            break;
        memcpy(text + at, record, record_bytes);
        at += record_bytes;
    }
    /* A note fills up what no further record fits into. */
    at += (size_t)snprintf(text + at, len - at, "],\"note\":\"");
    while (at < len - 2) {
        const char *word = DEFLATE_ANY(words);
        size_t word_bytes = strlen(word) < len - 2 - at ? strlen(word) : len - 2 - at;
        memcpy(text + at, word, word_bytes);
        at += word_bytes;
        if (at < len - 2)
            text[at++] = ' ';
    }
    memcpy(text + len - 2, "\"}", 2);
}

static inline void deflate_die(const char *what)
{
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, what);
    exit(1);
}

static inline struct compressed deflate_one(z_stream *stream, const uint8_t *text)
{
    struct compressed compressed = {malloc(rotation.compressed_bytes_max), 0};
    if (compressed.bytes == NULL)
        deflate_die("no memory");
    stream->next_in = (Bytef *)text;
    stream->avail_in = (uInt)rotation.text_bytes;
    stream->next_out = compressed.bytes;
    stream->avail_out = (uInt)rotation.compressed_bytes_max;
    if (deflate(stream, Z_SYNC_FLUSH) != Z_OK || stream->avail_in != 0 || stream->avail_out == 0)
        deflate_die("a text could not be compressed");
    compressed.len = rotation.compressed_bytes_max - stream->avail_out - DEFLATE_TAIL_BYTES;
    return compressed;
}

static inline void deflate_prepare(size_t text_bytes)
{
    z_stream alone = {0}, in_context = {0};
    if (text_bytes < DEFLATE_SIZE_MIN)
        deflate_die("--deflate wants a --size of at least 512, or the rotation does not fill a window");
    if (deflateInit2(&alone, DEFLATE_CLIENT_LEVEL, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) != Z_OK
        || deflateInit2(&in_context, DEFLATE_CLIENT_LEVEL, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) != Z_OK
        || (rotation.texts = malloc(2 * ROTATION * text_bytes)) == NULL)
        deflate_die("no memory");
    rotation.text_bytes = text_bytes;
    rotation.compressed_bytes_max = deflateBound(&alone, text_bytes) + 64;
    for (size_t i = 0; i < ROTATION; i++)
        deflate_write_json((char *)rotation.texts + i * text_bytes, text_bytes);
    memcpy(rotation.texts + ROTATION * text_bytes, rotation.texts, ROTATION * text_bytes);

    for (size_t i = 0; i < ROTATION; i++) {
        deflateReset(&alone);
        rotation.alone[i] = deflate_one(&alone, rotation.texts + i * text_bytes);
    }
    for (size_t i = 0; i < 2 * ROTATION; i++) {
        free(rotation.in_context[i % ROTATION].bytes);
        rotation.in_context[i % ROTATION] = deflate_one(&in_context, rotation.texts + i * text_bytes);
    }
    deflateEnd(&alone);
    deflateEnd(&in_context);
}

/* Is this, without its tail, message `number` of connection `index`? There is room for the tail behind it. */
static inline bool deflate_matches(uint32_t index, uint32_t number, uint8_t *bytes, size_t len)
{
    static z_stream stream;
    static uint8_t *text;
    if (text == NULL && ((text = malloc(rotation.text_bytes + 1)) == NULL || inflateInit2(&stream, -15) != Z_OK))
        deflate_die("no memory");

    const uint8_t *expected = rotation.texts + (ROTATION + deflate_text(index, number)) * rotation.text_bytes;
    uint64_t before_bytes = (uint64_t)number * rotation.text_bytes;
    if (before_bytes > WINDOW_BYTES)
        before_bytes = WINDOW_BYTES;
    memcpy(bytes + len, "\0\0\xff\xff", DEFLATE_TAIL_BYTES);
    stream.next_in = bytes;
    stream.avail_in = (uInt)len + DEFLATE_TAIL_BYTES;
    stream.next_out = text;
    stream.avail_out = (uInt)rotation.text_bytes + 1;
    if (inflateReset(&stream) != Z_OK
        || inflateSetDictionary(&stream, expected - before_bytes, (uInt)before_bytes) != Z_OK)
        deflate_die("the window could not be set");
    int status = inflate(&stream, Z_SYNC_FLUSH);
    return (status == Z_OK || status == Z_BUF_ERROR) && stream.avail_in == 0 && stream.avail_out == 1
        && memcmp(text, expected, rotation.text_bytes) == 0;
}

#else

static inline void deflate_prepare(size_t text_bytes)
{
    (void)text_bytes;
    fprintf(stderr, "this load generator was built without zlib: install zlib1g-dev and build it again\n");
    exit(1);
}

static inline bool deflate_matches(uint32_t index, uint32_t number, uint8_t *bytes, size_t len)
{
    (void)index, (void)number, (void)bytes, (void)len;
    return false;
}
#endif

#endif
