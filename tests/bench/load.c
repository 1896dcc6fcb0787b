/* The load generator: echo clients of RFC 6455 in one thread, each keeping a number of messages in flight.
 *
 *     load --port P --connections N --size BYTES --inflight K --seconds S
 *          [--text] [--tls] [--deflate] [--warm-up S] [--server-pid PID] [--slices]
 *
 * The loop is closed: a reply makes room for the next message. Every message carries its connection's number and
 * its own, is masked with a mask of its own, and every byte that comes back is compared. With `--deflate` messages are
 * compressed JSON (deflate.h), and some of the answers are inflated and compared. After the warm-up, and as many answers as
 * messages are in flight, a window of `--seconds` is measured; the server's CPU clock is read at both ends of it. One JSON
 * object goes to stdout. With `--slices` stdin says when and how long (client.h), over and over on the same connections.
 * Exits 1 if anything came back wrong or not at all. */
#define _GNU_SOURCE
#include "client.h"
#include "deflate.h"

#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/resource.h>

enum {
    RECEIVE_BYTES = 256 * 1024,
    EVENTS_PER_WAIT_MAX = 1024,
    STAMP_BYTES = 8,                /* printable, at the front of each payload */
    ERRORS_SHOWN_MAX = 5,
    INFLATED_OF = 16                /* one answer of so many is inflated: the load must cost less than the server */
};

struct connection {
    struct stream stream;           /* `fd` -1: failed */
    uint32_t index;
    uint32_t sent, received;        /* messages */
    uint64_t *sent_at_ns;           /* of the messages in flight: a ring of `inflight` */

    uint8_t *outgoing;              /* frames the kernel has not taken yet: outgoing[from..to] */
    size_t outgoing_from, outgoing_to;

    uint8_t head[WS_SERVER_HEAD_BYTES_MAX];     /* of the frame that is arriving */
    size_t head_bytes;
    uint64_t payload_left_bytes;
    size_t message_bytes;           /* of the message that is arriving, over its fragments, compressed or not */
    uint8_t first_byte;             /* of its first frame */
    uint8_t *compressed;            /* the message itself, if it is to be inflated; NULL without --deflate */
    bool with_context;              /* what we send is compressed with what went before */
    uint8_t control[WS_CONTROL_PAYLOAD_BYTES_MAX];
    size_t control_bytes;
};

static struct {
    uint16_t port;
    uint32_t connections, inflight;
    size_t size;
    struct slice slice;
    bool text, tls, deflate, slices;
    pid_t server_pid;
} options = {.connections = 1, .inflight = 1, .size = 20, .slice = {.warm_up_seconds = 0.2, .seconds = 1.0}};

static int poller;
static struct connection *connections;
static uint8_t *pattern;            /* the payload of every message but for the stamp */
static size_t outgoing_bytes_max;
static bool sending;                /* until the window ends */
static bool measuring;
static uint64_t answers;            /* since the slice began */
static struct durations round_trips; /* of the window */
static uint64_t answers_bytes;      /* of the window: payloads as they came, compressed or not */
static uint64_t errors;             /* of the whole run */
static uint32_t open_connections;
static uint64_t inflight_total;
static char negotiated[256];        /* by the first connection: TLS and extensions */

static void read_options(int argc, char **argv);
static void prepare(void);
static void connect_range(uint32_t from, uint32_t to);
static bool await_slice(void);
static void measure(const struct slice *slice);
static void serve_all(const struct epoll_event *events, int count);
static void send_what_is_due(struct connection *conn);
static void serve(struct connection *conn, bool readable);
static void fill(struct connection *conn, uint64_t now);
static void flush(struct connection *conn);
static void fail(struct connection *conn, const char *reason, ...);
static void report(double seconds, const struct cpus *before, const struct cpus *after);

int main(int argc, char **argv)
{
    read_options(argc, argv);
    prepare();
    for (uint32_t from = 0; from < options.connections; from += OPENED_AT_ONCE)
        connect_range(from, from + OPENED_AT_ONCE < options.connections ? from + OPENED_AT_ONCE : options.connections);
    if (!options.slices) {
        measure(&options.slice);
        return errors > 0;
    }
    say_ready();
    while (await_slice())
        measure(&options.slice);
    return errors > 0;
}

