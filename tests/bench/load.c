/* The load generator: echo clients of RFC 6455 in one thread, each keeping a number of messages in flight.
 *
 *     load --port P --connections N --size BYTES --inflight K --seconds S
 *          [--text] [--warm-up S] [--server-pid PID]
 *
 * The loop is closed: a reply makes room for the next message. Every message carries its connection's number and
 * its own, is masked with a mask of its own, and every byte that comes back is compared. After the warm-up a window of
 * `--seconds` is measured; the server's CPU clock is read at both ends of it. One JSON object goes to stdout.
 * Exits 1 if anything came back wrong or not at all. */
#define _GNU_SOURCE
#include "websocket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    RECEIVE_BYTES = 256 * 1024,
    EVENTS_PER_WAIT_MAX = 1024,
    STAMP_BYTES = 8,                /* printable, at the front of each payload */
    SILENCE_MS_MAX = 5000,          /* a server that says nothing for so long has lost our messages */
    ERRORS_SHOWN_MAX = 5
};

struct connection {
    int fd;
    uint32_t index;
    uint32_t sent, received;        /* messages */
    uint64_t *sent_at_ns;           /* of the messages in flight: a ring of `inflight` */

    uint8_t *outgoing;              /* frames the kernel has not taken yet: outgoing[from..to] */
    size_t outgoing_from, outgoing_to;

    uint8_t head[WS_SERVER_HEAD_BYTES_MAX];     /* of the frame that is arriving */
    size_t head_bytes;
    uint64_t payload_left_bytes;
    size_t message_bytes;           /* of the message that is arriving, over its fragments */
    uint8_t control[WS_CONTROL_PAYLOAD_BYTES_MAX];
    size_t control_bytes;
};

static struct {
    uint16_t port;
    uint32_t connections, inflight;
    size_t size;
    double seconds, warm_up_seconds;
    bool text;
    pid_t server_pid;
} options = {.connections = 1, .inflight = 1, .size = 20, .seconds = 1.0, .warm_up_seconds = 0.2};

static int poller;
static struct connection *connections;
static uint8_t *pattern;            /* the payload of every message but for the stamp */
static size_t outgoing_bytes_max;
static bool sending = true;         /* until the window ends */
static bool measuring;
static uint64_t messages, errors;   /* of the window; of the whole run */
static uint32_t open_connections;
static uint64_t inflight_total;

/* Round trips by duration: 64 linear steps for each power of two, so a step is at most 1.6 %. */
enum { STEPS_LOG2 = 6, STEPS = 1 << STEPS_LOG2, BUCKETS = (64 - STEPS_LOG2 + 1) * STEPS };
static uint64_t round_trips[BUCKETS];

static void read_options(int argc, char **argv);
static void prepare(void);
static void open_connection(struct connection *conn, uint32_t index);
static void serve(struct connection *conn, bool readable);
static void fill(struct connection *conn, uint64_t now);
static void flush(struct connection *conn);
static void fail(struct connection *conn, const char *reason, ...);
static uint64_t now_ns(void);
static void report(double seconds, const uint64_t cpu_ns[2], const double times[2][2]);
static uint64_t server_cpu_ns(void);
static void server_times(double user_and_system_seconds[2]);

