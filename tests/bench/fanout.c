/* The load generator for topics: whatever the first connection says, all of them hear.
 *
 *     fanout --port P --connections N --size BYTES --inflight K --seconds S
 *            [--publisher-port P] [--warm-up S] [--server-pid PID]... [--slices]
 *
 * The server puts every connection into one topic and publishes to it what any of them says. The loop is closed: when the
 * last one has heard a message, there is room for the next. Every byte that comes is compared. With `--publisher-port` the
 * publisher is at another server, joined with that of the subscribers, and not counted among them. After the warm-up
 * a window of `--seconds` is measured; the CPU clocks of the servers, which are summed, are read at both ends of it. One
 * JSON object goes to stdout, in which a message is one delivery. With `--slices` stdin says when and how long (client.h),
 * over and over on the same connections. Exits 1 if anything came wrong or not at all. */
#define _GNU_SOURCE
#include "client.h"

#include <fcntl.h>
#include <getopt.h>
#include <sys/epoll.h>
#include <sys/resource.h>

enum {
    RECEIVE_BYTES = 256 * 1024,
    EVENTS_PER_WAIT_MAX = 1024,
    SERVERS_MAX = 8,
    PROBE_PAUSE_MS = 20,
    PROBES_MAX = 250,
    LAST_PROBE = 0xFF,              /* not a byte of an empty frame, nor of this one's head */
    LAST_PROBE_BYTES = 4
};

struct connection {
    struct stream stream;
    uint64_t received;              /* messages */
    size_t at;                      /* of the next one's frame */
    bool is_counted;                /* a subscriber */
    bool has_met;                   /* has heard something */
};

static struct {
    uint16_t port, publisher_port;
    uint32_t connections, inflight;
    size_t size;
    struct slice slice;
    bool slices;
    pid_t servers[SERVERS_MAX];
    int server_count;
} options = {.connections = 1, .inflight = 1, .size = 20, .slice = {.warm_up_seconds = 0.2, .seconds = 1.0}};

struct message {
    uint8_t *frame;                 /* as the server sends it */
    uint64_t sent_at_ns;
    uint32_t left;                  /* how many have not heard it yet */
};

static int poller;
static struct connection *connections;
static uint32_t connection_count;   /* with the publisher */
static struct message *messages;    /* those in flight: a ring */
static size_t frame_bytes;
static uint64_t sent, completed;    /* messages */
static bool measuring;
static struct durations deliveries; /* of the window */

static void read_options(int argc, char **argv);
static void connect_range(uint32_t from, uint32_t to, uint16_t port);
static void meet(void);
static void take_probes(struct connection *conn);
static void measure(const struct slice *slice);
static void publish(void);
static void receive(struct connection *conn);
static void report(double seconds, const struct cpus *before, const struct cpus *after);

static struct cpus all_cpus_now(void)
{
    struct cpus sum = {.load = cpu_of(getpid())};
    for (int i = 0; i < options.server_count; i++) {
        struct cpu one = cpu_of(options.servers[i]);
        sum.server.ns += one.ns;
        sum.server.user_seconds += one.user_seconds;
        sum.server.system_seconds += one.system_seconds;
    }
    return sum;
}

int main(int argc, char **argv)
{
    struct rlimit files;
    read_options(argc, argv);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    poller = epoll_create1(EPOLL_CLOEXEC);
    connection_count = options.connections + (options.publisher_port != options.port);
    connections = calloc(connection_count, sizeof *connections);
    messages = calloc(options.inflight, sizeof *messages);
    frame_bytes = ws_server_head_bytes(options.size) + options.size;
    if (poller < 0 || connections == NULL || messages == NULL)
        die("no memory");
    for (uint32_t i = 0; i < options.inflight; i++)
        if ((messages[i].frame = malloc(frame_bytes)) == NULL)
            die("no memory");
    connect_range(0, 1, options.publisher_port);
    for (uint32_t from = 1; from < connection_count; from += OPENED_AT_ONCE)
        connect_range(from, from + OPENED_AT_ONCE < connection_count ? from + OPENED_AT_ONCE : connection_count,
                         options.port);
    for (uint32_t i = 0; i < connection_count; i++)
        connections[i].is_counted = i > 0 || connection_count == options.connections;
    meet();

    if (!options.slices) {
        measure(&options.slice);
        return 0;
    }
    say_ready();
    while (next_slice(&options.slice))
        measure(&options.slice);
    return 0;
}