/* Answers pings meanwhile, since a server may close who does not. False: that was the last slice. */
static bool await_slice(void)
{
    struct pollfd either[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = poller, .events = POLLIN}};
    fflush(stdout);
    while (errors == 0) {
        struct epoll_event events[EVENTS_PER_WAIT_MAX];
        if (poll(either, 2, -1) < 0)
            die("poll");
        if (either[0].revents != 0)
            return next_slice(&options.slice);
        serve_all(events, epoll_wait(poller, events, EVENTS_PER_WAIT_MAX, 0));
    }
    return false;
}

/* When it is over nothing is in flight. */
static void measure(const struct slice *slice)
{
    uint64_t now = now_ns(), began = 0, ended = 0, answers_of_a_round = (uint64_t)options.connections * options.inflight;
    uint64_t window_opens = now + (uint64_t)(slice->warm_up_seconds * 1e9), window_closes = 0;
    struct cpus before = cpus_now(options.server_pid), after = before;

    memset(&round_trips, 0, sizeof round_trips);
    answers = answers_bytes = 0;
    sending = true;
    for (uint32_t i = 0; i < options.connections; i++)
        send_what_is_due(&connections[i]);
    while (open_connections > 0 && (sending || inflight_total > 0)) {
        struct epoll_event events[EVENTS_PER_WAIT_MAX];
        int count = epoll_wait(poller, events, EVENTS_PER_WAIT_MAX, SILENCE_MS_MAX);
        if (count == 0) {
            fprintf(stderr, "load: %d ms of silence with %llu messages in flight\n", SILENCE_MS_MAX,
                    (unsigned long long)inflight_total);
            errors += inflight_total;
            break;
        }
        now = now_ns();
        if (began == 0 && now >= window_opens && answers >= answers_of_a_round) {
            measuring = true;
            before = cpus_now(options.server_pid);
            began = now_ns();
            window_closes = began + (uint64_t)(slice->seconds * 1e9);
        } else if (measuring && now >= window_closes) {
            measuring = sending = false;
            ended = now_ns();
            after = cpus_now(options.server_pid);
        }
        serve_all(events, count);
    }
    if (ended == 0) {
        fprintf(stderr, "load: the window was never completed\n");
        errors++;
        ended = now_ns();
        began = began ? began : ended;
    }
    report((double)(ended - began) / 1e9, &before, &after);
}

static void serve_all(const struct epoll_event *events, int count)
{
    for (int i = 0; i < count; i++)
        serve(events[i].data.ptr, (events[i].events & ~(uint32_t)EPOLLOUT) != 0);
}

static void send_what_is_due(struct connection *conn)
{
    if (conn->stream.fd >= 0 && sending)
        fill(conn, now_ns());
    if (conn->stream.fd >= 0)
        flush(conn);
}

static void take(struct connection *conn, const uint8_t *bytes, size_t len, uint64_t now);

static void serve(struct connection *conn, bool readable)
{
    static uint8_t received[RECEIVE_BYTES];
    while (conn->stream.fd >= 0 && readable) {
        ssize_t count = stream_receive(&conn->stream, received, sizeof received);
        if (count == 0 || (count < 0 && errno != EAGAIN)) {
            fail(conn, count == 0 ? "closed by the server" : strerror(errno));
            return;
        }
        if (count < 0)
            break;
        /* TLS gives a record at a time, and may hold another one. */
        readable = options.tls || (size_t)count == sizeof received;
        take(conn, received, (size_t)count, now_ns());
    }
    send_what_is_due(conn);
}

static void take_payload(struct connection *conn, const uint8_t *bytes, size_t len);
static void end_frame(struct connection *conn, uint64_t now);

