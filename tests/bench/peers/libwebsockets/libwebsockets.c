/* An echo server of libwebsockets, to measure ours against.
 *
 *     libwebsockets [--listen 127.0.0.1:0] [--topic]
 *
 * With --topic everybody is in one topic, and what anybody says goes to all.
 *
 * As its documentation wants it: what is to be sent waits for the WRITEABLE callback, which sends all there is until
 * libwebsockets has to buffer; each message lies behind LWS_PRE bytes, where its header goes, and that of a topic is there
 * once for all. It reads up to 256 KiB at once. It makes no use of libuv or libev: its own loop on poll() asks
 * for writeability without a system call and is faster with the numbers of connections that we measure. Text is not checked
 * for UTF-8, which is an option. */
#define _GNU_SOURCE
#include <libwebsockets.h>

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { RECEIVE_BYTES = 256 << 10, MESSAGE_BYTES_MAX = 16 << 20 };

struct message {
    struct message *next;
    size_t readers;                 /* that have yet to send it */
    size_t bytes, room_bytes;
    enum lws_write_protocol kind;
    unsigned char memory[];         /* LWS_PRE bytes and the payload */
};

struct session {
    struct lws *wsi;
    struct session *previous, *next;
    struct message *incoming;       /* what has come of the next message */
    struct message *due;            /* the first that it has to send */
    struct message *last;           /* without a topic: the last that it has to send */
};

static bool with_topic;
static struct session *sessions;    /* all of them */
static size_t session_count;
static struct message *last;        /* of the topic */

static void stop(int signal_number)
{
    (void)signal_number;
    _exit(0);
}

static struct message *allocated(void *memory)
{
    if (memory == NULL)
        abort();
    return memory;
}

static void join(struct session *session, struct lws *wsi)
{
    *session = (struct session){.wsi = wsi, .next = sessions};
    if (sessions != NULL)
        sessions->previous = session;
    sessions = session;
    session_count++;
}

static struct message **last_of(struct session *session)
{
    return with_topic ? &last : &session->last;
}

/* The first that is due is sent, or never will be. */
static void forget(struct session *session)
{
    struct message *message = session->due;
    session->due = message->next;
    if (--message->readers > 0)
        return;
    if (*last_of(session) == message)
        *last_of(session) = NULL;
    free(message);
}

static void leave(struct session *session)
{
    while (session->due != NULL)
        forget(session);
    free(session->incoming);
    if (session->next != NULL)
        session->next->previous = session->previous;
    *(session->previous != NULL ? &session->previous->next : &sessions) = session->next;
    session_count--;
}

static void due(struct session *session, struct message *message)
{
    if (session->due == NULL)
        session->due = message;
    lws_callback_on_writable(session->wsi);
}

static void answer(struct session *session, struct message *message)
{
    message->next = NULL;
    message->readers = with_topic ? session_count : 1;
    if (*last_of(session) != NULL)
        (*last_of(session))->next = message;
    *last_of(session) = message;
    if (!with_topic)
        due(session, message);
    else
        for (struct session *each = sessions; each != NULL; each = each->next)
            due(each, message);
}

static void receive(struct session *session, const void *bytes, size_t len)
{
    struct message *message = session->incoming;
    size_t had_bytes = message == NULL ? 0 : message->bytes;
    size_t left_bytes = lws_remaining_packet_payload(session->wsi);
    if (message == NULL || message->room_bytes < had_bytes + len + left_bytes) {
        size_t room_bytes = had_bytes + len + left_bytes;
        message = allocated(realloc(message, sizeof *message + LWS_PRE + room_bytes));
        message->room_bytes = room_bytes;
        message->kind = lws_frame_is_binary(session->wsi) ? LWS_WRITE_BINARY : LWS_WRITE_TEXT;
    }
    memcpy(message->memory + LWS_PRE + had_bytes, bytes, len);
    message->bytes = had_bytes + len;
    session->incoming = message;
    if (left_bytes == 0 && lws_is_final_fragment(session->wsi)) {
        session->incoming = NULL;
        answer(session, message);
    }
}

static int send_what_is_due(struct session *session)
{
    while (session->due != NULL && !lws_partial_buffered(session->wsi)) {
        struct message *message = session->due;
        if (lws_write(session->wsi, message->memory + LWS_PRE, message->bytes, message->kind) < 0)
            return -1;
        forget(session);
    }
    if (session->due != NULL)
        lws_callback_on_writable(session->wsi);
    return 0;
}

static int on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    switch (reason) {
    case LWS_CALLBACK_ESTABLISHED:
        join(user, wsi);
        return 0;
    case LWS_CALLBACK_RECEIVE: {
        struct session *session = user;
        if ((session->incoming == NULL ? 0 : session->incoming->bytes) + len > MESSAGE_BYTES_MAX)
            return -1;
        receive(session, in, len);
        return 0;
    }
    case LWS_CALLBACK_SERVER_WRITEABLE:
        return send_what_is_due(user);
    case LWS_CALLBACK_CLOSED:
        leave(user);
        return 0;
    default:
        return 0;
    }
}

int main(int argc, char **argv)
{
    char host[64] = "127.0.0.1";
    int port = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--topic") == 0) {
            with_topic = true;
        } else if (strcmp(argv[i], "--listen") != 0 || ++i == argc || sscanf(argv[i], "%63[^:]:%d", host, &port) != 2) {
            fprintf(stderr, "usage: libwebsockets [--listen 127.0.0.1:0] [--topic]\n");
            return 1;
        }
    }
    signal(SIGTERM, stop);
    /* Before it starts: how many connections it will have room for. */
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    static const struct lws_protocols protocols[] = {
        {
            .name = "echo",
            .callback = on_event,
            .per_session_data_size = sizeof(struct session),
            .rx_buffer_size = RECEIVE_BYTES,
            .tx_packet_size = MESSAGE_BYTES_MAX,
        },
        {0},
    };
    struct lws_context_creation_info info = {
        .iface = host,
        .port = port,
        .protocols = protocols,
        .pt_serv_buf_size = RECEIVE_BYTES,
        .options = LWS_SERVER_OPTION_DISABLE_IPV6 | LWS_SERVER_OPTION_EXPLICIT_VHOSTS,
    };
    lws_set_log_level(LLL_ERR, NULL);
    struct lws_context *context = lws_create_context(&info);
    struct lws_vhost *vhost = context == NULL ? NULL : lws_create_vhost(context, &info);
    if (vhost == NULL) {
        fprintf(stderr, "libwebsockets: can't listen on %s:%d\n", host, port);
        return 1;
    }
    printf("listening on %s:%d\n", host, lws_get_vhost_listen_port(vhost));
    fflush(stdout);
    while (lws_service(context, 0) >= 0)
        ;
    return 1;
}
