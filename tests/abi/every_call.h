/* One right call of every function of the library, and what it gives in each moment of a connection's life. */
#ifndef ABI_EVERY_CALL_H
#define ABI_EVERY_CALL_H

#include "certificate.h"
#include "check.h"

#define TAKES_SERVER 0x1u
#define TAKES_CONN   0x2u               /* and a server */
#define ENDS         0x4u               /* ends the connection or the server, or decides a request: once only */

/* Where the connection stands that a call is about. */
enum moment { UNDECIDED, OPENING, OPENED, ASKING, CLOSED, NO_CONNECTION, MOMENTS };

typedef struct call {
    const char *name;
    unsigned takes;
    fdx_status (*make)(fdx_server *server, fdx_conn conn);
    fdx_status gives[MOMENTS];          /* only where it takes a connection */
} call;

#define MAKES(function, expression)                                               \
    static inline fdx_status make_##function(fdx_server *server, fdx_conn conn)   \
    {                                                                             \
        (void)server;                                                             \
        (void)conn;                                                               \
        return (expression);                                                      \
    }

/* What functions without a status give: were they right? */
static inline fdx_status ok_if(int condition)
{
    return condition ? FDX_OK : FDX_E_PANIC;
}

/* In this program the log is always the same: it checks that it is not called on the stack of a call. */
static counter lines_logged, logs_dropped;

static inline void log_a_line(void *user_data, int32_t level, fdx_conn conn, const char *target, const char *text, size_t len)
{
    (void)user_data;
    (void)conn;
    CHECK(library_depth == 0);
    CHECK(level >= 1 && level <= 5 && target[0] != '\0' && memchr(text, '\0', len) == NULL);
    counter_add(&lines_logged);
}

static inline fdx_status set_the_log(void)
{
    fdx_set_log(5, log_a_line, &logs_dropped, count_drop);
    return FDX_OK;
}

static inline fdx_status with_a_config(fdx_status (*use)(fdx_config *))
{
    fdx_config *config = fdx_config_new();
    fdx_status status = config ? use(config) : FDX_E_NOMEM;

    fdx_config_free(config);
    return status;
}

static inline fdx_status config_set(fdx_config *config)
{
    return fdx_config_set(config, "max.message", "1m", NULL);
}

static inline fdx_status config_get(fdx_config *config)
{
    char value[64];
    size_t needed;

    return fdx_config_get(config, "max.message", value, sizeof value, &needed);
}

static inline fdx_status config_load(fdx_config *config)
{
    return fdx_config_load(config, "threads = 2\n", FDX_NTS, NULL);
}

static inline fdx_status config_route(fdx_config *config)
{
    fdx_handlers handlers;

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    return fdx_config_route(config, "/", 1, &handlers, NULL);
}

static inline void carry_nothing(void *user_data, fdx_server *server, const char *channel, size_t len, const void *envelope, size_t envelope_len)
{
    (void)user_data, (void)server, (void)channel, (void)len, (void)envelope, (void)envelope_len;
}

static inline void want_nothing(void *user_data, fdx_server *server, const char *channel, size_t len)
{
    (void)user_data, (void)server, (void)channel, (void)len;
}

static inline fdx_status config_backplane(fdx_config *config)
{
    fdx_backplane backplane;

    memset(&backplane, 0, sizeof backplane);
    backplane.struct_size = sizeof backplane;
    backplane.publish = carry_nothing;
    backplane.subscribe = want_nothing;
    backplane.unsubscribe = want_nothing;
    return fdx_config_backplane(config, &backplane, NULL);
}

static inline fdx_status server_new(fdx_config *config)
{
    fdx_server *server = NULL;
    fdx_status status = config_route(config);

    if (status == FDX_OK)
        status = fdx_server_new(config, &server, NULL);
    fdx_server_unref(server);
    return status;
}

static inline fdx_status with_a_message(fdx_status (*use)(fdx_server *, fdx_conn, fdx_msg *), fdx_server *server, fdx_conn conn)
{
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "framed once", 11);
    fdx_status status = message ? use(server, conn, message) : FDX_E_NOMEM;

    fdx_msg_unref(message);
    return status;
}