int main(int argc, char **argv)
{
    read_options(argc, argv);
    prepare();
    for (uint32_t i = 0; i < options.connections; i++)
        open_connection(&connections[i], i);

    uint64_t now = now_ns(), cpu_ns[2] = {0, 0}, began = 0, ended = 0;
    uint64_t window_opens = now + (uint64_t)(options.warm_up_seconds * 1e9), window_closes = UINT64_MAX;
    double times[2][2] = {{0, 0}, {0, 0}};
    for (uint32_t i = 0; i < options.connections; i++) {
        fill(&connections[i], now_ns());
        flush(&connections[i]);
    }
    /* After the window, what is still in flight must come back too. */
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
        if (!measuring && now >= window_opens && window_closes == UINT64_MAX) {
            measuring = true;
            server_times(times[0]);
            cpu_ns[0] = server_cpu_ns();
            began = now_ns();
            window_closes = began + (uint64_t)(options.seconds * 1e9);
        } else if (measuring && now >= window_closes) {
            measuring = sending = false;
            ended = now_ns();
            cpu_ns[1] = server_cpu_ns();
            server_times(times[1]);
        }
        for (int i = 0; i < count; i++)
            serve(events[i].data.ptr, (events[i].events & ~(uint32_t)EPOLLOUT) != 0);
    }
    if (ended == 0) {
        fprintf(stderr, "load: the window was never completed\n");
        errors++;
        ended = now_ns();
        began = began ? began : ended;
    }
    report((double)(ended - began) / 1e9, cpu_ns, (const double (*)[2])times);
    return errors > 0;
}

static void send_what_is_due(struct connection *conn)
{
    if (conn->fd >= 0 && sending)
        fill(conn, now_ns());
    if (conn->fd >= 0)
        flush(conn);
}

static void take(struct connection *conn, const uint8_t *bytes, size_t len, uint64_t now);

static void serve(struct connection *conn, bool readable)
{
    static uint8_t received[RECEIVE_BYTES];
    while (conn->fd >= 0 && readable) {
        ssize_t count = recv(conn->fd, received, sizeof received, 0);
        if (count == 0 || (count < 0 && errno != EAGAIN)) {
            fail(conn, count == 0 ? "closed by the server" : strerror(errno));
            return;
        }
        if (count < 0)
            break;
        readable = (size_t)count == sizeof received;
        take(conn, received, (size_t)count, now_ns());
    }
    send_what_is_due(conn);
}

static void take_payload(struct connection *conn, const uint8_t *bytes, size_t len);
static void end_frame(struct connection *conn, uint64_t now);

