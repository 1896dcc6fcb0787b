/* What opening a connection costs: connect, TLS or not, upgrade, Close both ways, and again.
 *
 *     handshakes --port P [--tls] [--resume] [--clients N] [--seconds S] [--warm-up S] [--server-pid PID]
 *                [--slices]
 *
 * Each client is a thread that does one after the other, blocking: their number is how many the server has open at a
 * time. With `--resume` each begins with a full handshake, for which the warm-up is, and resumes from then on, with the
 * last ticket it got; a server that does not is an error. One JSON object goes to stdout; any error ends the program
 * with 1. With `--slices` stdin says when and how long (client.h), and in between no connection is open. */
#define _GNU_SOURCE
#include "client.h"

#include <getopt.h>
#include <pthread.h>

enum { CLIENTS_MAX = 1000 };

static struct {
    uint16_t port;
    bool tls, resume, slices;
    uint32_t clients;
    struct slice slice;
    pid_t server_pid;
} options = {.clients = 16, .slice = {.warm_up_seconds = 0.2, .seconds = 1.0}};

enum phase { PAUSED, WARMING_UP, MEASURING, STOPPING };

static enum phase phase;
static uint32_t busy;                   /* clients that have a connection */
static struct durations handshakes;     /* of the window */
static char negotiated[128];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;     /* of the four above */
static pthread_cond_t phase_changed = PTHREAD_COND_INITIALIZER, all_paused = PTHREAD_COND_INITIALIZER;

static void read_options(int argc, char **argv);
static void measure(const struct slice *slice);
static void *client(void *unused);

static void enter(enum phase next)
{
    pthread_mutex_lock(&lock);
    phase = next;
    pthread_cond_broadcast(&phase_changed);
    while (phase == PAUSED && busy > 0)
        pthread_cond_wait(&all_paused, &lock);
    pthread_mutex_unlock(&lock);
}

static void sleep_for(double seconds)
{
    struct timespec left = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&left, &left) < 0)
        continue;
}

int main(int argc, char **argv)
{
    pthread_t clients[CLIENTS_MAX];
    read_options(argc, argv);
    if (options.tls)
        tls_prepare();
    for (uint32_t i = 0; i < options.clients; i++)
        if (pthread_create(&clients[i], NULL, client, NULL) != 0)
            die("no thread");

    if (options.slices)
        say_ready();
    else
        measure(&options.slice);
    while (options.slices && next_slice(&options.slice))
        measure(&options.slice);
    enter(STOPPING);
    for (uint32_t i = 0; i < options.clients; i++)
        pthread_join(clients[i], NULL);
    return 0;
}

static void measure(const struct slice *slice)
{
    memset(&handshakes, 0, sizeof handshakes);
    enter(WARMING_UP);
    sleep_for(slice->warm_up_seconds);
    struct cpus before = cpus_now(options.server_pid);
    uint64_t began = now_ns();
    enter(MEASURING);
    sleep_for(slice->seconds);
    struct cpus after = cpus_now(options.server_pid);
    double seconds = (double)(now_ns() - began) / 1e9;
    enter(PAUSED);

    if (handshakes.count == 0) {
        fprintf(stderr, "handshakes: none was completed\n");
        exit(1);
    }
    printf("{\"clients\": %u, \"negotiated\": \"%s\", \"messages\": %llu, \"seconds\": %.6f, \"per_second\": %.1f, ",
           options.clients, negotiated, (unsigned long long)handshakes.count, seconds,
           (double)handshakes.count / seconds);
    print_durations(&handshakes, options.slices);
    print_cpus(&before, &after, handshakes.count);
    printf("}\n");
}