static inline fdx_status msg_ref(fdx_server *server, fdx_conn conn, fdx_msg *message)
{
    (void)server;
    (void)conn;
    fdx_msg_unref(fdx_msg_ref(message));
    return FDX_OK;
}

static inline fdx_status send_msg(fdx_server *server, fdx_conn conn, fdx_msg *message)
{
    fdx_status result = FDX_E_PANIC, worst = fdx_send_msg(server, &conn, 1, message, 0, &result);

    CHECK(worst == result || worst == FDX_E_FORKED);
    return worst;
}

static inline fdx_status join_for_a_moment(fdx_server *server, fdx_conn conn)
{
    fdx_status status = fdx_subscribe(server, conn, "for a moment", FDX_NTS);

    fdx_unsubscribe(server, conn, "for a moment", FDX_NTS);
    return status;
}

static inline fdx_status leave_after_a_moment(fdx_server *server, fdx_conn conn)
{
    fdx_subscribe(server, conn, "for a moment", FDX_NTS);
    return fdx_unsubscribe(server, conn, "for a moment", FDX_NTS);
}

static inline fdx_status publish(fdx_server *server, fdx_conn conn, fdx_msg *message)
{
    fdx_publish_result result;

    memset(&result, 0, sizeof result);
    result.struct_size = sizeof result;
    return fdx_publish(server, "news", FDX_NTS, message, FDX_F_SKIP_SENDER, conn, &result);
}

static inline fdx_status count_subscribers(fdx_server *server)
{
    uint64_t subscribers;

    return fdx_topic_count(server, "news", FDX_NTS, &subscribers);
}

static inline fdx_status listen_for_a_moment(fdx_server *server)
{
    uint32_t id = 0;
    uint16_t port = 0;
    fdx_status status = fdx_listen(server, "127.0.0.1:0", &id, &port, NULL);

    if (status == FDX_OK) {
        /* A stop may come between the two. */
        fdx_status ended = fdx_unlisten(server, id);
        CHECK(port != 0 && (ended == FDX_OK || ended == FDX_E_NOT_FOUND));
    }
    return status;
}

static inline fdx_status listener_fd(fdx_server *server)
{
    ptrdiff_t fd = -1;

    return fdx_listener_fd(server, 0, &fd);
}

static inline fdx_status listener_port(fdx_server *server)
{
    uint16_t port = 0;
    fdx_status status = fdx_listener_port(server, 0, &port);

    CHECK(status != FDX_OK || port != 0);
    return status;
}

static inline fdx_status request_get(fdx_server *server, fdx_conn conn)
{
    char value[64];
    size_t needed;

    return fdx_request_get(server, conn, ":path", value, sizeof value, &needed);
}

static inline fdx_status request_headers(fdx_server *server, fdx_conn conn)
{
    char lines[4096];
    size_t needed;

    return fdx_request_headers(server, conn, lines, sizeof lines, &needed);
}

static inline fdx_status get_info(fdx_server *server, fdx_conn conn)
{
    fdx_conn_info info = new_conn_info();

    return fdx_conn_get_info(server, conn, &info);
}

static inline fdx_status list_conns(fdx_server *server)
{
    fdx_conn conns[256];
    size_t needed;

    return fdx_conns(server, UINT32_MAX, conns, 256, &needed);
}

static inline fdx_status get_stats(fdx_server *server)
{
    fdx_stats stats = new_stats();

    return fdx_get_stats(server, &stats);
}

static inline fdx_status metrics_text(fdx_server *server)
{
    char text[16384];
    size_t needed;

    return fdx_metrics_text(server, text, sizeof text, &needed);
}

/* The servers that this table is tried on call back: they have no queue, and say so. queue.c has those that have. */
static inline fdx_status of_no_queue(fdx_status status)
{
    return status == FDX_E_STATE ? FDX_OK : status;
}

/* Nor a backplane: backplane.c has those that have. */
static inline fdx_status of_no_backplane(fdx_status status)
{
    return status == FDX_E_STATE ? FDX_OK : status;
}

