/* The floor: the cheapest honest echo server on this machine, to measure ours against.
 *
 * A bare epoll loop that receives, unmasks and sends, and checks nothing: no UTF-8, no limits worth the name,
 * no timers, no queue beyond one reply. What it keeps is what a server cannot do without: messages are echoed
 * when they are whole, frames and sends may come apart anywhere, and a slow reader is waited for.
 *
 *     floor [--listen 127.0.0.1:0]
 *
 * What makes it cheap:
 * - edge-triggered epoll for both directions, set once: no epoll_ctl after accept;
 * - a recv that came back short has emptied the socket, so there is no second one to see EAGAIN;
 * - all small frames use one arena, which stays in cache; a connection with large ones keeps memory of its own,
 *   received straight into, unmasked chunk by chunk while the bytes are hot, and sent from;
 * - replies are made in place: a server's head is four bytes shorter than a client's;
 * - one send for all the frames of one recv. */
#define _GNU_SOURCE
#include "websocket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    RECEIVE_BYTES_MAX = 72 * 1024,              /* more at once leaves the cache before it is unmasked */
    EVENTS_PER_WAIT_MAX = 1024,
    ROOM_BYTES_MIN = 4096,
    LARGE_FRAME_BYTES = 16 * 1024,              /* from here on a connection keeps its own memory */
    FRAME_BYTES_MAX = 64 * 1024 * 1024          /* over this, the connection is dropped */
};

struct connection {
    bool live, upgraded, large;
    bool readable;                  /* the kernel said so, and no recv came back short since */
    bool ended;                     /* the peer's FIN is here: read on to the 0, no edge will tell of it again */
    bool closing;                   /* both Close frames have been seen: drop when the reply is sent */

    /* Bytes lie in the arena while a frame is served and in `own` when they must wait. */
    uint8_t *own;
    size_t own_bytes;
    size_t reply_at, reply_end;     /* the reply the kernel has not taken yet; nothing is read meanwhile */
    size_t rest_at, rest_end;       /* what has arrived of the next frame (or request head), after the reply */
    size_t unmasked_bytes;          /* of the payload of that frame */
};

static int poller;
static struct connection *connections;          /* by descriptor */
static uint8_t arena[RECEIVE_BYTES_MAX];

static void stop(int signal_number);
static int listen_on(const char *address);
static void accept_all(int listener);
static void serve(int fd, uint32_t events);

int main(int argc, char **argv)
{
    const char *address = "127.0.0.1:0";
    if (argc == 3 && strcmp(argv[1], "--listen") == 0) {
        address = argv[2];
    } else if (argc != 1) {
        fprintf(stderr, "usage: floor [--listen 127.0.0.1:0]\n");
        return 1;
    }
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    signal(SIGPIPE, SIG_IGN);

    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    connections = calloc(files.rlim_cur, sizeof *connections);

    poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(address);
    if (connections == NULL || poller < 0 || listener < 0) {
        perror("floor");
        return 1;
    }
    for (;;) {
        struct epoll_event events[EVENTS_PER_WAIT_MAX];
        int count = epoll_wait(poller, events, EVENTS_PER_WAIT_MAX, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener)
                accept_all(listener);
            else
                serve(events[i].data.fd, events[i].events);
        }
    }
}

static void stop(int signal_number)
{
    (void)signal_number;
    _exit(0);
}

static int listen_on(const char *address)
{
    char host[64];
    unsigned port;
    struct sockaddr_in at = {.sin_family = AF_INET};
    if (sscanf(address, "%63[0-9.]:%u", host, &port) != 2 || inet_pton(AF_INET, host, &at.sin_addr) != 1) {
        errno = EINVAL;
        return -1;
    }
    at.sin_port = htons((uint16_t)port);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    socklen_t at_bytes = sizeof at;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, 4096) < 0
        || getsockname(listener, (struct sockaddr *)&at, &at_bytes) < 0
        || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &(struct epoll_event){EPOLLIN, {.fd = listener}}) < 0)
        return -1;
    printf("listening on %s:%d\n", host, ntohs(at.sin_port));
    fflush(stdout);
    return listener;
}

static void accept_all(int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        connections[fd] = (struct connection){.live = true};
        struct epoll_event interest = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.fd = fd}};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &interest);
    }
}