/* Sends Close and waits for the server's, then for the end of the connection, which is the server's to begin. */
static void close_both_ways(struct stream *stream)
{
    static const uint8_t close_1000[] = {WS_FIN | WS_CLOSE, WS_MASKED | 2, 0, 0, 0, 0, 1000 >> 8, 1000 & 255};
    uint8_t answer[256];
    size_t answer_bytes = 0;
    ssize_t count;
    if (stream_send(stream, close_1000, sizeof close_1000) != sizeof close_1000)
        die("sending Close");
    while ((count = stream_receive(stream, answer + answer_bytes, sizeof answer - answer_bytes)) > 0)
        answer_bytes += (size_t)count;
    if (count < 0 && answer_bytes < 2)
        die("waiting for Close");
    if (answer_bytes < 2 || answer[0] != (WS_FIN | WS_CLOSE)) {
        fprintf(stderr, "handshakes: Close was answered with %zu bytes of something else\n", answer_bytes);
        _exit(1);
    }
    stream_close(stream);
}

/* Waits while there is a pause. False: it is over. */
static bool begin(void)
{
    pthread_mutex_lock(&lock);
    while (phase == PAUSED)
        pthread_cond_wait(&phase_changed, &lock);
    bool goes_on = phase != STOPPING;
    busy += goes_on;
    pthread_mutex_unlock(&lock);
    return goes_on;
}

static void end(void)
{
    pthread_mutex_lock(&lock);
    if (--busy == 0)
        pthread_cond_signal(&all_paused);
    pthread_mutex_unlock(&lock);
}

static void *client(void *unused)
{
    struct tls_ticket *ticket = NULL;
    while (begin()) {
        char answer[ANSWER_BYTES_MAX];
        bool resuming = ticket != NULL;
        uint64_t began = now_ns();
        struct stream stream = stream_open(options.port, options.tls, ticket);
        bool resumed = options.tls && tls_was_resumed(stream.tls);
        if (options.resume)
            tls_keep_tickets_in(stream.tls, &ticket);
        struct upgrade upgrade = stream_ask_upgrade(&stream, options.port, "");
        stream_await_upgrade(&stream, &upgrade, answer);
        uint64_t took = now_ns() - began;

        pthread_mutex_lock(&lock);
        if (phase == MEASURING)
            durations_add(&handshakes, took);
        if (options.tls && negotiated[0] == '\0')
            snprintf(negotiated, sizeof negotiated, "%s %s", tls_version(stream.tls), tls_cipher(stream.tls));
        pthread_mutex_unlock(&lock);
        close_both_ways(&stream);
        end();
        if (resuming && !resumed) {
            fprintf(stderr, "handshakes: the server did not resume a session\n");
            _exit(1);
        }
        if (options.resume && ticket == NULL) {
            fprintf(stderr, "handshakes: the server sent no ticket\n");
            _exit(1);
        }
    }
    return unused;
}

static void read_options(int argc, char **argv)
{
    enum { PORT = 1, TLS, RESUME, CLIENTS, SECONDS, WARM_UP, SERVER_PID, SLICES };
    static const struct option names[] = {
        {"port", required_argument, NULL, PORT},
        {"tls", no_argument, NULL, TLS},
        {"resume", no_argument, NULL, RESUME},
        {"clients", required_argument, NULL, CLIENTS},
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
        case TLS: options.tls = true; break;
        case RESUME: options.tls = options.resume = true; break;
        case CLIENTS: options.clients = (uint32_t)number(optarg, 1, CLIENTS_MAX); break;
        case SECONDS: options.slice.seconds = number(optarg, 0.01, 3600); break;
        case WARM_UP: options.slice.warm_up_seconds = number(optarg, 0, 3600); break;
        case SERVER_PID: options.server_pid = (pid_t)number(optarg, 1, 1 << 30); break;
        case SLICES: options.slices = true; break;
        default: exit(1);
        }
    }
    if (options.port == 0 || optind != argc) {
        fprintf(stderr, "usage: handshakes --port P [--tls] [--resume] [--clients N] [--seconds S] [--warm-up S]\n"
                        "                  [--server-pid PID] [--slices]\n");
        exit(1);
    }
}