static inline fdx_status poll_a_queue(fdx_server *server)
{
    fdx_batch_view view;

    memset(&view, 0, sizeof view);
    view.struct_size = sizeof view;
    return of_no_queue(fdx_poll(server, 0, 0, -1, &view));
}

static inline fdx_status queue_fd_of(fdx_server *server)
{
    ptrdiff_t fd = -1;

    return of_no_queue(fdx_queue_fd(server, 0, &fd));
}

/* What fdx_submit takes: a message of five bytes. */
typedef struct record { uint64_t conn; uint32_t kind_and_flags, len; char payload[8]; } record;

static inline record new_record(fdx_conn conn)
{
    record one;

    memset(&one, 0, sizeof one);
    one.conn = conn;
    one.kind_and_flags = FDX_BINARY;
    one.len = 5;
    memcpy(one.payload, "hello", 5);
    return one;
}

static inline fdx_status submit_one(fdx_server *server, fdx_conn conn)
{
    record one = new_record(conn);
    fdx_status result = FDX_E_PANIC, worst = fdx_submit(server, &one, sizeof one, &result, 1);

    CHECK(worst == result || worst == FDX_E_FORKED);
    return worst;
}

static counter data_dropped;

MAKES(fdx_version, ok_if(fdx_version() == FDX_VERSION))
MAKES(fdx_version_string, ok_if(fdx_version_string() != NULL))
MAKES(fdx_check_abi, fdx_check_abi(FDX_ABI))
MAKES(fdx_has, ok_if(fdx_has("no such feature") == 0))
MAKES(fdx_status_name, ok_if(fdx_status_name(FDX_E_NO_CONN) != NULL))
MAKES(fdx_status_text, ok_if(fdx_status_text(FDX_E_NO_CONN) != NULL))
MAKES(fdx_config_new, with_a_config(config_set))
MAKES(fdx_config_free, with_a_config(config_route))
MAKES(fdx_config_set, with_a_config(config_set))
MAKES(fdx_config_get, with_a_config(config_get))
MAKES(fdx_config_load, with_a_config(config_load))
MAKES(fdx_option, ok_if(fdx_option(0) != NULL && fdx_option(SIZE_MAX) == NULL))
MAKES(fdx_config_route, with_a_config(config_route))
MAKES(fdx_config_backplane, with_a_config(config_backplane))
MAKES(fdx_server_new, with_a_config(server_new))
MAKES(fdx_msg_new, with_a_message(msg_ref, server, conn))
MAKES(fdx_msg_ref, with_a_message(msg_ref, server, conn))
MAKES(fdx_msg_unref, with_a_message(msg_ref, server, conn))
MAKES(fdx_batch_free, (fdx_batch_free(NULL), FDX_OK))
MAKES(fdx_set_log, set_the_log())

MAKES(fdx_server_ref, (fdx_server_unref(fdx_server_ref(server)), FDX_OK))
MAKES(fdx_server_unref, (fdx_server_ref(server), fdx_server_unref(server), FDX_OK))
MAKES(fdx_server_start, fdx_server_start(server, NULL))
MAKES(fdx_server_wait, fdx_server_wait(server, 0))
MAKES(fdx_server_set, fdx_server_set(server, "max.message", "1m", NULL))
MAKES(fdx_listen, listen_for_a_moment(server))
MAKES(fdx_set_certificate, fdx_set_certificate(server, "a.example", CERTIFICATE, FDX_NTS, CERTIFICATE_KEY, FDX_NTS, NULL))
MAKES(fdx_unlisten, fdx_unlisten(server, UINT32_MAX))
MAKES(fdx_listener_fd, listener_fd(server))
MAKES(fdx_listener_port, listener_port(server))
MAKES(fdx_poll, poll_a_queue(server))
MAKES(fdx_wake, of_no_queue(fdx_wake(server, 0)))
MAKES(fdx_queue_fd, queue_fd_of(server))
MAKES(fdx_queue_notify_fd, of_no_queue(fdx_queue_notify_fd(server, 0, -1, NULL, 0)))
MAKES(fdx_conns, list_conns(server))
MAKES(fdx_publish, with_a_message(publish, server, conn))
MAKES(fdx_topic_count, count_subscribers(server))
MAKES(fdx_backplane_deliver, of_no_backplane(fdx_backplane_deliver(server, "fdx:news", FDX_NTS, "x", 1)))
MAKES(fdx_backplane_state, of_no_backplane(fdx_backplane_state(server, FDX_BP_UP)))
MAKES(fdx_get_stats, get_stats(server))
MAKES(fdx_metrics_text, metrics_text(server))
MAKES(fdx_server_stop, fdx_server_stop(server, 1001, "enough", FDX_NTS, 0, 1000))