/* The stream is compared as it comes, wherever it was cut; nothing is put together first. */
static void take(struct connection *conn, const uint8_t *bytes, size_t len, uint64_t now)
{
    while (len > 0 && conn->stream.fd >= 0) {
        if (conn->head_bytes == 0 || ws_read_head(conn->head, conn->head_bytes, &(uint64_t){0}) == 0) {
            conn->head[conn->head_bytes++] = *bytes++;
            len--;
            if (conn->head_bytes >= 2 && conn->head[1] & WS_MASKED) {
                fail(conn, "a masked frame");
                return;
            }
            if (ws_read_head(conn->head, conn->head_bytes, &conn->payload_left_bytes) == 0)
                continue;
        }
        size_t taken = len < conn->payload_left_bytes ? len : (size_t)conn->payload_left_bytes;
        take_payload(conn, bytes, taken);
        bytes += taken;
        len -= taken;
        conn->payload_left_bytes -= taken;
        if (conn->payload_left_bytes == 0 && conn->stream.fd >= 0)
            end_frame(conn, now);
    }
}

static void stamp(uint8_t to[STAMP_BYTES], uint32_t index, uint32_t number)
{
    /* 12 bits of connection, 36 of message, six bits to a character from '0' to 'o'. */
    uint64_t bits = (uint64_t)(index & 0xFFF) << 36 | number;
    for (int i = 0; i < STAMP_BYTES; i++)
        to[i] = (uint8_t)('0' + (bits >> 6 * i & 63));
}

/* The first answers of a connection and some of the rest; others on each connection. */
static bool is_to_be_inflated(const struct connection *conn)
{
    return conn->received < 2 || conn->received % INFLATED_OF == conn->index % INFLATED_OF;
}

static void take_payload(struct connection *conn, const uint8_t *bytes, size_t len)
{
    if (conn->head[0] & 0x08) {
        if (conn->control_bytes + len > sizeof conn->control) {
            fail(conn, "a control frame over 125 bytes");
            return;
        }
        memcpy(conn->control + conn->control_bytes, bytes, len);
        conn->control_bytes += len;
        return;
    }
    if (options.deflate) {
        if (conn->message_bytes + len > rotation.compressed_bytes_max - DEFLATE_TAIL_BYTES) {
            fail(conn, "message %u is longer than it can be", conn->received);
            return;
        }
        if (is_to_be_inflated(conn))
            memcpy(conn->compressed + conn->message_bytes, bytes, len);
        conn->message_bytes += len;
        return;
    }
    uint8_t expected_stamp[STAMP_BYTES];
    size_t at = conn->message_bytes, stamp_bytes = 0;
    if (at + len > options.size) {
        fail(conn, "message %u is longer than what was sent", conn->received);
        return;
    }
    if (at < STAMP_BYTES) {
        stamp(expected_stamp, conn->index, conn->received);
        stamp_bytes = len < STAMP_BYTES - at ? len : STAMP_BYTES - at;
    }
    if (memcmp(bytes, expected_stamp + at, stamp_bytes) != 0
        || memcmp(bytes + stamp_bytes, pattern + at + stamp_bytes, len - stamp_bytes) != 0)
        fail(conn, "message %u came back changed, in its bytes %zu to %zu", conn->received, at, at + len);
    conn->message_bytes += len;
}

/* Is the message that has arrived whole the compressed text we wait for? */
static bool came_back(struct connection *conn)
{
    if ((conn->first_byte & ~(uint8_t)WS_FIN) != (WS_COMPRESSED | WS_TEXT))
        fail(conn, "message %u is not a compressed text: its first byte is %02x", conn->received, conn->first_byte);
    else if (is_to_be_inflated(conn)
             && !deflate_matches(conn->index, conn->received, conn->compressed, conn->message_bytes))
        fail(conn, "message %u came back changed", conn->received);
    return conn->stream.fd >= 0;
}