static bool flush(int fd, struct connection *conn, const uint8_t *memory);
static void make_room(struct connection *conn);
static bool upgrade(int fd, struct connection *conn, uint8_t *memory);
static bool reply(struct connection *conn, uint8_t *memory);
static void keep(struct connection *conn, const uint8_t *memory);
static void *allocated(void *memory);

static void drop(int fd)
{
    free(connections[fd].own);
    connections[fd].live = false;
    close(fd);
}

/* Everything one readiness allows: rounds of recv, unmask, send until a recv or a send comes back short. */
static void serve(int fd, uint32_t events)
{
    struct connection *conn = &connections[fd];
    if (!conn->live)
        return;
    conn->readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    conn->ended |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;

    if (conn->reply_at != conn->reply_end && !flush(fd, conn, conn->own))
        return;
    while (conn->readable) {
        bool in_arena = !conn->large && conn->rest_at == conn->rest_end;
        if (in_arena)
            conn->rest_at = conn->rest_end = 0;
        else
            make_room(conn);
        uint8_t *memory = in_arena ? arena : conn->own;
        size_t asked_bytes = in_arena ? RECEIVE_BYTES_MAX : conn->own_bytes - conn->rest_end;
        if (asked_bytes > RECEIVE_BYTES_MAX)
            asked_bytes = RECEIVE_BYTES_MAX;

        ssize_t count = recv(fd, memory + conn->rest_end, asked_bytes, 0);
        if (count <= 0) {
            if (count < 0 && errno == EAGAIN)
                conn->readable = false;
            else
                drop(fd);
            return;
        }
        conn->rest_end += (size_t)count;
        conn->readable = conn->ended || (size_t)count == asked_bytes;

        if (!conn->upgraded && !upgrade(fd, conn, memory)) {
            drop(fd);
            return;
        }
        if (conn->upgraded && !reply(conn, memory)) {
            drop(fd);
            return;
        }
        bool flushed = conn->reply_at == conn->reply_end || flush(fd, conn, memory);
        if (!conn->live)
            return;
        if (in_arena)
            keep(conn, memory);
        if (!flushed)
            return;
    }
}

/* Sends what there is of the reply. False if the kernel did not take all of it, or the connection is gone. */
static bool flush(int fd, struct connection *conn, const uint8_t *memory)
{
    while (conn->reply_at != conn->reply_end) {
        ssize_t count = send(fd, memory + conn->reply_at, conn->reply_end - conn->reply_at, MSG_NOSIGNAL);
        if (count < 0 && errno == EAGAIN)
            return false;
        if (count < 0) {
            drop(fd);
            return false;
        }
        conn->reply_at += (size_t)count;
    }
    if (conn->closing) {
        drop(fd);
        return false;
    }
    return true;
}

/* Turns the frames that have arrived whole into the reply, in place. False if the peer must go. */
static bool reply(struct connection *conn, uint8_t *memory)
{
    uint64_t payload_bytes;
    conn->reply_at = conn->reply_end = conn->rest_at;
    while (!conn->closing) {
        uint8_t *frame = memory + conn->rest_at;
        size_t arrived_bytes = conn->rest_end - conn->rest_at;
        size_t head_bytes = ws_read_head(frame, arrived_bytes, &payload_bytes);
        if (head_bytes == 0)
            return true;
        if (!(frame[1] & WS_MASKED) || payload_bytes > FRAME_BYTES_MAX)
            return false;

        uint8_t *payload = frame + head_bytes, *mask = payload - 4;
        bool is_whole = arrived_bytes >= head_bytes + payload_bytes;
        bool is_first = conn->reply_at == conn->reply_end;
        if (payload_bytes >= LARGE_FRAME_BYTES)
            conn->large = true;
        if (is_first) {
            /* Unmask what is there now, while it is in cache; in steps of 8 the mask needs no turning. */
            size_t end = is_whole ? payload_bytes : (arrived_bytes - head_bytes) & ~(size_t)7;
            ws_mask(payload + conn->unmasked_bytes, payload + conn->unmasked_bytes, end - conn->unmasked_bytes, mask);
            conn->unmasked_bytes = end;
        }
        if (!is_whole)
            return true;

        uint8_t opcode = frame[0] & WS_OPCODE;
        uint8_t first_byte = opcode == WS_PING ? WS_FIN | WS_PONG : frame[0] & (WS_FIN | WS_OPCODE);
        conn->closing = opcode == WS_CLOSE;
        conn->rest_at += head_bytes + payload_bytes;
        conn->unmasked_bytes = 0;
        if (opcode == WS_PONG)
            continue;
        if (is_first) {
            conn->reply_at = conn->reply_end = (size_t)(payload - memory) - ws_server_head_bytes(payload_bytes);
        } else {
            uint8_t mask_copy[4];       /* the moved payload may cover it */
            memcpy(mask_copy, mask, 4);
            ws_mask(memory + conn->reply_end + ws_server_head_bytes(payload_bytes), payload, payload_bytes, mask_copy);
        }
        conn->reply_end += ws_write_head(memory + conn->reply_end, first_byte, payload_bytes, 0) + payload_bytes;
    }
    return true;
}

