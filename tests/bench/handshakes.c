/* What opening a connection costs: connect, TLS or not, upgrade, Close both ways, and again.
 *
 *     handshakes --port P [--tls] [--resume] [--clients N] [--seconds S] [--warm-up S] [--server-pid PID]
 *
 * Each client is a thread that does one after the other, blocking: their number is how many the server has open at a
 * time. With `--resume` each begins with a full handshake, for which the warm-up is, and resumes from then on, with the
 * last ticket it got; a server that does not is an error. One JSON object goes to stdout; any error ends the program
 * with 1. */
#define _GNU_SOURCE
#include "client.h"

#include <getopt.h>
#include <pthread.h>

enum { CLIENTS_MAX = 1000 };

static struct {
    uint16_t port;
    bool tls, resume;
    uint32_t clients;
    double seconds, warm_up_seconds;
    pid_t server_pid;
} options = {.clients = 16, .seconds = 1.0, .warm_up_seconds = 0.2};

static enum { WARMING_UP, MEASURING, STOPPING } phase;
static struct durations handshakes;     /* of the window */
static char negotiated[128];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;     /* of the three above */

static void read_options(int argc, char **argv);
static void *client(void *unused);

static void enter(int next)
{
    pthread_mutex_lock(&lock);
    phase = next;
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

    sleep_for(options.warm_up_seconds);
    struct cpus before = cpus_now(options.server_pid);
    uint64_t began = now_ns();
    enter(MEASURING);
    sleep_for(options.seconds);
    struct cpus after = cpus_now(options.server_pid);
    double seconds = (double)(now_ns() - began) / 1e9;
    enter(STOPPING);
    for (uint32_t i = 0; i < options.clients; i++)
        pthread_join(clients[i], NULL);

    printf("{\"clients\": %u, \"negotiated\": \"%s\", \"handshakes\": %llu, \"seconds\": %.6f, \"per_second\": %.1f, ",
           options.clients, negotiated, (unsigned long long)handshakes.count, seconds,
           (double)handshakes.count / seconds);
    printf("\"p50_us\": %.1f, \"p99_us\": %.1f, ", durations_us(&handshakes, 0.5), durations_us(&handshakes, 0.99));
    print_cpus(&before, &after, handshakes.count);
    printf("}\n");
    if (handshakes.count == 0)
        fprintf(stderr, "handshakes: none was completed\n");
    return handshakes.count == 0;
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

static void *client(void *unused)
{
    struct tls_ticket *ticket = NULL;
    for (;;) {
        char answer[ANSWER_BYTES_MAX];
        bool resuming = ticket != NULL;
        uint64_t began = now_ns();
        struct stream stream = stream_open(options.port, options.tls, ticket);
        bool resumed = options.tls && tls_was_resumed(stream.tls);
        if (options.resume)
            tls_keep_tickets_in(stream.tls, &ticket);
        stream_upgrade(&stream, options.port, "", answer);
        uint64_t took = now_ns() - began;

        pthread_mutex_lock(&lock);
        if (phase == MEASURING)
            durations_add(&handshakes, took);
        if (options.tls && negotiated[0] == '\0')
            snprintf(negotiated, sizeof negotiated, "%s %s", tls_version(stream.tls), tls_cipher(stream.tls));
        bool stopping = phase == STOPPING;
        pthread_mutex_unlock(&lock);
        close_both_ways(&stream);
        if (resuming && !resumed) {
            fprintf(stderr, "handshakes: the server did not resume a session\n");
            _exit(1);
        }
        if (options.resume && ticket == NULL) {
            fprintf(stderr, "handshakes: the server sent no ticket\n");
            _exit(1);
        }
        if (stopping)
            return unused;
    }
}

static void read_options(int argc, char **argv)
{
    enum { PORT = 1, TLS, RESUME, CLIENTS, SECONDS, WARM_UP, SERVER_PID };
    static const struct option names[] = {
        {"port", required_argument, NULL, PORT},
        {"tls", no_argument, NULL, TLS},
        {"resume", no_argument, NULL, RESUME},
        {"clients", required_argument, NULL, CLIENTS},
        {"seconds", required_argument, NULL, SECONDS},
        {"warm-up", required_argument, NULL, WARM_UP},
        {"server-pid", required_argument, NULL, SERVER_PID},
        {NULL, 0, NULL, 0}
    };
    int name;
    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (name) {
        case PORT: options.port = (uint16_t)number(optarg, 1, 65535); break;
        case TLS: options.tls = true; break;
        case RESUME: options.tls = options.resume = true; break;
        case CLIENTS: options.clients = (uint32_t)number(optarg, 1, CLIENTS_MAX); break;
        case SECONDS: options.seconds = number(optarg, 0.01, 3600); break;
        case WARM_UP: options.warm_up_seconds = number(optarg, 0, 3600); break;
        case SERVER_PID: options.server_pid = (pid_t)number(optarg, 1, 1 << 30); break;
        default: exit(1);
        }
    }
    if (options.port == 0 || optind != argc) {
        fprintf(stderr, "usage: handshakes --port P [--tls] [--resume] [--clients N] [--seconds S] [--warm-up S]\n"
                        "                  [--server-pid PID]\n");
        exit(1);
    }
}