/* When it is over all have heard everything. */
static void measure(const struct slice *slice)
{
    uint64_t began = 0, ended = 0, window_opens = now_ns() + (uint64_t)(slice->warm_up_seconds * 1e9), window_closes = 0;
    struct cpus before = {0}, after = {0};
    memset(&deliveries, 0, sizeof deliveries);
    for (uint32_t i = 0; i < options.inflight; i++)
        publish();
    while (ended == 0 || completed < sent) {
        struct epoll_event events[EVENTS_PER_WAIT_MAX];
        int count = epoll_wait(poller, events, EVENTS_PER_WAIT_MAX, SILENCE_MS_MAX);
        if (count == 0) {
            fprintf(stderr, "fanout: %d ms of silence with %llu messages in flight\n", SILENCE_MS_MAX,
                    (unsigned long long)(sent - completed));
            exit(1);
        }
        uint64_t now = now_ns();
        if (began == 0 && now >= window_opens) {
            measuring = true;
            before = all_cpus_now();
            began = now_ns();
            window_closes = began + (uint64_t)(slice->seconds * 1e9);
        } else if (measuring && now >= window_closes) {
            measuring = false;
            ended = now_ns();
            after = all_cpus_now();
        }
        for (int i = 0; i < count; i++)
            receive(events[i].data.ptr);
        while (ended == 0 && sent - completed < options.inflight)
            publish();
    }
    report((double)(ended - began) / 1e9, &before, &after);
}

static void fail(const struct connection *conn, const char *what)
{
    fprintf(stderr, "fanout: connection %u: %s, in message %llu\n", (unsigned)(conn - connections), what,
            (unsigned long long)conn->received);
    exit(1);
}

/* Those from `from` to `to`, at most OPENED_AT_ONCE. */
static void connect_range(uint32_t from, uint32_t to, uint16_t port)
{
    struct upgrade upgrades[OPENED_AT_ONCE];
    for (uint32_t i = from; i < to; i++) {
        connections[i].stream = stream_open(port, false, NULL);
        upgrades[i - from] = stream_ask_upgrade(&connections[i].stream, port, "");
    }
    for (uint32_t i = from; i < to; i++) {
        char answer[ANSWER_BYTES_MAX];
        struct epoll_event interest = {EPOLLIN, {.ptr = &connections[i]}};
        stream_await_upgrade(&connections[i].stream, &upgrades[i - from], answer);
        if (fcntl(connections[i].stream.fd, F_SETFL, O_NONBLOCK) < 0
            || epoll_ctl(poller, EPOLL_CTL_ADD, connections[i].stream.fd, &interest) < 0)
            die("setting up a connection");
    }
}

static void say(const uint8_t *payload, size_t len)
{
    static uint8_t *frame;
    uint8_t mask[4];
    if (frame == NULL && (frame = malloc(WS_CLIENT_HEAD_BYTES_MAX + options.size + 1)) == NULL)
        die("no memory");
    if (getrandom(mask, sizeof mask, 0) != sizeof mask)
        die("getrandom");
    size_t head_bytes = ws_write_head(frame, WS_FIN | WS_BINARY, len, WS_MASKED);
    memcpy(frame + head_bytes, mask, 4);
    ws_mask(frame + head_bytes + 4, payload, len, mask);
    size_t bytes = head_bytes + 4 + len;
    if (stream_send(&connections[0].stream, frame, bytes) != (ssize_t)bytes)
        die("publishing");
}

/* A server may subscribe at the other behind our back: empty messages until one of them has come to everybody, and then one
 * that is not empty, behind which nothing is under way. */
static void meet(void)
{
    static const uint8_t last[LAST_PROBE_BYTES] = {LAST_PROBE, LAST_PROBE, LAST_PROBE, LAST_PROBE};
    uint32_t met = 0, done = 0, silent_ms = 0;
    for (int probe = 0; probe < PROBES_MAX && met < connection_count; probe++) {
        say(NULL, 0);
        usleep(PROBE_PAUSE_MS * 1000);
        met = 0;
        for (uint32_t i = 0; i < connection_count; i++) {
            take_probes(&connections[i]);
            met += connections[i].has_met;
        }
    }
    if (met < connection_count) {
        fprintf(stderr, "fanout: only %u of %u heard anything\n", met, connection_count);
        exit(1);
    }
    say(last, sizeof last);
    while (done < connection_count) {
        uint32_t done_before = done;
        usleep(PROBE_PAUSE_MS * 1000);
        done = 0;
        for (uint32_t i = 0; i < connection_count; i++) {
            take_probes(&connections[i]);
            done += connections[i].at == LAST_PROBE_BYTES;
        }
        silent_ms = done == done_before ? silent_ms + PROBE_PAUSE_MS : 0;
        if (silent_ms > SILENCE_MS_MAX) {
            fprintf(stderr, "fanout: only %u of %u heard the last probe\n", done, connection_count);
            exit(1);
        }
    }
    for (uint32_t i = 0; i < connection_count; i++)
        connections[i].at = 0;
}

