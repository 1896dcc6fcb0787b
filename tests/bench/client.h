/* What the load generators share: the way to a server, plain or by TLS, and the clocks.
 *
 * Each program includes this file once, so everything is `static inline`; what goes wrong here ends the program. */
#ifndef FULLDUPLEX_BENCH_CLIENT_H
#define FULLDUPLEX_BENCH_CLIENT_H

#include "tls.h"
#include "websocket.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    SILENCE_MS_MAX = 5000,          /* a server that says nothing for so long has lost our messages */
    ANSWER_BYTES_MAX = 4096,
    OPENED_AT_ONCE = 64             /* a server that sleeps a while in each turn would make thousands take long */
};

struct stream {
    int fd;
    struct tls_session *tls;        /* NULL: plain TCP */
};

static inline void die(const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    _exit(1);       /* other threads may be using what exit() would free */
}

/* Blocking, with a limit to each wait. `resumed` is what `tls_ticket` gave, or NULL for a full handshake. */
static inline struct stream stream_open(uint16_t port, bool with_tls, const struct tls_ticket *resumed)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct stream stream = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (stream.fd < 0 || connect(stream.fd, (struct sockaddr *)&at, sizeof at) < 0)
        die("connect");
    setsockopt(stream.fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(stream.fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){SILENCE_MS_MAX / 1000, 0}, sizeof(struct timeval));
    if (with_tls && (stream.tls = tls_connect(stream.fd, resumed)) == NULL)
        die("the TLS handshake");
    return stream;
}

/* As recv does: 0 at the end, -1 with errno. */
static inline ssize_t stream_receive(struct stream *stream, void *bytes, size_t len)
{
    return stream->tls == NULL ? recv(stream->fd, bytes, len, 0) : tls_receive(stream->tls, bytes, len);
}

static inline ssize_t stream_send(struct stream *stream, const void *bytes, size_t len)
{
    return stream->tls == NULL ? send(stream->fd, bytes, len, MSG_NOSIGNAL) : tls_send(stream->tls, bytes, len);
}

static inline void stream_close(struct stream *stream)
{
    if (stream->tls != NULL)
        tls_free(stream->tls);
    close(stream->fd);
    *stream = (struct stream){.fd = -1};
}

/* An upgrade that was asked for. */
struct upgrade {
    char accept_line[WS_ACCEPT_BYTES + 5];      /* what the answer must hold */
};

static inline struct upgrade stream_ask_upgrade(struct stream *stream, uint16_t port, const char *more_headers)
{
    struct upgrade upgrade;
    uint8_t random[16];
    char key[WS_KEY_BYTES], accept[WS_ACCEPT_BYTES], request[512];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        die("getrandom");
    ws_base64(key, random, sizeof random);
    ws_accept_key(accept, key);
    snprintf(upgrade.accept_line, sizeof upgrade.accept_line, " %.*s\r\n", WS_ACCEPT_BYTES, accept);

    int request_bytes = snprintf(request, sizeof request,
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %.*s\r\n%s\r\n", port, WS_KEY_BYTES, key, more_headers);
    if (stream_send(stream, request, (size_t)request_bytes) != request_bytes)
        die("sending the request");
    return upgrade;
}

/* Waits for it; the head of the server's answer, which ends with a 0, goes to `answer`. */
static inline void stream_await_upgrade(struct stream *stream, const struct upgrade *upgrade, char answer[ANSWER_BYTES_MAX])
{
    size_t answer_bytes = 0;
    do {
        ssize_t count = stream_receive(stream, answer + answer_bytes, ANSWER_BYTES_MAX - 1 - answer_bytes);
        if (count <= 0)
            die("waiting for the answer to the request");
        answer_bytes += (size_t)count;
        answer[answer_bytes] = '\0';
    } while (strstr(answer, "\r\n\r\n") == NULL);
    if (strncmp(answer, "HTTP/1.1 101", 12) != 0 || strstr(answer, upgrade->accept_line) == NULL) {
        fprintf(stderr, "%s: the request was answered with:\n%s", program_invocation_short_name, answer);
        _exit(1);
    }
}

static inline uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* What a process has run so far. */
struct cpu {
    uint64_t ns;                            /* all its threads, ended ones too, up to this very moment */
    double user_seconds, system_seconds;    /* the same as the kernel divides it; coarser, it counts in ticks */
};

static inline struct cpu cpu_of(pid_t pid)
{
    char path[64], line[1024];
    unsigned long user_ticks, system_ticks;
    clockid_t clock;
    struct timespec time;
    if (pid == 0)
        return (struct cpu){0};
    /* Unlike /proc/PID/schedstat the clock does not wait for the next tick. */
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) != 0)
        die("reading a CPU clock");

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL || fgets(line, sizeof line, file) == NULL || strrchr(line, ')') == NULL
        || sscanf(strrchr(line, ')') + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                  &user_ticks, &system_ticks) != 2)
        die(path);
    fclose(file);
    double ticks_per_second = (double)sysconf(_SC_CLK_TCK);
    return (struct cpu){
        .ns = (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec,
        .user_seconds = (double)user_ticks / ticks_per_second,
        .system_seconds = (double)system_ticks / ticks_per_second,
    };
}