/* The stream is compared as it comes, wherever it was cut; nothing is put together first. */
static void take(struct connection *conn, const uint8_t *bytes, size_t len, uint64_t now)
{
    while (len > 0 && conn->fd >= 0) {
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
        if (conn->payload_left_bytes == 0 && conn->fd >= 0)
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

static void end_frame(struct connection *conn, uint64_t now)
{
    uint8_t opcode = conn->head[0] & WS_OPCODE;
    bool is_final = (conn->head[0] & WS_FIN) != 0;
    conn->head_bytes = 0;
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

    if (conn->message_bytes != options.size || conn->received == conn->sent) {
        fail(conn, "message %u has %zu bytes, or was never sent", conn->received, conn->message_bytes);
        return;
    }
    if (measuring) {
        uint64_t took = now - conn->sent_at_ns[conn->received % options.inflight];
        int shift = took < STEPS ? 0 : 63 - __builtin_clzll(took) - STEPS_LOG2;
        round_trips[(size_t)(shift ? shift : 0) * STEPS + (took >> shift)]++;
        messages++;
    }
    conn->message_bytes = 0;
    conn->received++;
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
        size_t stamp_bytes = options.size < STAMP_BYTES ? options.size : STAMP_BYTES;
        uint8_t *frame = conn->outgoing + conn->outgoing_to, *head = frame, stamped[STAMP_BYTES];
        uint32_t mask_bits = random_mask();
        const uint8_t *mask = (const uint8_t *)&mask_bits;

        frame += ws_write_head(frame, WS_FIN | (options.text ? WS_TEXT : WS_BINARY), options.size, WS_MASKED);
        memcpy(frame, mask, 4);
        frame += 4;
        stamp(stamped, conn->index, conn->sent);
        ws_mask(frame, stamped, stamp_bytes, mask);
        ws_mask(frame + stamp_bytes, pattern + stamp_bytes, options.size - stamp_bytes, mask);
        conn->outgoing_to += (size_t)(frame - head) + options.size;

        conn->sent_at_ns[conn->sent % options.inflight] = now;
        conn->sent++;
        inflight_total++;
    }
}

static void flush(struct connection *conn)
{
    while (conn->outgoing_from < conn->outgoing_to) {
        ssize_t count = send(conn->fd, conn->outgoing + conn->outgoing_from, conn->outgoing_to - conn->outgoing_from,
                             MSG_NOSIGNAL);
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
    if (conn->fd < 0)
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
    close(conn->fd);
    conn->fd = -1;
    open_connections--;
}

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
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
    outgoing_bytes_max = options.inflight * (WS_CLIENT_HEAD_BYTES_MAX + options.size)
                       + WS_CLIENT_HEAD_BYTES_MAX + WS_CONTROL_PAYLOAD_BYTES_MAX;
}

/* Connects and upgrades, waiting for the server; from then on the socket is non-blocking. */
static void open_connection(struct connection *conn, uint32_t index)
{
    uint8_t random[16];
    char key[WS_KEY_BYTES], accept[WS_ACCEPT_BYTES], request[256], answer[4096];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        die("getrandom");
    ws_base64(key, random, sizeof random);
    ws_accept_key(accept, key);

    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(options.port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof at) < 0)
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){SILENCE_MS_MAX / 1000, 0}, sizeof(struct timeval));

    int request_bytes = snprintf(request, sizeof request,
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %.*s\r\n\r\n", options.port, WS_KEY_BYTES, key);
    if (send(fd, request, (size_t)request_bytes, MSG_NOSIGNAL) != request_bytes)
        die("sending the request");
    size_t answer_bytes = 0;
    do {
        ssize_t count = recv(fd, answer + answer_bytes, sizeof answer - 1 - answer_bytes, 0);
        if (count <= 0)
            die("waiting for the answer to the handshake");
        answer_bytes += (size_t)count;
        answer[answer_bytes] = '\0';
    } while (strstr(answer, "\r\n\r\n") == NULL);
    char accept_line[WS_ACCEPT_BYTES + 5];
    snprintf(accept_line, sizeof accept_line, " %.*s\r\n", WS_ACCEPT_BYTES, accept);
    if (strncmp(answer, "HTTP/1.1 101", 12) != 0 || strstr(answer, accept_line) == NULL) {
        fprintf(stderr, "load: the handshake was answered with:\n%s", answer);
        exit(1);
    }

    *conn = (struct connection){.fd = fd, .index = index};
    conn->outgoing = malloc(outgoing_bytes_max);
    conn->sent_at_ns = malloc(options.inflight * sizeof *conn->sent_at_ns);
    struct epoll_event interest = {EPOLLIN | EPOLLOUT | EPOLLET, {.ptr = conn}};
    if (conn->outgoing == NULL || conn->sent_at_ns == NULL || fcntl(fd, F_SETFL, O_NONBLOCK) < 0
        || epoll_ctl(poller, EPOLL_CTL_ADD, fd, &interest) < 0)
        die("setting up a connection");
    open_connections++;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* What the server's threads, ended ones too, have run. Unlike /proc/PID/schedstat it counts up to this very moment. */
static uint64_t server_cpu_ns(void)
{
    clockid_t clock;
    struct timespec time;
    if (options.server_pid == 0)
        return 0;
    if (clock_getcpuclockid(options.server_pid, &clock) != 0 || clock_gettime(clock, &time) != 0)
        die("reading the server's CPU clock");
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* The same time as the kernel divides it; coarser, it counts in ticks. */
static void server_times(double user_and_system_seconds[2])
{
    char path[64], line[1024];
    unsigned long user_ticks, system_ticks;
    if (options.server_pid == 0)
        return;
    snprintf(path, sizeof path, "/proc/%d/stat", options.server_pid);
    FILE *file = fopen(path, "r");
    if (file == NULL || fgets(line, sizeof line, file) == NULL || strrchr(line, ')') == NULL
        || sscanf(strrchr(line, ')') + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                  &user_ticks, &system_ticks) != 2)
        die(path);
    fclose(file);
    user_and_system_seconds[0] = (double)user_ticks / (double)sysconf(_SC_CLK_TCK);
    user_and_system_seconds[1] = (double)system_ticks / (double)sysconf(_SC_CLK_TCK);
}

static double round_trip_us(double quantile)
{
    uint64_t wanted = (uint64_t)((double)messages * quantile), seen = 0;
    for (size_t i = 0; i < BUCKETS; i++) {
        seen += round_trips[i];
        if (seen > wanted) {
            size_t shift = i < 2 * STEPS ? 0 : i / STEPS - 1;
            return (double)((i - shift * STEPS) << shift) / 1e3;
        }
    }
    return 0;
}

static void report(double seconds, const uint64_t cpu_ns[2], const double times[2][2])
{
    double per_message = messages > 0 ? 1e6 / (double)messages : 0;
    printf("{\"connections\": %u, \"size\": %zu, \"inflight\": %u, \"text\": %s, ",
           options.connections, options.size, options.inflight, options.text ? "true" : "false");
    printf("\"messages\": %llu, \"errors\": %llu, \"seconds\": %.6f, \"messages_per_second\": %.1f, ",
           (unsigned long long)messages, (unsigned long long)errors, seconds,
           seconds > 0 ? (double)messages / seconds : 0);
    printf("\"p50_us\": %.1f, \"p99_us\": %.1f, \"p99_9_us\": %.1f",
           round_trip_us(0.5), round_trip_us(0.99), round_trip_us(0.999));
    if (options.server_pid != 0)
        printf(", \"server_cpu_us\": %.4f, \"server_user_us\": %.4f, \"server_system_us\": %.4f",
               (double)(cpu_ns[1] - cpu_ns[0]) / 1e9 * per_message,
               (times[1][0] - times[0][0]) * per_message, (times[1][1] - times[0][1]) * per_message);
    printf("}\n");
}

static double number(const char *text, double min, double max)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || value < min || value > max) {
        fprintf(stderr, "load: %s: want a number from %g to %g\n", text, min, max);
        exit(1);
    }
    return value;
}

