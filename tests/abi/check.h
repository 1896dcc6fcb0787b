/* What the ABI tests share: CHECK, a host that records every event of a server, and a
 * small blocking client over a raw socket that speaks RFC 6455 and can misbehave.
 *
 * Everything here compiles as C99 and as C++11. A test is a function whose name is the
 * sentence it proves; main() proves one after the other, a failure ends the program. */
#ifndef ABI_CHECK_H
#define ABI_CHECK_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <fullduplex.h>

/* -- checking ------------------------------------------------------------------------- */

#define CHECK(condition) \
    do { if (!(condition)) check_failed(__FILE__, __LINE__, #condition); } while (0)

/* CHECK_STATUS(FDX_OK, fdx_send(...)): shows both names when they differ. Every call made through
 * it is also watched: no callback may run on its stack. */
#define CHECK_STATUS(expected, call) check_status(__FILE__, __LINE__, #call, (expected), CALL(call))

/* One of several statuses, where the contract leaves a choice. */
#define CHECK_ANY2(a, b, call) check_any(__FILE__, __LINE__, #call, (a), (b), (b), CALL(call))
#define CHECK_ANY3(a, b, c, call) check_any(__FILE__, __LINE__, #call, (a), (b), (c), CALL(call))

/* Runs a call with the mark set that says "this thread is inside the library now". */
#define CALL(call) (library_depth++, call_status = (call), library_depth--, call_status)

#define PROVE(sentence) prove(#sentence, sentence)

static __thread int library_depth;      /* > 0: this thread is inside a call it made */
static __thread fdx_status call_status;
static const char *current_test = "(no test)";

static inline void check_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: in %s: not true: %s\n", file, line, current_test, what);
    fflush(stderr);
    _exit(1);
}

static inline void check_failed_status(const char *file, int line, const char *call, const char *expected, fdx_status got)
{
    fprintf(stderr, "%s:%d: in %s: expected %s but got %s (%d): %s\n", file, line, current_test, expected,
            fdx_status_name(got), (int)got, call);
    fflush(stderr);
    _exit(1);
}

static inline void check_status(const char *file, int line, const char *call, fdx_status expected, fdx_status got)
{
    if (got != expected)
        check_failed_status(file, line, call, fdx_status_name(expected), got);
}

static inline void check_any(const char *file, int line, const char *call, fdx_status a, fdx_status b, fdx_status c, fdx_status got)
{
    if (got != a && got != b && got != c)
        check_failed_status(file, line, call, fdx_status_name(a), got);
}

static inline void stuck(int signal_number)
{
    static const char message[] = "the test took too long: ";

    (void)signal_number;
    if (write(2, message, sizeof message - 1) < 0 || write(2, current_test, strlen(current_test)) < 0 || write(2, "\n", 1) < 0)
        _exit(3);
    _exit(2);
}

/* Under valgrind everything is 20 times slower: the runner says so, counts shrink and waits grow. */
static inline int runs_slowly(void)
{
    return getenv("ABI_SLOW") != NULL;
}

static inline unsigned times(unsigned full, unsigned slow)
{
    return runs_slowly() ? slow : full;
}

static inline void prove(const char *sentence, void (*test)(void))
{
    const char *only = getenv("ABI_ONLY");   /* a part of a name: to look at one failure */

    if (only && !strstr(sentence, only))
        return;
    current_test = sentence;
    signal(SIGALRM, stuck);
    alarm(runs_slowly() ? 240 : 60);
    test();
    alarm(0);
    printf("%s\n", sentence);
    fflush(stdout);
}

static inline int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static inline void sleep_ms(long ms)
{
    struct timespec pause;

    pause.tv_sec = ms / 1000;
    pause.tv_nsec = ms % 1000 * 1000000;
    nanosleep(&pause, NULL);
}

/* Waits up to 10 s for a condition that another thread makes true. */
#define CHECK_SOON(condition)                                            \
    do {                                                                 \
        int64_t check_until = now_ms() + (runs_slowly() ? 60000 : 10000); \
        while (!(condition) && now_ms() < check_until)                   \
            sleep_ms(2);                                                 \
        CHECK(condition);                                                \
    } while (0)

/* -- counters shared by threads ------------------------------------------------------- */

typedef struct counter { unsigned value; } counter;

static inline void counter_add(counter *c)
{
    __atomic_add_fetch(&c->value, 1, __ATOMIC_SEQ_CST);
}

static inline unsigned counter_get(const counter *c)
{
    return __atomic_load_n(&c->value, __ATOMIC_SEQ_CST);
}

/* An fdx_drop_fn that counts. */
static inline void count_drop(void *user_data)
{
    counter_add((counter *)user_data);
}

/* -- the host: a server whose events are all recorded and checked ------------------------ */

#define ON_UPGRADE 0x01u
#define ON_OPEN    0x02u
#define ON_MESSAGE 0x04u
#define ON_CLOSE   0x08u
#define ON_DRAIN   0x10u
#define ON_OTHER   0x20u
#define ON_ALL     0x3fu
#define ON_USUAL   (ON_OPEN | ON_MESSAGE | ON_CLOSE | ON_DRAIN | ON_OTHER)

typedef struct seen {                   /* a copy of one event */
    uint16_t type;
    uint32_t flags, route;
    int32_t code;
    fdx_conn conn;
    void *conn_data;
    uint64_t arg, time_us;
    size_t len;
    char data[160];                     /* the beginning, NUL-ended */
} seen;

struct host;
typedef void (*host_hook)(struct host *, const fdx_event *);

typedef struct host {
    fdx_server *server;
    uint16_t port;
    host_hook hook;                     /* called for every event, after it was recorded */
    void *user;                         /* for the hook */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    seen *events;
    size_t count, room;
    counter dropped;                    /* how often the handlers' drop was called */
} host;

static inline fdx_error new_error(void)
{
    fdx_error error;

    memset(&error, 0, sizeof error);
    error.struct_size = sizeof error;
    return error;
}

static inline fdx_conn_info new_conn_info(void)
{
    fdx_conn_info info;

    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    return info;
}

static inline fdx_stats new_stats(void)
{
    fdx_stats stats;

    memset(&stats, 0, sizeof stats);
    stats.struct_size = sizeof stats;
    return stats;
}

/* Is this an event of a connection's life, from OPEN to CLOSE? */
static inline int is_of_open_life(uint16_t type)
{
    return type == FDX_EV_OPEN || type == FDX_EV_MESSAGE || type == FDX_EV_FRAGMENT || type == FDX_EV_DRAIN ||
           type == FDX_EV_CLOSE || type == FDX_EV_PING || type == FDX_EV_PONG;
}

/* Records the event; then the promises that hold for every event in every test are checked. */
static inline void host_record(void *user_data, fdx_server *server, const fdx_event *event)
{
    host *h = (host *)user_data;
    seen *s;

    CHECK(library_depth == 0);          /* R3: no callback runs on the stack of a call */
    CHECK(event->struct_size >= 64 || sizeof(void *) != 8);
    CHECK(event->data != NULL || event->len == 0);
    CHECK(counter_get(&h->dropped) == 0);
    pthread_mutex_lock(&h->lock);
    if (h->server)
        CHECK(h->server == server);
    if (h->count == h->room) {
        h->room = h->room ? 2 * h->room : 64;
        h->events = (seen *)realloc(h->events, h->room * sizeof *h->events);
        CHECK(h->events != NULL);
    }
    s = &h->events[h->count++];
    memset(s, 0, sizeof *s);
    s->type = event->type;
    s->flags = event->flags;
    s->route = event->route;
    s->code = event->code;
    s->conn = event->conn;
    s->conn_data = event->conn_data;
    s->arg = event->arg;
    s->time_us = event->time_us;
    s->len = event->len;
    if (event->len)
        memcpy(s->data, event->data, event->len < sizeof s->data ? event->len : sizeof s->data - 1);
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    if (h->hook)
        h->hook(h, event);
}

static inline void host_upgrade(void *user_data, fdx_server *server, const fdx_event *event)
{
    CHECK(event->type == FDX_EV_UPGRADE && event->conn != 0);
    host_record(user_data, server, event);
}

static inline void host_open(void *user_data, fdx_server *server, const fdx_event *event)
{
    CHECK(event->type == FDX_EV_OPEN && event->conn != 0 && event->conn < (uint64_t)1 << 53);
    host_record(user_data, server, event);
}

static inline void host_message(void *user_data, fdx_server *server, const fdx_event *event)
{
    CHECK((event->type == FDX_EV_MESSAGE || event->type == FDX_EV_FRAGMENT) && event->conn != 0);
    host_record(user_data, server, event);
}

static inline void host_close(void *user_data, fdx_server *server, const fdx_event *event)
{
    CHECK(event->type == FDX_EV_CLOSE && event->conn != 0);
    CHECK(event->arg >= FDX_CLOSED_BY_PEER && event->arg <= FDX_CLOSED_BY_SHUTDOWN);
    host_record(user_data, server, event);
}

static inline void host_drain(void *user_data, fdx_server *server, const fdx_event *event)
{
    CHECK(event->type == FDX_EV_DRAIN && event->conn != 0);
    host_record(user_data, server, event);
}

static inline void host_other(void *user_data, fdx_server *server, const fdx_event *event)
{
    CHECK(event->type > FDX_EV_CLOSE);
    host_record(user_data, server, event);
}

static inline void host_dropped(void *user_data)
{
    counter_add(&((host *)user_data)->dropped);
}

static inline fdx_handlers host_handlers(host *h, unsigned slots)
{
    fdx_handlers handlers;

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    handlers.user_data = h;
    handlers.on_upgrade = slots & ON_UPGRADE ? host_upgrade : NULL;
    handlers.on_open = slots & ON_OPEN ? host_open : NULL;
    handlers.on_message = slots & ON_MESSAGE ? host_message : NULL;
    handlers.on_close = slots & ON_CLOSE ? host_close : NULL;
    handlers.on_drain = slots & ON_DRAIN ? host_drain : NULL;
    handlers.on_other = slots & ON_OTHER ? host_other : NULL;
    return handlers;
}

/* A configuration from "key = value" lines, listening on a free port of the loopback unless they say where. */
static inline fdx_config *new_config(const char *settings)
{
    fdx_config *config = fdx_config_new();
    fdx_error error = new_error();

    CHECK(config != NULL);
    if (!settings || !strstr(settings, "listen"))
        CHECK_STATUS(FDX_OK, fdx_config_set(config, "listen", "127.0.0.1:0", &error));
    if (settings && fdx_config_load(config, settings, FDX_NTS, &error) != FDX_OK)
        check_failed(__FILE__, __LINE__, error.message);
    return config;
}

/* A server, not started, that has a route and hears nothing. */
static inline fdx_server *new_server(fdx_config *config)
{
    fdx_handlers handlers;
    fdx_error error = new_error();
    fdx_server *server = NULL;

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    if (fdx_config_route(config, "/" "*", 0, &handlers, &error) != FDX_OK ||
        fdx_server_new(config, &server, &error) != FDX_OK)
        check_failed(__FILE__, __LINE__, error.message);
    return server;
}

/* Memory and locks only; the test makes the server itself. */
static inline host *host_new(host_hook hook, void *user)
{
    host *h = (host *)calloc(1, sizeof *h);

    CHECK(h != NULL);
    h->hook = hook;
    h->user = user;
    CHECK(pthread_mutex_init(&h->lock, NULL) == 0 && pthread_cond_init(&h->changed, NULL) == 0);
    return h;
}

static inline void host_set_server(host *h, fdx_server *server)
{
    pthread_mutex_lock(&h->lock);
    h->server = server;
    pthread_mutex_unlock(&h->lock);
}

/* A running server whose route 7, every path, records what happens. */
static inline host *host_start_with(const char *settings, unsigned slots, uint32_t route_flags, host_hook hook, void *user)
{
    host *h = host_new(hook, user);
    fdx_config *config = new_config(settings);
    fdx_handlers handlers = host_handlers(h, slots);
    fdx_error error = new_error();
    fdx_server *server = NULL;

    handlers.flags = route_flags;
    handlers.drop = host_dropped;
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/" "*", 7, &handlers, &error));
    if (fdx_server_new(config, &server, &error) != FDX_OK)
        check_failed(__FILE__, __LINE__, error.message);
    fdx_config_free(config);
    host_set_server(h, server);
    library_depth++;
    if (fdx_server_start(server, &error) != FDX_OK)
        check_failed(__FILE__, __LINE__, error.message);
    library_depth--;
    CHECK_STATUS(FDX_OK, fdx_listener_port(server, 0, &h->port));
    CHECK(h->port != 0);
    return h;
}

static inline host *host_start(const char *settings, unsigned slots, host_hook hook, void *user)
{
    return host_start_with(settings, slots, 0, hook, user);
}

/* Waits until the nth event (from 1) of this type was recorded, and gives a copy of it. */
static inline seen host_await(host *h, uint16_t type, size_t nth)
{
    seen found;
    struct timespec deadline;
    size_t i = 0, of_type = 0;

    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += runs_slowly() ? 60 : 10;
    pthread_mutex_lock(&h->lock);
    for (;;) {
        for (; i < h->count; i++)
            if (h->events[i].type == type && ++of_type == nth)
                break;
        if (i < h->count)
            break;
        if (pthread_cond_timedwait(&h->changed, &h->lock, &deadline) == ETIMEDOUT) {
            fprintf(stderr, "in %s: event %u number %u did not come; of %u events the last were:\n", current_test,
                    (unsigned)type, (unsigned)nth, (unsigned)h->count);
            for (i = h->count > 8 ? h->count - 8 : 0; i < h->count; i++)
                fprintf(stderr, "  type %u conn %llx code %d arg %llu len %u \"%.40s\"\n", (unsigned)h->events[i].type,
                        (unsigned long long)h->events[i].conn, (int)h->events[i].code,
                        (unsigned long long)h->events[i].arg, (unsigned)h->events[i].len, h->events[i].data);
            check_failed(__FILE__, __LINE__, "the event came");
        }
    }
    found = h->events[i];
    pthread_mutex_unlock(&h->lock);
    return found;
}

static inline size_t host_count(host *h, uint16_t type)
{
    size_t i, count = 0;

    pthread_mutex_lock(&h->lock);
    for (i = 0; i < h->count; i++)
        count += h->events[i].type == type;
    pthread_mutex_unlock(&h->lock);
    return count;
}

/* What every test ends with: per connection UPGRADE? OPEN (…)* CLOSE, and nothing after it.
 * Only meaningful where OPEN and CLOSE were delivered and the server has stopped. */
static inline void host_check_lives(host *h)
{
    size_t i, j;

    for (i = 0; i < h->count; i++) {
        const seen *event = &h->events[i];
        size_t opens = 0, closes = 0;
        if (event->conn == 0 || !is_of_open_life(event->type))
            continue;
        if (event->type == FDX_EV_OPEN) {
            for (j = 0; j < h->count; j++) {
                if (h->events[j].conn != event->conn)
                    continue;
                opens += h->events[j].type == FDX_EV_OPEN;
                closes += h->events[j].type == FDX_EV_CLOSE;
                if (is_of_open_life(h->events[j].type) && h->events[j].type != FDX_EV_OPEN)
                    CHECK(opens == 1);
                if (is_of_open_life(h->events[j].type) && h->events[j].type != FDX_EV_CLOSE)
                    CHECK(closes == 0);
            }
            CHECK(opens == 1 && closes == 1);
        } else if (event->type == FDX_EV_CLOSE) {
            for (j = 0; j < i && !(h->events[j].conn == event->conn && h->events[j].type == FDX_EV_OPEN); j++)
                continue;
            CHECK(j < i);
        }
    }
}

static inline void host_free(host *h)
{
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->changed);
    free(h->events);
    free(h);
}