/* The arena is for the next connection: what this one still needs moves to memory of its own. */
static void keep(struct connection *conn, const uint8_t *memory)
{
    bool replying = conn->reply_at != conn->reply_end;
    size_t from = replying ? conn->reply_at : conn->rest_at;
    size_t kept_bytes = conn->rest_end - from;
    if (conn->own_bytes < kept_bytes) {
        conn->own = allocated(realloc(conn->own, kept_bytes));
        conn->own_bytes = kept_bytes;
    }
    if (kept_bytes > 0)
        memcpy(conn->own, memory + from, kept_bytes);
    conn->reply_at = 0;
    conn->reply_end = replying ? conn->reply_end - from : 0;
    conn->rest_at -= from;
    conn->rest_end -= from;
}

/* Makes `own` large enough for the whole frame whose first bytes it holds. */
static void make_room(struct connection *conn)
{
    if (conn->rest_at == conn->rest_end)
        conn->rest_at = conn->rest_end = 0;
    size_t arrived_bytes = conn->rest_end - conn->rest_at, wanted_bytes = ROOM_BYTES_MIN;
    uint64_t payload_bytes;
    size_t head_bytes = ws_read_head(conn->own + conn->rest_at, arrived_bytes, &payload_bytes);
    /* A little more than the frame, or a recv that ends with it would look as if more were waiting. */
    if (conn->upgraded && head_bytes != 0)
        wanted_bytes += head_bytes + payload_bytes;

    if (conn->own_bytes - conn->rest_at >= wanted_bytes)
        return;
    if (conn->own_bytes < wanted_bytes) {
        conn->own = allocated(realloc(conn->own, wanted_bytes));
        conn->own_bytes = wanted_bytes;
    }
    memmove(conn->own, conn->own + conn->rest_at, arrived_bytes);
    conn->rest_at = 0;
    conn->rest_end = arrived_bytes;
}

/* Answers the request head if it is whole. False if it can't be answered. */
static bool upgrade(int fd, struct connection *conn, uint8_t *memory)
{
    static const char key_name[] = "\r\nSec-WebSocket-Key:";
    const uint8_t *request = memory + conn->rest_at;
    const uint8_t *end = memmem(request, conn->rest_end - conn->rest_at, "\r\n\r\n", 4);
    if (end == NULL)
        return conn->rest_end - conn->rest_at < ROOM_BYTES_MIN;

    char head[ROOM_BYTES_MIN + 1], accept[WS_ACCEPT_BYTES], answer[256];
    size_t head_bytes = (size_t)(end - request);
    if (head_bytes > ROOM_BYTES_MIN)
        return false;
    memcpy(head, request, head_bytes);
    head[head_bytes] = '\0';
    const char *key = strcasestr(head, key_name);
    if (key == NULL)
        return false;
    key += strlen(key_name);
    key += strspn(key, " ");
    if (strcspn(key, " \r") != WS_KEY_BYTES)
        return false;
    ws_accept_key(accept, key);
    int answer_bytes = snprintf(answer, sizeof answer,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: %.*s\r\n\r\n", WS_ACCEPT_BYTES, accept);
    conn->upgraded = true;
    conn->rest_at += head_bytes + 4;
    /* The first bytes on a connection always fit into its empty socket. */
    return send(fd, answer, (size_t)answer_bytes, MSG_NOSIGNAL) == answer_bytes;
}

static void *allocated(void *memory)
{
    if (memory == NULL)
        abort();
    return memory;
}