static void end_frame(struct connection *conn, uint64_t now)
{
    uint8_t opcode = conn->head[0] & WS_OPCODE;
    bool is_final = (conn->head[0] & WS_FIN) != 0;
    conn->head_bytes = 0;
    if (opcode == WS_TEXT || opcode == WS_BINARY)
        conn->first_byte = conn->head[0];
    if (opcode == WS_PING) {
        uint8_t *frame = conn->outgoing + conn->outgoing_to, mask[4] = {0};
        if (conn->outgoing_to + 6 + conn->control_bytes <= outgoing_bytes_max) {
            frame += ws_write_head(frame, WS_FIN | WS_PONG, conn->control_bytes, WS_MASKED);
            memcpy(frame, mask, 4);
            memcpy(frame + 4, conn->control, conn->control_bytes);
            conn->outgoing_to += 6 + conn->control_bytes;
        }
    } else if (opcode == WS_CLOSE) {
        fail(conn, "the server sent Close %d", conn->control_bytes < 2 ? 0 : conn->control[0] << 8 | conn->control[1]);
    }
    conn->control_bytes = 0;
    if (opcode & 0x08 || !is_final)
        return;

    if (conn->received == conn->sent || (!options.deflate && conn->message_bytes != options.size)) {
        fail(conn, "message %u has %zu bytes, or was never sent", conn->received, conn->message_bytes);
        return;
    }
    if (options.deflate && !came_back(conn))
        return;
    if (measuring) {
        durations_add(&round_trips, now - conn->sent_at_ns[conn->received % options.inflight]);
        answers_bytes += conn->message_bytes;
    }
    conn->message_bytes = 0;
    conn->received++;
    answers++;
    inflight_total--;
}

static uint32_t random_mask(void)
{
    static uint64_t state;          /* xorshift64* */
    while (state == 0)
        if (getrandom(&state, sizeof state, 0) != sizeof state)
            abort();
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)(state * 0x2545F4914F6CDD1D >> 32);
}

/* Writes the connection's next message as a frame; gives back its length. */
static size_t write_stamped(uint8_t *frame, const struct connection *conn)
{
    size_t stamp_bytes = options.size < STAMP_BYTES ? options.size : STAMP_BYTES;
    uint8_t stamped[STAMP_BYTES];
    uint32_t mask_bits = random_mask();
    const uint8_t *mask = (const uint8_t *)&mask_bits;
    size_t head_bytes = ws_write_head(frame, WS_FIN | (options.text ? WS_TEXT : WS_BINARY), options.size, WS_MASKED);

    frame += head_bytes;
    memcpy(frame, mask, 4);
    stamp(stamped, conn->index, conn->sent);
    ws_mask(frame + 4, stamped, stamp_bytes, mask);
    ws_mask(frame + 4 + stamp_bytes, pattern + stamp_bytes, options.size - stamp_bytes, mask);
    return head_bytes + 4 + options.size;
}

static size_t write_compressed(uint8_t *frame, const struct connection *conn)
{
    const struct compressed *message = deflate_message(conn->index, conn->sent, conn->with_context);
    uint32_t mask_bits = random_mask();
    size_t head_bytes = ws_write_head(frame, WS_FIN | WS_COMPRESSED | WS_TEXT, message->len, WS_MASKED);

    memcpy(frame + head_bytes, &mask_bits, 4);
    ws_mask(frame + head_bytes + 4, message->bytes, message->len, (const uint8_t *)&mask_bits);
    return head_bytes + 4 + message->len;
}

/* Puts as many messages into `outgoing` as may be in flight. */
static void fill(struct connection *conn, uint64_t now)
{
    if (conn->outgoing_from == conn->outgoing_to) {
        conn->outgoing_from = conn->outgoing_to = 0;
    } else if (conn->outgoing_from > 0 && conn->sent - conn->received < options.inflight) {
        conn->outgoing_to -= conn->outgoing_from;
        memmove(conn->outgoing, conn->outgoing + conn->outgoing_from, conn->outgoing_to);
        conn->outgoing_from = 0;
    }
    while (conn->sent - conn->received < options.inflight) {
        uint8_t *frame = conn->outgoing + conn->outgoing_to;
        conn->outgoing_to += options.deflate ? write_compressed(frame, conn) : write_stamped(frame, conn);

        conn->sent_at_ns[conn->sent % options.inflight] = now;
        conn->sent++;
        inflight_total++;
    }
}