/* After fdx_server_stop, or when nobody has called it yet: waits for the end and checks the books. */
static inline void host_end_with(host *h, int check_lives)
{
    CHECK_ANY3(FDX_OK, FDX_ALREADY, FDX_E_STOPPED, fdx_server_stop(h->server, 1001, "the test ends", FDX_NTS, 0, 1000));
    CHECK_STATUS(FDX_OK, fdx_server_wait(h->server, 30000));
    fdx_server_unref(h->server);
    CHECK_SOON(counter_get(&h->dropped) == 1);
    if (check_lives)
        host_check_lives(h);
    host_free(h);
}

static inline void host_end(host *h)
{
    host_end_with(h, 1);
}

/* -- the client ------------------------------------------------------------------------- */

#define OP_CONTINUATION 0x0
#define OP_TEXT         0x1
#define OP_BINARY       0x2
#define OP_CLOSE        0x8
#define OP_PING         0x9
#define OP_PONG         0xa

typedef struct client {
    int fd;
    char head[4096];                    /* the answer's head, or all of it if it is no upgrade */
    unsigned char *payload;             /* of the last frame, NUL-ended */
    size_t payload_len, payload_room;
    int opcode;                         /* of the last frame, or -1: the connection has ended */
    int fin;
} client;

/* "If connect() is interrupted by a signal … the connection shall be established asynchronously" (POSIX). */
static inline int connects(int fd, const struct sockaddr *address, socklen_t address_len)
{
    struct pollfd soon;
    int error = 0;
    socklen_t len = sizeof error;

    if (connect(fd, address, address_len) == 0)
        return 1;
    if (errno != EINTR)
        return 0;
    soon.fd = fd;
    soon.events = POLLOUT;
    while (poll(&soon, 1, -1) < 0)
        CHECK(errno == EINTR);
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == 0;
}