MAKES(fdx_request_get, request_get(server, conn))
MAKES(fdx_request_headers, request_headers(server, conn))
MAKES(fdx_send, fdx_send(server, conn, FDX_BINARY, "hello", 5, 0))
MAKES(fdx_send_msg, with_a_message(send_msg, server, conn))
MAKES(fdx_submit, submit_one(server, conn))
MAKES(fdx_subscribe, join_for_a_moment(server, conn))
MAKES(fdx_unsubscribe, leave_after_a_moment(server, conn))
MAKES(fdx_pause, fdx_pause(server, conn))
MAKES(fdx_resume, fdx_resume(server, conn))
MAKES(fdx_ping, fdx_ping(server, conn, "?", 1))
MAKES(fdx_conn_set_data, fdx_conn_set_data(server, conn, &data_dropped, count_drop))
MAKES(fdx_conn_get_info, get_info(server, conn))
MAKES(fdx_accept, fdx_accept(server, conn, NULL, NULL, 0))
MAKES(fdx_reject, fdx_reject(server, conn, 403, NULL, 0, NULL, 0))
MAKES(fdx_http_reply, fdx_http_reply(server, conn, 200, NULL, 0, "a page", 6))
MAKES(fdx_close, fdx_close(server, conn, 1000, "bye", FDX_NTS))
MAKES(fdx_abort, fdx_abort(server, conn))