static void flush(struct connection *conn)
{
    while (conn->outgoing_from < conn->outgoing_to) {
        ssize_t count = stream_send(&conn->stream, conn->outgoing + conn->outgoing_from,
                                    conn->outgoing_to - conn->outgoing_from);
        if (count < 0 && errno == EAGAIN)
            return;
        if (count < 0) {
            fail(conn, strerror(errno));
            return;
        }
        conn->outgoing_from += (size_t)count;
    }
}

/* Counts everything this connection still had in flight as lost, and ends it. */
static void fail(struct connection *conn, const char *reason, ...)
{
    static int shown;
    if (conn->stream.fd < 0)
        return;
    if (shown++ < ERRORS_SHOWN_MAX) {
        va_list arguments;
        va_start(arguments, reason);
        fprintf(stderr, "load: connection %u: ", conn->index);
        vfprintf(stderr, reason, arguments);
        fprintf(stderr, "\n");
        va_end(arguments);
    }
    uint32_t lost = conn->sent - conn->received;
    errors += lost > 0 ? lost : 1;
    inflight_total -= lost;
    conn->received = conn->sent;
    stream_close(&conn->stream);
    open_connections--;
}

static void prepare(void)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    poller = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc(options.connections, sizeof *connections);
    pattern = malloc(options.size + STAMP_BYTES);
    if (poller < 0 || connections == NULL || pattern == NULL)
        die("no memory");
    for (size_t i = 0; i < options.size + STAMP_BYTES; i++)
        pattern[i] = (uint8_t)(options.text ? ' ' + i % 95 : i * 167 + i / 251);
    if (options.tls)
        tls_prepare();
    size_t payload_bytes_max = options.size;
    if (options.deflate) {
        deflate_prepare(options.size);
        payload_bytes_max = rotation.compressed_bytes_max;
    }
    outgoing_bytes_max = options.inflight * (WS_CLIENT_HEAD_BYTES_MAX + payload_bytes_max)
                       + WS_CLIENT_HEAD_BYTES_MAX + WS_CONTROL_PAYLOAD_BYTES_MAX;
}

/* What the answer says of permessage-deflate, or NULL. Chromium offers the same as we do. */
static const char *deflate_answer(const char *answer)
{
    static const char name[] = "\r\nSec-WebSocket-Extensions:";
    static char extensions[200];
    const char *header = strcasestr(answer, name);
    if (header == NULL)
        return NULL;
    header += strlen(name);
    header += strspn(header, " ");
    snprintf(extensions, sizeof extensions, "%.*s", (int)strcspn(header, "\r"), header);
    return strncmp(extensions, "permessage-deflate", 18) == 0 ? extensions : NULL;
}

static void enter_connection(struct connection *conn, const char *answer);

/* Connects and upgrades those from `from` to `to`, at most OPENED_AT_ONCE, waiting for the server. */
static void connect_range(uint32_t from, uint32_t to)
{
    static const char offer[] = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    struct upgrade upgrades[OPENED_AT_ONCE];
    for (uint32_t i = from; i < to; i++) {
        connections[i] = (struct connection){.stream = stream_open(options.port, options.tls, NULL), .index = i};
        upgrades[i - from] = stream_ask_upgrade(&connections[i].stream, options.port, options.deflate ? offer : "");
    }
    for (uint32_t i = from; i < to; i++) {
        char answer[ANSWER_BYTES_MAX];
        stream_await_upgrade(&connections[i].stream, &upgrades[i - from], answer);
        enter_connection(&connections[i], answer);
    }
}