static void read_options(int argc, char **argv)
{
    enum { PORT = 1, CONNECTIONS, SIZE, INFLIGHT, SECONDS, WARM_UP, TEXT, SERVER_PID };
    static const struct option names[] = {
        {"port", required_argument, NULL, PORT},
        {"connections", required_argument, NULL, CONNECTIONS},
        {"size", required_argument, NULL, SIZE},
        {"inflight", required_argument, NULL, INFLIGHT},
        {"seconds", required_argument, NULL, SECONDS},
        {"warm-up", required_argument, NULL, WARM_UP},
        {"text", no_argument, NULL, TEXT},
        {"server-pid", required_argument, NULL, SERVER_PID},
        {NULL, 0, NULL, 0}
    };
    int name;
    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (name) {
        case PORT: options.port = (uint16_t)number(optarg, 1, 65535); break;
        case CONNECTIONS: options.connections = (uint32_t)number(optarg, 1, 20000); break;
        case SIZE: options.size = (size_t)number(optarg, 0, 1 << 30); break;
        case INFLIGHT: options.inflight = (uint32_t)number(optarg, 1, 1 << 16); break;
        case SECONDS: options.seconds = number(optarg, 0.01, 3600); break;
        case WARM_UP: options.warm_up_seconds = number(optarg, 0, 3600); break;
        case TEXT: options.text = true; break;
        case SERVER_PID: options.server_pid = (pid_t)number(optarg, 1, 1 << 30); break;
        default: exit(1);
        }
    }
    if (options.port == 0 || optind != argc) {
        fprintf(stderr, "usage: load --port P [--connections N] [--size BYTES] [--inflight K] [--seconds S]\n"
                        "            [--warm-up S] [--text] [--server-pid PID]\n");
        exit(1);
    }
}