struct cpus {
    struct cpu server, load;
};

static inline struct cpus cpus_now(pid_t server)
{
    return (struct cpus){cpu_of(server), cpu_of(getpid())};
}

/* The members of a JSON object that say what one of `count` cost between `before` and `after`. */
static inline void print_cpus(const struct cpus *before, const struct cpus *after, uint64_t count)
{
    double us_each = count > 0 ? 1e6 / (double)count : 0;
    printf("\"server_cpu_us\": %.4f, \"server_user_us\": %.4f, \"server_system_us\": %.4f, \"load_cpu_us\": %.4f",
           (double)(after->server.ns - before->server.ns) / 1e9 * us_each,
           (after->server.user_seconds - before->server.user_seconds) * us_each,
           (after->server.system_seconds - before->server.system_seconds) * us_each,
           (double)(after->load.ns - before->load.ns) / 1e9 * us_each);
}

/* Durations, 64 linear steps for each power of two of nanoseconds, so a step is at most 1.6 %. */
enum { STEPS_LOG2 = 6, STEPS = 1 << STEPS_LOG2, BUCKETS = (64 - STEPS_LOG2 + 1) * STEPS };

struct durations {
    uint64_t count, buckets[BUCKETS];
};

static inline void durations_add(struct durations *durations, uint64_t ns)
{
    int shift = ns < STEPS ? 0 : 63 - __builtin_clzll(ns) - STEPS_LOG2;
    durations->buckets[(size_t)shift * STEPS + (ns >> shift)]++;
    durations->count++;
}

static inline double bucket_us(size_t bucket)
{
    size_t shift = bucket < 2 * STEPS ? 0 : bucket / STEPS - 1;
    return (double)((bucket - shift * STEPS) << shift) / 1e3;
}

static inline double durations_us(const struct durations *durations, double quantile)
{
    uint64_t wanted = (uint64_t)((double)durations->count * quantile), seen = 0;
    for (size_t i = 0; i < BUCKETS; i++) {
        seen += durations->buckets[i];
        if (seen > wanted)
            return bucket_us(i);
    }
    return 0;
}

/* The members of a JSON object for durations; with `all_of_them` every step that has any, so that slices can be put together. */
static inline void print_durations(const struct durations *durations, bool all_of_them)
{
    const char *comma = "";
    printf("\"p50_us\": %.1f, \"p99_us\": %.1f, \"p99_9_us\": %.1f, ", durations_us(durations, 0.5),
           durations_us(durations, 0.99), durations_us(durations, 0.999));
    if (!all_of_them)
        return;
    printf("\"durations\": [");
    for (size_t i = 0; i < BUCKETS; i++)
        if (durations->buckets[i] > 0) {
            printf("%s[%.3f, %llu]", comma, bucket_us(i), (unsigned long long)durations->buckets[i]);
            comma = ", ";
        }
    printf("], ");
}

/* What is measured at a time: a window, after a warm-up. */
struct slice {
    double warm_up_seconds, seconds;
};

/* With --slices a load generator keeps its connections and measures one slice for each line of stdin, "WARM_UP SECONDS",
 * until stdin ends; it says "ready" when its connections stand, and prints a line for each slice. */
static inline void say_ready(void)
{
    printf("ready\n");
    fflush(stdout);
}

/* False: that was the last one. */
static inline bool next_slice(struct slice *slice)
{
    char line[128];
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        return false;
    if (sscanf(line, "%lf %lf", &slice->warm_up_seconds, &slice->seconds) != 2) {
        fprintf(stderr, "%s: want \"WARM_UP SECONDS\", not %s\n", program_invocation_short_name, line);
        exit(1);
    }
    return true;
}

/* The value of an option. */
static inline double number(const char *text, double min, double max)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || value < min || value > max) {
        fprintf(stderr, "%s: %s: want a number from %g to %g\n", program_invocation_short_name, text, min, max);
        exit(1);
    }
    return value;
}

#endif