/* From now on its socket does not block. */
static void enter_connection(struct connection *conn, const char *answer)
{
    const char *extensions = deflate_answer(answer);
    if (options.deflate) {
        const char *window = extensions ? strstr(extensions, "client_max_window_bits") : NULL;
        if (extensions == NULL || (window != NULL && strstr(window, "=15") == NULL)) {
            fprintf(stderr, "load: want permessage-deflate with a window of 15 bits, the answer was:\n%s", answer);
            exit(1);
        }
        conn->with_context = strstr(extensions, "client_no_context_takeover") == NULL;
        if ((conn->compressed = malloc(rotation.compressed_bytes_max)) == NULL)
            die("no memory");
    }
    if (conn->index == 0)
        snprintf(negotiated, sizeof negotiated, "%s%s%s%s%s", options.tls ? tls_version(conn->stream.tls) : "",
                 options.tls ? " " : "", options.tls ? tls_cipher(conn->stream.tls) : "",
                 options.tls && extensions ? ", " : "", extensions ? extensions : "");

    conn->outgoing = malloc(outgoing_bytes_max);
    conn->sent_at_ns = malloc(options.inflight * sizeof *conn->sent_at_ns);
    struct epoll_event interest = {EPOLLIN | EPOLLOUT | EPOLLET, {.ptr = conn}};
    if (conn->outgoing == NULL || conn->sent_at_ns == NULL || fcntl(conn->stream.fd, F_SETFL, O_NONBLOCK) < 0
        || epoll_ctl(poller, EPOLL_CTL_ADD, conn->stream.fd, &interest) < 0)
        die("setting up a connection");
    if (options.tls)
        tls_set_nonblocking(conn->stream.tls);
    open_connections++;
}

static void report(double seconds, const struct cpus *before, const struct cpus *after)
{
    uint64_t messages = round_trips.count;
    printf("{\"connections\": %u, \"size\": %zu, \"inflight\": %u, \"text\": %s, \"negotiated\": \"%s\", ",
           options.connections, options.size, options.inflight, options.text ? "true" : "false", negotiated);
    printf("\"messages\": %llu, \"errors\": %llu, \"seconds\": %.6f, \"per_second\": %.1f, ",
           (unsigned long long)messages, (unsigned long long)errors, seconds,
           seconds > 0 ? (double)messages / seconds : 0);
    printf("\"answer_bytes\": %.1f, ", messages > 0 ? (double)answers_bytes / (double)messages : 0);
    print_durations(&round_trips, options.slices);
    print_cpus(before, after, messages);
    printf("}\n");
}

static void read_options(int argc, char **argv)
{
    enum { PORT = 1, CONNECTIONS, SIZE, INFLIGHT, SECONDS, WARM_UP, TEXT, TLS, DEFLATE, SERVER_PID, SLICES };
    static const struct option names[] = {
        {"port", required_argument, NULL, PORT},
        {"connections", required_argument, NULL, CONNECTIONS},
        {"size", required_argument, NULL, SIZE},
        {"inflight", required_argument, NULL, INFLIGHT},
        {"seconds", required_argument, NULL, SECONDS},
        {"warm-up", required_argument, NULL, WARM_UP},
        {"text", no_argument, NULL, TEXT},
        {"tls", no_argument, NULL, TLS},
        {"deflate", no_argument, NULL, DEFLATE},
        {"server-pid", required_argument, NULL, SERVER_PID},
        {"slices", no_argument, NULL, SLICES},
        {NULL, 0, NULL, 0}
    };
    int name;
    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (name) {
        case PORT: options.port = (uint16_t)number(optarg, 1, 65535); break;
        case CONNECTIONS: options.connections = (uint32_t)number(optarg, 1, 20000); break;
        case SIZE: options.size = (size_t)number(optarg, 0, 1 << 30); break;
        case INFLIGHT: options.inflight = (uint32_t)number(optarg, 1, 1 << 16); break;
        case SECONDS: options.slice.seconds = number(optarg, 0.01, 3600); break;
        case WARM_UP: options.slice.warm_up_seconds = number(optarg, 0, 3600); break;
        case TEXT: options.text = true; break;
        case TLS: options.tls = true; break;
        case DEFLATE: options.deflate = true; break;
        case SLICES: options.slices = true; break;
        case SERVER_PID: options.server_pid = (pid_t)number(optarg, 1, 1 << 30); break;
        default: exit(1);
        }
    }
    if (options.port == 0 || optind != argc) {
        fprintf(stderr, "usage: load --port P [--connections N] [--size BYTES] [--inflight K] [--seconds S]\n"
                        "            [--warm-up S] [--text] [--tls] [--deflate] [--server-pid PID] [--slices]\n");
        exit(1);
    }
}