#define EVERY_CALL(function, takes) { #function, takes, make_##function, { 0, 0, 0, 0, 0, 0 } }
#define ON_CONN(function, ends, undecided, opening, opened, asking, closed) \
    { #function, TAKES_CONN | (ends), make_##function, { undecided, opening, opened, asking, closed, FDX_E_NO_CONN } }

static const call every_call[] = {
    EVERY_CALL(fdx_version, 0),
    EVERY_CALL(fdx_version_string, 0),
    EVERY_CALL(fdx_check_abi, 0),
    EVERY_CALL(fdx_has, 0),
    EVERY_CALL(fdx_status_name, 0),
    EVERY_CALL(fdx_status_text, 0),
    EVERY_CALL(fdx_config_new, 0),
    EVERY_CALL(fdx_config_free, 0),
    EVERY_CALL(fdx_config_set, 0),
    EVERY_CALL(fdx_config_get, 0),
    EVERY_CALL(fdx_config_load, 0),
    EVERY_CALL(fdx_option, 0),
    EVERY_CALL(fdx_config_route, 0),
    EVERY_CALL(fdx_config_backplane, 0),
    EVERY_CALL(fdx_server_new, 0),
    EVERY_CALL(fdx_msg_new, 0),
    EVERY_CALL(fdx_msg_ref, 0),
    EVERY_CALL(fdx_msg_unref, 0),
    EVERY_CALL(fdx_batch_free, 0),
    EVERY_CALL(fdx_set_log, 0),

    EVERY_CALL(fdx_server_ref, TAKES_SERVER),
    EVERY_CALL(fdx_server_unref, TAKES_SERVER),
    EVERY_CALL(fdx_server_start, TAKES_SERVER),
    EVERY_CALL(fdx_server_wait, TAKES_SERVER),
    EVERY_CALL(fdx_server_set, TAKES_SERVER),
    EVERY_CALL(fdx_listen, TAKES_SERVER),
    EVERY_CALL(fdx_set_certificate, TAKES_SERVER),
    EVERY_CALL(fdx_unlisten, TAKES_SERVER),
    EVERY_CALL(fdx_listener_fd, TAKES_SERVER),
    EVERY_CALL(fdx_listener_port, TAKES_SERVER),
    EVERY_CALL(fdx_poll, TAKES_SERVER),
    EVERY_CALL(fdx_wake, TAKES_SERVER),
    EVERY_CALL(fdx_queue_fd, TAKES_SERVER),
    EVERY_CALL(fdx_queue_notify_fd, TAKES_SERVER),
    EVERY_CALL(fdx_conns, TAKES_SERVER),
    EVERY_CALL(fdx_publish, TAKES_SERVER),
    EVERY_CALL(fdx_topic_count, TAKES_SERVER),
    EVERY_CALL(fdx_backplane_deliver, TAKES_SERVER),
    EVERY_CALL(fdx_backplane_state, TAKES_SERVER),
    EVERY_CALL(fdx_get_stats, TAKES_SERVER),
    EVERY_CALL(fdx_metrics_text, TAKES_SERVER),
    EVERY_CALL(fdx_server_stop, TAKES_SERVER | ENDS),

    /*                               before its decision, in OPEN, later, a plain request, in CLOSE */
    ON_CONN(fdx_request_get, 0, FDX_OK, FDX_OK, FDX_E_STATE, FDX_OK, FDX_E_STATE),
    ON_CONN(fdx_request_headers, 0, FDX_OK, FDX_OK, FDX_E_STATE, FDX_OK, FDX_E_STATE),
    ON_CONN(fdx_send, 0, FDX_E_STATE, FDX_OK, FDX_OK, FDX_E_STATE, FDX_E_NO_CONN),
    ON_CONN(fdx_send_msg, 0, FDX_E_STATE, FDX_OK, FDX_OK, FDX_E_STATE, FDX_E_NO_CONN),
    ON_CONN(fdx_submit, 0, FDX_E_STATE, FDX_OK, FDX_OK, FDX_E_STATE, FDX_E_NO_CONN),
    ON_CONN(fdx_subscribe, 0, FDX_E_STATE, FDX_OK, FDX_OK, FDX_E_STATE, FDX_E_NO_CONN),
    ON_CONN(fdx_unsubscribe, 0, FDX_ALREADY, FDX_OK, FDX_OK, FDX_ALREADY, FDX_E_NO_CONN),
    ON_CONN(fdx_pause, 0, FDX_E_STATE, FDX_OK, FDX_OK, FDX_E_STATE, FDX_E_NO_CONN),
    ON_CONN(fdx_resume, 0, FDX_E_STATE, FDX_OK, FDX_OK, FDX_E_STATE, FDX_E_NO_CONN),
    ON_CONN(fdx_ping, 0, FDX_E_STATE, FDX_OK, FDX_OK, FDX_E_STATE, FDX_E_NO_CONN),
    ON_CONN(fdx_conn_set_data, 0, FDX_OK, FDX_OK, FDX_OK, FDX_OK, FDX_E_NO_CONN),
    ON_CONN(fdx_conn_get_info, 0, FDX_OK, FDX_OK, FDX_OK, FDX_OK, FDX_OK),
    ON_CONN(fdx_accept, ENDS, FDX_OK, FDX_E_STATE, FDX_E_STATE, FDX_E_STATE, FDX_E_NO_CONN),
    ON_CONN(fdx_reject, ENDS, FDX_OK, FDX_E_STATE, FDX_E_STATE, FDX_E_STATE, FDX_E_NO_CONN),
    ON_CONN(fdx_http_reply, ENDS, FDX_E_STATE, FDX_E_STATE, FDX_E_STATE, FDX_OK, FDX_E_NO_CONN),
    ON_CONN(fdx_close, ENDS, FDX_E_STATE, FDX_OK, FDX_OK, FDX_E_STATE, FDX_E_NO_CONN),
    ON_CONN(fdx_abort, ENDS, FDX_OK, FDX_OK, FDX_OK, FDX_OK, FDX_E_NO_CONN),
};
#define EVERY_CALLS (sizeof every_call / sizeof every_call[0])

#endif