/* `at` counts how much of the last probe's payload has come. */
static void take_probes(struct connection *conn)
{
    uint8_t received[1024];
    ssize_t count;
    while ((count = stream_receive(&conn->stream, received, sizeof received)) > 0) {
        conn->has_met = true;
        for (ssize_t i = 0; i < count; i++)
            conn->at += received[i] == LAST_PROBE;
    }
}

static void publish(void)
{
    struct message *message = &messages[sent % options.inflight];
    size_t head_bytes = ws_write_head(message->frame, WS_FIN | WS_BINARY, options.size, 0);
    uint8_t *payload = message->frame + head_bytes;
    for (size_t i = 0; i < options.size; i++)
        payload[i] = (uint8_t)(i < 8 ? sent >> 8 * i : i * 167 + i / 251);
    message->left = connection_count;
    message->sent_at_ns = now_ns();
    sent++;
    say(payload, options.size);
}

static void receive(struct connection *conn)
{
    static uint8_t received[RECEIVE_BYTES];
    ssize_t count = stream_receive(&conn->stream, received, sizeof received);
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0)
        fail(conn, count == 0 ? "the server ended it" : strerror(errno));
    uint64_t now = now_ns();
    for (size_t from = 0; from < (size_t)count;) {
        struct message *message = &messages[conn->received % options.inflight];
        size_t taken = frame_bytes - conn->at;
        if (conn->received == sent)
            fail(conn, "nobody has said this");
        if (taken > (size_t)count - from)
            taken = (size_t)count - from;
        if (memcmp(received + from, message->frame + conn->at, taken) != 0)
            fail(conn, "what came is not what was said");
        from += taken;
        conn->at += taken;
        if (conn->at < frame_bytes)
            break;
        conn->at = 0;
        conn->received++;
        if (measuring && conn->is_counted)
            durations_add(&deliveries, now - message->sent_at_ns);
        /* Each hears them in their order, so they are complete in their order. */
        if (--message->left == 0)
            completed++;
    }
}

static void report(double seconds, const struct cpus *before, const struct cpus *after)
{
    printf("{\"connections\": %u, \"size\": %zu, \"inflight\": %u, \"negotiated\": \"\", ", options.connections,
           options.size, options.inflight);
    printf("\"messages\": %llu, \"errors\": 0, \"seconds\": %.6f, \"per_second\": %.1f, ",
           (unsigned long long)deliveries.count, seconds, (double)deliveries.count / seconds);
    print_durations(&deliveries, options.slices);
    print_cpus(before, after, deliveries.count);
    printf("}\n");
}

static void read_options(int argc, char **argv)
{
    enum { PORT = 1, PUBLISHER_PORT, CONNECTIONS, SIZE, INFLIGHT, SECONDS, WARM_UP, SERVER_PID, SLICES };
    static const struct option names[] = {
        {"port", required_argument, NULL, PORT},
        {"publisher-port", required_argument, NULL, PUBLISHER_PORT},
        {"connections", required_argument, NULL, CONNECTIONS},
        {"size", required_argument, NULL, SIZE},
        {"inflight", required_argument, NULL, INFLIGHT},
        {"seconds", required_argument, NULL, SECONDS},
        {"warm-up", required_argument, NULL, WARM_UP},
        {"server-pid", required_argument, NULL, SERVER_PID},
        {"slices", no_argument, NULL, SLICES},
        {NULL, 0, NULL, 0}
    };
    int name;
    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (name) {
        case PORT: options.port = (uint16_t)number(optarg, 1, 65535); break;
        case PUBLISHER_PORT: options.publisher_port = (uint16_t)number(optarg, 1, 65535); break;
        case CONNECTIONS: options.connections = (uint32_t)number(optarg, 1, 20000); break;
        case SIZE: options.size = (size_t)number(optarg, 8, 60000); break;
        case INFLIGHT: options.inflight = (uint32_t)number(optarg, 1, 1 << 10); break;
        case SECONDS: options.slice.seconds = number(optarg, 0.01, 3600); break;
        case WARM_UP: options.slice.warm_up_seconds = number(optarg, 0, 3600); break;
        case SLICES: options.slices = true; break;
        case SERVER_PID:
            if (options.server_count == SERVERS_MAX)
                exit(1);
            options.servers[options.server_count++] = (pid_t)number(optarg, 1, 1 << 30);
            break;
        default: exit(1);
        }
    }
    if (options.publisher_port == 0)
        options.publisher_port = options.port;
    if (options.port == 0 || optind != argc) {
        fprintf(stderr, "usage: fanout --port P [--publisher-port P] [--connections N] [--size BYTES] [--inflight K]\n"
                        "              [--seconds S] [--warm-up S] [--server-pid PID]... [--slices]\n");
        exit(1);
    }
}