/* Its fd is -1 if nobody listens there. */
static inline client client_dial_at(const struct sockaddr *address, socklen_t address_len, int receive_buffer)
{
    client c;
    struct timeval limit;
    int one = 1;

    memset(&c, 0, sizeof c);
    c.fd = socket(address->sa_family, SOCK_STREAM, 0);
    CHECK(c.fd >= 0);
    limit.tv_sec = runs_slowly() ? 60 : 10;
    limit.tv_usec = 0;
    setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (address->sa_family != AF_UNIX)
        setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (receive_buffer)
        setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    if (!connects(c.fd, address, address_len)) {
        close(c.fd);
        c.fd = -1;
    }
    return c;
}

static inline client client_dial_with(uint16_t port, int receive_buffer)
{
    struct sockaddr_in address;

    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return client_dial_at((struct sockaddr *)&address, sizeof address, receive_buffer);
}

static inline client client_dial(uint16_t port)
{
    client c = client_dial_with(port, 0);

    CHECK(c.fd >= 0);
    return c;
}

/* Gives 0 if the peer is gone, which a test may want. */
static inline int client_try_write(client *c, const void *data, size_t len)
{
    const char *next = (const char *)data;

    while (len) {
        ssize_t sent = send(c->fd, next, len, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return 0;
        next += sent;
        len -= (size_t)sent;
    }
    return 1;
}

static inline void client_write(client *c, const void *data, size_t len)
{
    CHECK(client_try_write(c, data, len));
}

/* Reads exactly len bytes: 1, or 0 if the connection ended before. Silence for 10 s fails the test. */
static inline int client_read_exactly(client *c, void *data, size_t len)
{
    char *next = (char *)data;

    while (len) {
        ssize_t got = recv(c->fd, next, len, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            check_failed(__FILE__, __LINE__, "the server sent something in time");
        if (got <= 0)
            return 0;
        next += got;
        len -= (size_t)got;
    }
    return 1;
}

/* Reads an answer's head, byte by byte as frames may follow. Gives its status, or 0 if none came. */
static inline int client_read_head(client *c)
{
    size_t len = 0;

    memset(c->head, 0, sizeof c->head);
    while (len < sizeof c->head - 1) {
        if (!client_read_exactly(c, c->head + len, 1))
            return 0;
        len++;
        if (len >= 4 && memcmp(c->head + len - 4, "\r\n\r\n", 4) == 0)
            break;
    }
    CHECK(strncmp(c->head, "HTTP/1.1 ", 9) == 0);
    return atoi(c->head + 9);
}

/* Reads what follows the head until the connection ends or Content-Length is reached; NUL-ended in payload. */
static inline void client_read_body(client *c)
{
    const char *length = strstr(c->head, "ontent-Length: ");
    size_t expected;

    if (!length)
        length = strstr(c->head, "ontent-length: ");
    CHECK(length != NULL);
    expected = (size_t)atol(length + 15);
    if (c->payload_room < expected + 1) {
        c->payload = (unsigned char *)realloc(c->payload, expected + 1);
        CHECK(c->payload != NULL);
        c->payload_room = expected + 1;
    }
    CHECK(client_read_exactly(c, c->payload, expected));
    c->payload[expected] = '\0';
    c->payload_len = expected;
}

/* Sends an upgrade request of RFC 6455; extra headers end with CR LF each. */
static inline void client_ask(client *c, const char *target, const char *extra_headers)
{
    char request[4096];
    int len = snprintf(request, sizeof request,
                       "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                       target, extra_headers ? extra_headers : "");

    CHECK(len > 0 && (size_t)len < sizeof request);
    client_write(c, request, (size_t)len);
}

static inline int client_upgrade(client *c, const char *target, const char *extra_headers)
{
    int status;

    client_ask(c, target, extra_headers);
    status = client_read_head(c);
    if (status == 101)
        CHECK(strstr(c->head, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") != NULL);   /* RFC 6455, 1.3 */
    return status;
}

static inline client client_open(uint16_t port)
{
    client c = client_dial(port);

    CHECK(client_upgrade(&c, "/", NULL) == 101);
    return c;
}

/* One frame: flags_and_opcode is the whole first byte, so that a test may set what is reserved. */
static inline int client_try_frame(client *c, int flags_and_opcode, const void *data, size_t len, int masked)
{
    static const unsigned char mask[4] = { 0x12, 0x34, 0x56, 0x78 };
    const unsigned char *bytes = (const unsigned char *)data;
    unsigned char *frame = (unsigned char *)malloc(len + 14);
    size_t at = 0, i;
    int done;

    CHECK(frame != NULL);
    frame[at++] = (unsigned char)flags_and_opcode;
    if (len < 126) {
        frame[at++] = (unsigned char)len;
    } else if (len < 65536) {
        frame[at++] = 126;
        frame[at++] = (unsigned char)(len >> 8);
        frame[at++] = (unsigned char)len;
    } else {
        frame[at++] = 127;
        for (i = 0; i < 8; i++)
            frame[at++] = (unsigned char)((uint64_t)len >> (56 - 8 * i));
    }
    if (masked) {
        frame[1] |= 0x80;
        memcpy(frame + at, mask, 4);
        at += 4;
    }
    for (i = 0; i < len; i++)
        frame[at++] = (unsigned char)(masked ? bytes[i] ^ mask[i % 4] : bytes[i]);
    done = client_try_write(c, frame, at);
    free(frame);
    return done;
}

static inline void client_send(client *c, int opcode, const void *data, size_t len)
{
    CHECK(client_try_frame(c, 0x80 | opcode, data, len, 1));
}

static inline void client_say(client *c, const char *text)
{
    client_send(c, OP_TEXT, text, strlen(text));
}

static inline void client_send_close(client *c, int code, const char *reason)
{
    char payload[125];
    size_t len = strlen(reason);

    CHECK(len <= sizeof payload - 2);
    payload[0] = (char)(code >> 8);
    payload[1] = (char)code;
    memcpy(payload + 2, reason, len);
    client_send(c, OP_CLOSE, payload, len + 2);
}

/* Reads one frame into opcode, fin and payload; opcode is -1 if the connection has ended. */
static inline int client_read(client *c)
{
    unsigned char head[10];
    uint64_t len;
    int i;

    c->opcode = -1;
    c->payload_len = 0;
    if (!client_read_exactly(c, head, 2))
        return -1;
    CHECK((head[0] & 0x70) == 0);       /* nothing reserved is set */
    CHECK((head[1] & 0x80) == 0);       /* a server does not mask */
    len = head[1];
    if (len == 126) {
        if (!client_read_exactly(c, head + 2, 2))
            return -1;
        len = (uint64_t)head[2] << 8 | head[3];
        CHECK(len >= 126);
    } else if (len == 127) {
        if (!client_read_exactly(c, head + 2, 8))
            return -1;
        for (len = 0, i = 2; i < 10; i++)
            len = len << 8 | head[i];
        CHECK(len >= 65536 && len < (uint64_t)1 << 32);
    }
    if (c->payload_room < len + 1) {
        c->payload = (unsigned char *)realloc(c->payload, (size_t)len + 1);
        CHECK(c->payload != NULL);
        c->payload_room = (size_t)len + 1;
    }
    if (!client_read_exactly(c, c->payload, (size_t)len))
        return -1;
    c->payload[len] = '\0';
    c->payload_len = (size_t)len;
    c->fin = head[0] >> 7;
    c->opcode = head[0] & 0x0f;
    return c->opcode;
}

static inline void client_expect_at(const char *file, int line, client *c, int opcode, const void *data, size_t len)
{
    int got = client_read(c);

    if (got != opcode || c->payload_len != len || (len && memcmp(c->payload, data, len) != 0)) {
        fprintf(stderr, "%s:%d: in %s: expected opcode %d with %u bytes \"%.*s\" but got opcode %d with %u bytes \"%.60s\"\n",
                file, line, current_test, opcode, (unsigned)len, len < 60 ? (int)len : 60, (const char *)data, got,
                (unsigned)c->payload_len, c->payload ? (const char *)c->payload : "");
        fflush(stderr);
        _exit(1);
    }
}

#define CLIENT_EXPECT(c, opcode, data, len) client_expect_at(__FILE__, __LINE__, (c), (opcode), (data), (len))
#define CLIENT_EXPECT_TEXT(c, text) client_expect_at(__FILE__, __LINE__, (c), OP_TEXT, (text), strlen(text))
#define CLIENT_EXPECT_END(c) client_expect_end_at(__FILE__, __LINE__, (c))
/* Code 0: a close frame without a code. */
#define CLIENT_EXPECT_CLOSE(c, code, reason) client_expect_close_at(__FILE__, __LINE__, (c), (code), (reason))

static inline void client_expect_end_at(const char *file, int line, client *c)
{
    client_expect_at(file, line, c, -1, "", 0);
}

static inline int client_close_code(const client *c)
{
    return c->payload_len >= 2 ? c->payload[0] << 8 | c->payload[1] : 0;
}

static inline void client_expect_close_at(const char *file, int line, client *c, int code, const char *reason)
{
    char payload[125];
    size_t len = 0;

    if (code) {
        payload[0] = (char)(code >> 8);
        payload[1] = (char)code;
        memcpy(payload + 2, reason, strlen(reason));
        len = 2 + strlen(reason);
    }
    client_expect_at(file, line, c, OP_CLOSE, payload, len);
}

static inline void client_drop(client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    free(c->payload);
    c->payload = NULL;
    c->payload_room = 0;
}

/* Ends with a TCP reset instead of a FIN. */
static inline void client_reset(client *c)
{
    struct linger linger;

    linger.l_onoff = 1;
    linger.l_linger = 0;
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    client_drop(c);
}

/* The polite end: close, the server's answer, the end of TCP. */
static inline void client_leave(client *c)
{
    client_send_close(c, 1000, "");
    while (client_read(c) != OP_CLOSE)
        CHECK(c->opcode != -1);
    CHECK(client_close_code(c) == 1000);
    CLIENT_EXPECT_END(c);
    client_drop(c);
}

/* Is nothing to be read for a while? */
static inline int client_hears_nothing(client *c, int ms)
{
    struct pollfd wait;

    wait.fd = c->fd;
    wait.events = POLLIN;
    wait.revents = 0;
    return poll(&wait, 1, ms) == 0;
}

/* -- the process ------------------------------------------------------------------------- */

static inline unsigned entries_of(const char *directory)
{
    DIR *dir = opendir(directory);
    unsigned count = 0;

    CHECK(dir != NULL);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static inline unsigned open_files(void)
{
    return entries_of("/proc/self/fd");
}

static inline unsigned running_threads(void)
{
    return entries_of("/proc/self/task");
}

#endif
