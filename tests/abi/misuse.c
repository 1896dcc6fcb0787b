/* What an embedder may get wrong in the arguments, systematically: every pointer, every struct_size, every
 * flag, every connection that is none, every string that reaches the wire. test_misuse.py compares the
 * tables with the header. */
#include "every_call.h"

/* -- NULL ----------------------------------------------------------------------------------------- */

/* One connection in each state, so that every other argument is right. */
static host *h;
static client open_client, undecided_client, asking_client;
static fdx_conn opened, undecided, asking;
static const char plain_request[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

static void set_up(void)
{
    h = host_start_with("timeout.handshake = 60s\n", ON_ALL, FDX_ROUTE_HTTP, NULL, NULL);
    open_client = client_dial(h->port);
    client_ask(&open_client, "/", NULL);
    opened = host_await(h, FDX_EV_UPGRADE, 1).conn;
    CHECK_STATUS(FDX_OK, fdx_accept(h->server, opened, NULL, NULL, 0));
    CHECK(client_read_head(&open_client) == 101);
    host_await(h, FDX_EV_OPEN, 1);
    undecided_client = client_dial(h->port);
    client_ask(&undecided_client, "/", "Sec-WebSocket-Protocol: chat\r\n");
    undecided = host_await(h, FDX_EV_UPGRADE, 2).conn;
    asking_client = client_dial(h->port);
    client_write(&asking_client, plain_request, strlen(plain_request));
    asking = host_await(h, FDX_EV_HTTP, 1).conn;
}

/* All three must have survived what was tried. */
static void tear_down(void)
{
    CHECK_STATUS(FDX_OK, fdx_accept(h->server, undecided, "chat", "X-One: 1\r\n", FDX_NTS));
    CHECK(client_read_head(&undecided_client) == 101);
    client_leave(&undecided_client);
    CHECK_STATUS(FDX_OK, fdx_http_reply(h->server, asking, 200, NULL, 0, "fine", 4));
    CHECK(client_read_head(&asking_client) == 200);
    client_drop(&asking_client);
    CHECK_STATUS(FDX_OK, fdx_send(h->server, opened, FDX_TEXT, "still here", 10, 0));
    CLIENT_EXPECT_TEXT(&open_client, "still here");
    client_leave(&open_client);
    host_end(h);
}

static void call_nobody(void *user_data, int32_t level, fdx_conn conn, const char *target, const char *text, size_t len)
{
    (void)user_data, (void)level, (void)conn, (void)target, (void)text, (void)len;
}

/* The rows name the function and the parameter that is NULL. */
#define NULL_FOR(function, parameter, expected, call) CHECK_STATUS(expected, call)
#define VOID(call) ((call), FDX_OK)

static void null_for_each_pointer_of_each_function_gives_its_status_and_harms_nothing(void)
{
    fdx_config *config = new_config(NULL), *unused = fdx_config_new(), *of_polled = new_config("dispatch = queue\n");
    fdx_handlers handlers;
    fdx_server *server = NULL, *unstarted, *polled = new_server(of_polled);
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "hello", 5);
    fdx_error error = new_error();
    fdx_conn_info info = new_conn_info();
    fdx_stats stats = new_stats();
    fdx_conn conns[8];
    fdx_batch_view view;
    fdx_publish_result published;
    fdx_backplane backplane;
    uint64_t subscribers;
    fdx_status result;
    record one;
    counter drops = { 0 };
    char buf[4096];
    size_t needed;
    uint32_t id;
    uint16_t port;
    ptrdiff_t fd;

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    memset(&view, 0, sizeof view);
    view.struct_size = sizeof view;
    memset(&published, 0, sizeof published);
    published.struct_size = sizeof published;
    memset(&backplane, 0, sizeof backplane);
    backplane.struct_size = sizeof backplane;
    set_up();
    one = new_record(opened);

    NULL_FOR(fdx_has, feature, 0, fdx_has(NULL));
    NULL_FOR(fdx_config_free, config, FDX_OK, VOID(fdx_config_free(NULL)));
    NULL_FOR(fdx_config_set, config, FDX_E_INVALID_ARG, fdx_config_set(NULL, "threads", "1", &error));
    NULL_FOR(fdx_config_set, key, FDX_E_INVALID_ARG, fdx_config_set(config, NULL, "1", &error));
    NULL_FOR(fdx_config_set, value, FDX_E_INVALID_ARG, fdx_config_set(config, "threads", NULL, &error));
    NULL_FOR(fdx_config_set, error, FDX_E_CONFIG, fdx_config_set(config, "no.such.key", "1", NULL));
    NULL_FOR(fdx_config_get, config, FDX_E_INVALID_ARG, fdx_config_get(NULL, "threads", buf, sizeof buf, &needed));
    NULL_FOR(fdx_config_get, key, FDX_E_INVALID_ARG, fdx_config_get(config, NULL, buf, sizeof buf, &needed));
    NULL_FOR(fdx_config_get, buf, FDX_E_INVALID_ARG, fdx_config_get(config, "threads", NULL, 5, &needed));
    NULL_FOR(fdx_config_get, buf, FDX_E_BUFFER, fdx_config_get(config, "threads", NULL, 0, &needed));
    NULL_FOR(fdx_config_get, needed, FDX_OK, fdx_config_get(config, "threads", buf, sizeof buf, NULL));
    NULL_FOR(fdx_config_load, config, FDX_E_INVALID_ARG, fdx_config_load(NULL, "threads = 1", FDX_NTS, &error));
    NULL_FOR(fdx_config_load, data, FDX_E_INVALID_ARG, fdx_config_load(config, NULL, 0, &error));
    NULL_FOR(fdx_config_load, error, FDX_E_CONFIG, fdx_config_load(config, "no.such.key = 1", FDX_NTS, NULL));
    NULL_FOR(fdx_config_route, config, FDX_E_INVALID_ARG, fdx_config_route(NULL, "/", 0, &handlers, &error));
    NULL_FOR(fdx_config_route, pattern, FDX_E_INVALID_ARG, fdx_config_route(config, NULL, 0, &handlers, &error));
    NULL_FOR(fdx_config_route, handlers, FDX_E_INVALID_ARG, fdx_config_route(config, "/", 0, NULL, &error));
    NULL_FOR(fdx_config_route, error, FDX_E_CONFIG, fdx_config_route(config, "no slash", 0, &handlers, NULL));
    NULL_FOR(fdx_config_route, error, FDX_OK, fdx_config_route(config, "/", 0, &handlers, NULL));
    NULL_FOR(fdx_server_new, config, FDX_E_INVALID_ARG, fdx_server_new(NULL, &server, &error));
    NULL_FOR(fdx_server_new, out, FDX_E_INVALID_ARG, fdx_server_new(config, NULL, &error));
    NULL_FOR(fdx_server_new, error, FDX_E_CONFIG, fdx_server_new(unused, &server, NULL));
    CHECK(server == NULL);
    NULL_FOR(fdx_server_new, error, FDX_OK, fdx_server_new(config, &unstarted, NULL));
    NULL_FOR(fdx_server_ref, server, FDX_OK, ok_if(fdx_server_ref(NULL) == NULL));
    NULL_FOR(fdx_server_unref, server, FDX_OK, VOID(fdx_server_unref(NULL)));
    NULL_FOR(fdx_server_start, server, FDX_E_INVALID_ARG, fdx_server_start(NULL, &error));
    NULL_FOR(fdx_server_start, error, FDX_E_STATE, fdx_server_start(h->server, NULL));
    NULL_FOR(fdx_server_stop, server, FDX_E_INVALID_ARG, fdx_server_stop(NULL, 1001, "", 0, 0, 0));
    NULL_FOR(fdx_server_stop, reason, FDX_E_INVALID_ARG, fdx_server_stop(h->server, 1001, NULL, 3, 0, 0));
    NULL_FOR(fdx_server_stop, reason, FDX_E_STATE, fdx_server_stop(unstarted, 1001, NULL, 0, 0, 0));
    NULL_FOR(fdx_server_wait, server, FDX_E_INVALID_ARG, fdx_server_wait(NULL, 0));
    NULL_FOR(fdx_server_set, server, FDX_E_INVALID_ARG, fdx_server_set(NULL, "max.message", "1m", &error));
    NULL_FOR(fdx_server_set, key, FDX_E_INVALID_ARG, fdx_server_set(h->server, NULL, "1m", &error));
    NULL_FOR(fdx_server_set, value, FDX_E_INVALID_ARG, fdx_server_set(h->server, "max.message", NULL, &error));
    NULL_FOR(fdx_server_set, error, FDX_E_STATE, fdx_server_set(h->server, "threads", "2", NULL));
    NULL_FOR(fdx_listen, server, FDX_E_INVALID_ARG, fdx_listen(NULL, "127.0.0.1:0", &id, &port, &error));
    NULL_FOR(fdx_listen, address, FDX_E_INVALID_ARG, fdx_listen(h->server, NULL, &id, &port, &error));
    NULL_FOR(fdx_listen, out_id, FDX_OK, fdx_listen(h->server, "127.0.0.1:0", NULL, &port, &error));
    NULL_FOR(fdx_listen, out_port, FDX_OK, fdx_listen(h->server, "127.0.0.1:0", &id, NULL, &error));
    NULL_FOR(fdx_listen, error, FDX_E_CONFIG, fdx_listen(h->server, "nowhere", &id, &port, NULL));
    NULL_FOR(fdx_set_certificate, server, FDX_E_INVALID_ARG,
             fdx_set_certificate(NULL, NULL, "x", 1, "x", 1, &error));
    /* NULL is every name; what is no certificate is refused for what it is. */
    NULL_FOR(fdx_set_certificate, sni, FDX_E_TLS,
             fdx_set_certificate(h->server, NULL, "x", 1, "x", 1, &error));
    NULL_FOR(fdx_set_certificate, cert, FDX_E_INVALID_ARG,
             fdx_set_certificate(h->server, NULL, NULL, 1, "x", 1, &error));
    NULL_FOR(fdx_set_certificate, key, FDX_E_INVALID_ARG,
             fdx_set_certificate(h->server, NULL, "x", 1, NULL, 1, &error));
    NULL_FOR(fdx_set_certificate, error, FDX_E_TLS,
             fdx_set_certificate(h->server, NULL, "x", 1, "x", 1, NULL));
    NULL_FOR(fdx_unlisten, server, FDX_E_INVALID_ARG, fdx_unlisten(NULL, 0));
    NULL_FOR(fdx_listener_fd, server, FDX_E_INVALID_ARG, fdx_listener_fd(NULL, 0, &fd));
    NULL_FOR(fdx_listener_fd, out_fd, FDX_E_INVALID_ARG, fdx_listener_fd(h->server, 0, NULL));
    NULL_FOR(fdx_listener_port, server, FDX_E_INVALID_ARG, fdx_listener_port(NULL, 0, &port));
    NULL_FOR(fdx_listener_port, out_port, FDX_E_INVALID_ARG, fdx_listener_port(h->server, 0, NULL));
    NULL_FOR(fdx_accept, server, FDX_E_INVALID_ARG, fdx_accept(NULL, undecided, NULL, NULL, 0));
    /* NULL is a subprotocol; with a wrong header nothing is decided. */
    NULL_FOR(fdx_accept, subprotocol, FDX_E_INVALID_ARG, fdx_accept(h->server, undecided, NULL, "bad", 3));
    NULL_FOR(fdx_accept, headers, FDX_E_INVALID_ARG, fdx_accept(h->server, undecided, "chat", NULL, 3));
    NULL_FOR(fdx_reject, server, FDX_E_INVALID_ARG, fdx_reject(NULL, undecided, 403, NULL, 0, NULL, 0));
    NULL_FOR(fdx_reject, headers, FDX_E_INVALID_ARG, fdx_reject(h->server, undecided, 403, NULL, 3, "no", 2));
    NULL_FOR(fdx_reject, body, FDX_E_INVALID_ARG, fdx_reject(h->server, undecided, 403, "A: b\r\n", FDX_NTS, NULL, 2));
    NULL_FOR(fdx_http_reply, server, FDX_E_INVALID_ARG, fdx_http_reply(NULL, asking, 200, NULL, 0, NULL, 0));
    NULL_FOR(fdx_http_reply, headers, FDX_E_INVALID_ARG, fdx_http_reply(h->server, asking, 200, NULL, 3, "yes", 3));
    NULL_FOR(fdx_http_reply, body, FDX_E_INVALID_ARG, fdx_http_reply(h->server, asking, 200, "A: b\r\n", FDX_NTS, NULL, 2));
    NULL_FOR(fdx_request_get, server, FDX_E_INVALID_ARG, fdx_request_get(NULL, undecided, ":path", buf, sizeof buf, &needed));
    NULL_FOR(fdx_request_get, name, FDX_E_INVALID_ARG, fdx_request_get(h->server, undecided, NULL, buf, sizeof buf, &needed));
    NULL_FOR(fdx_request_get, buf, FDX_E_INVALID_ARG, fdx_request_get(h->server, undecided, ":path", NULL, 9, &needed));
    NULL_FOR(fdx_request_get, buf, FDX_E_BUFFER, fdx_request_get(h->server, undecided, ":path", NULL, 0, &needed));
    NULL_FOR(fdx_request_get, needed, FDX_OK, fdx_request_get(h->server, undecided, ":path", buf, sizeof buf, NULL));
    NULL_FOR(fdx_request_headers, server, FDX_E_INVALID_ARG, fdx_request_headers(NULL, asking, buf, sizeof buf, &needed));
    NULL_FOR(fdx_request_headers, buf, FDX_E_INVALID_ARG, fdx_request_headers(h->server, asking, NULL, 9, &needed));
    NULL_FOR(fdx_request_headers, buf, FDX_E_BUFFER, fdx_request_headers(h->server, asking, NULL, 0, &needed));
    NULL_FOR(fdx_request_headers, needed, FDX_OK, fdx_request_headers(h->server, asking, buf, sizeof buf, NULL));
    NULL_FOR(fdx_send, server, FDX_E_INVALID_ARG, fdx_send(NULL, opened, FDX_TEXT, "hello", 5, 0));
    NULL_FOR(fdx_send, data, FDX_E_INVALID_ARG, fdx_send(h->server, opened, FDX_TEXT, NULL, 5, 0));
    NULL_FOR(fdx_send, data, FDX_OK, fdx_send(h->server, opened, FDX_TEXT, NULL, 0, 0));
    CLIENT_EXPECT(&open_client, OP_TEXT, "", 0);
    NULL_FOR(fdx_msg_new, data, FDX_OK, ok_if(fdx_msg_new(FDX_TEXT, NULL, 5) == NULL));
    NULL_FOR(fdx_msg_ref, msg, FDX_OK, ok_if(fdx_msg_ref(NULL) == NULL));
    NULL_FOR(fdx_msg_unref, msg, FDX_OK, VOID(fdx_msg_unref(NULL)));
    NULL_FOR(fdx_send_msg, server, FDX_E_INVALID_ARG, fdx_send_msg(NULL, &opened, 1, message, 0, &result));
    NULL_FOR(fdx_send_msg, conns, FDX_E_INVALID_ARG, fdx_send_msg(h->server, NULL, 1, message, 0, &result));
    NULL_FOR(fdx_send_msg, conns, FDX_OK, fdx_send_msg(h->server, NULL, 0, message, 0, &result));
    NULL_FOR(fdx_send_msg, msg, FDX_E_INVALID_ARG, fdx_send_msg(h->server, &opened, 1, NULL, 0, &result));
    NULL_FOR(fdx_send_msg, results, FDX_OK, fdx_send_msg(h->server, &opened, 1, message, 0, NULL));
    CLIENT_EXPECT_TEXT(&open_client, "hello");
    NULL_FOR(fdx_submit, server, FDX_E_INVALID_ARG, fdx_submit(NULL, &one, sizeof one, &result, 1));
    NULL_FOR(fdx_submit, records, FDX_E_INVALID_ARG, fdx_submit(h->server, NULL, sizeof one, &result, 1));
    NULL_FOR(fdx_submit, records, FDX_OK, fdx_submit(h->server, NULL, 0, &result, 1));
    NULL_FOR(fdx_submit, results, FDX_OK, fdx_submit(h->server, &one, sizeof one, NULL, 1));
    CLIENT_EXPECT(&open_client, OP_BINARY, "hello", 5);
    NULL_FOR(fdx_poll, server, FDX_E_INVALID_ARG, fdx_poll(NULL, 0, 0, 0, &view));
    NULL_FOR(fdx_poll, view, FDX_E_INVALID_ARG, fdx_poll(polled, 0, 0, 0, NULL));
    NULL_FOR(fdx_batch_free, batch, FDX_OK, VOID(fdx_batch_free(NULL)));
    NULL_FOR(fdx_wake, server, FDX_E_INVALID_ARG, fdx_wake(NULL, 0));
    NULL_FOR(fdx_queue_fd, server, FDX_E_INVALID_ARG, fdx_queue_fd(NULL, 0, &fd));
    NULL_FOR(fdx_queue_fd, out_fd, FDX_E_INVALID_ARG, fdx_queue_fd(polled, 0, NULL));
    NULL_FOR(fdx_queue_notify_fd, server, FDX_E_INVALID_ARG, fdx_queue_notify_fd(NULL, 0, -1, NULL, 0));
    NULL_FOR(fdx_queue_notify_fd, payload, FDX_E_INVALID_ARG, fdx_queue_notify_fd(polled, 0, -1, NULL, 3));
    NULL_FOR(fdx_queue_notify_fd, payload, FDX_OK, fdx_queue_notify_fd(polled, 0, -1, NULL, 0));
    NULL_FOR(fdx_close, server, FDX_E_INVALID_ARG, fdx_close(NULL, opened, 1000, "", 0));
    NULL_FOR(fdx_close, reason, FDX_E_INVALID_ARG, fdx_close(h->server, opened, 1000, NULL, 3));
    NULL_FOR(fdx_abort, server, FDX_E_INVALID_ARG, fdx_abort(NULL, opened));
    NULL_FOR(fdx_pause, server, FDX_E_INVALID_ARG, fdx_pause(NULL, opened));
    NULL_FOR(fdx_resume, server, FDX_E_INVALID_ARG, fdx_resume(NULL, opened));
    NULL_FOR(fdx_ping, server, FDX_E_INVALID_ARG, fdx_ping(NULL, opened, "?", 1));
    NULL_FOR(fdx_ping, data, FDX_E_INVALID_ARG, fdx_ping(h->server, opened, NULL, 1));
    NULL_FOR(fdx_conn_set_data, server, FDX_E_INVALID_ARG, fdx_conn_set_data(NULL, opened, &drops, count_drop));
    CHECK(counter_get(&drops) == 0);        /* refused: it stays ours */
    NULL_FOR(fdx_conn_set_data, drop, FDX_OK, fdx_conn_set_data(h->server, opened, &drops, NULL));
    NULL_FOR(fdx_conn_set_data, data, FDX_OK, fdx_conn_set_data(h->server, opened, NULL, NULL));
    NULL_FOR(fdx_conn_get_info, server, FDX_E_INVALID_ARG, fdx_conn_get_info(NULL, opened, &info));
    NULL_FOR(fdx_conn_get_info, info, FDX_E_INVALID_ARG, fdx_conn_get_info(h->server, opened, NULL));
    NULL_FOR(fdx_conns, server, FDX_E_INVALID_ARG, fdx_conns(NULL, 7, conns, 8, &needed));
    NULL_FOR(fdx_conns, out, FDX_E_INVALID_ARG, fdx_conns(h->server, 7, NULL, 8, &needed));
    NULL_FOR(fdx_conns, out, FDX_E_BUFFER, fdx_conns(h->server, 7, NULL, 0, &needed));
    NULL_FOR(fdx_conns, needed, FDX_OK, fdx_conns(h->server, 7, conns, 8, NULL));
    NULL_FOR(fdx_subscribe, server, FDX_E_INVALID_ARG, fdx_subscribe(NULL, opened, "news", 4));
    NULL_FOR(fdx_subscribe, topic, FDX_E_INVALID_ARG, fdx_subscribe(h->server, opened, NULL, 4));
    NULL_FOR(fdx_subscribe, topic, FDX_E_INVALID_ARG, fdx_subscribe(h->server, opened, NULL, 0));
    NULL_FOR(fdx_unsubscribe, server, FDX_E_INVALID_ARG, fdx_unsubscribe(NULL, opened, "news", 4));
    NULL_FOR(fdx_unsubscribe, topic, FDX_E_INVALID_ARG, fdx_unsubscribe(h->server, opened, NULL, 4));
    NULL_FOR(fdx_publish, server, FDX_E_INVALID_ARG, fdx_publish(NULL, "news", 4, message, 0, 0, &published));
    NULL_FOR(fdx_publish, topic, FDX_E_INVALID_ARG, fdx_publish(h->server, NULL, 4, message, 0, 0, &published));
    NULL_FOR(fdx_publish, msg, FDX_E_INVALID_ARG, fdx_publish(h->server, "news", 4, NULL, 0, 0, &published));
    NULL_FOR(fdx_publish, result, FDX_OK, fdx_publish(h->server, "news", 4, message, 0, 0, NULL));
    NULL_FOR(fdx_topic_count, server, FDX_E_INVALID_ARG, fdx_topic_count(NULL, "news", 4, &subscribers));
    NULL_FOR(fdx_topic_count, topic, FDX_E_INVALID_ARG, fdx_topic_count(h->server, NULL, 4, &subscribers));
    NULL_FOR(fdx_topic_count, out, FDX_E_INVALID_ARG, fdx_topic_count(h->server, "news", 4, NULL));
    NULL_FOR(fdx_config_backplane, config, FDX_E_INVALID_ARG, fdx_config_backplane(NULL, &backplane, &error));
    NULL_FOR(fdx_config_backplane, backplane, FDX_E_INVALID_ARG, fdx_config_backplane(config, NULL, &error));
    NULL_FOR(fdx_config_backplane, error, FDX_E_INVALID_ARG, fdx_config_backplane(config, &backplane, NULL));
    NULL_FOR(fdx_backplane_deliver, server, FDX_E_INVALID_ARG, fdx_backplane_deliver(NULL, "fdx:news", 8, "x", 1));
    NULL_FOR(fdx_backplane_deliver, channel, FDX_E_INVALID_ARG, fdx_backplane_deliver(h->server, NULL, 0, "x", 1));
    NULL_FOR(fdx_backplane_deliver, envelope, FDX_E_INVALID_ARG, fdx_backplane_deliver(h->server, "fdx:news", 8, NULL, 0));
    NULL_FOR(fdx_backplane_state, server, FDX_E_INVALID_ARG, fdx_backplane_state(NULL, FDX_BP_UP));
    NULL_FOR(fdx_get_stats, server, FDX_E_INVALID_ARG, fdx_get_stats(NULL, &stats));
    NULL_FOR(fdx_get_stats, stats, FDX_E_INVALID_ARG, fdx_get_stats(h->server, NULL));
    NULL_FOR(fdx_metrics_text, server, FDX_E_INVALID_ARG, fdx_metrics_text(NULL, buf, sizeof buf, &needed));
    NULL_FOR(fdx_metrics_text, buf, FDX_E_INVALID_ARG, fdx_metrics_text(h->server, NULL, 9, &needed));
    NULL_FOR(fdx_metrics_text, buf, FDX_E_BUFFER, fdx_metrics_text(h->server, NULL, 0, &needed));
    NULL_FOR(fdx_metrics_text, needed, FDX_OK, fdx_metrics_text(h->server, buf, sizeof buf, NULL));
    NULL_FOR(fdx_set_log, user_data, FDX_OK, VOID(fdx_set_log(5, call_nobody, NULL, NULL)));
    NULL_FOR(fdx_set_log, log, FDX_OK, VOID(fdx_set_log(5, NULL, &drops, count_drop)));
    NULL_FOR(fdx_set_log, drop, FDX_OK, VOID(fdx_set_log(0, NULL, NULL, NULL)));
    CHECK(counter_get(&drops) == 1);

    fdx_server_unref(unstarted);
    fdx_server_unref(polled);
    fdx_msg_unref(message);
    fdx_config_free(of_polled);
    fdx_config_free(unused);
    fdx_config_free(config);
    tear_down();
}

/* -- struct_size ------------------------------------------------------------------------------------ */

static const uint32_t sizes_too_small[] = { 0, 1, 4, 7 };
#define TOO_SMALL (sizeof sizes_too_small / sizeof sizes_too_small[0])

static int all_bytes_are(const void *memory, size_t from, size_t to, unsigned char byte)
{
    const unsigned char *bytes = (const unsigned char *)memory;

    for (; from < to; from++)
        if (bytes[from] != byte)
            return 0;
    return 1;
}

static void a_struct_that_says_it_is_too_small_is_refused_and_not_touched(void)
{
    fdx_config *config = fdx_config_new();
    size_t i;

    set_up();
    for (i = 0; i < TOO_SMALL; i++) {
        fdx_conn_info info;
        fdx_stats stats;
        fdx_handlers handlers;

        memset(&info, 0xa5, sizeof info);
        info.struct_size = sizes_too_small[i];
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_conn_get_info(h->server, opened, &info));
        CHECK(info.struct_size == sizes_too_small[i] && all_bytes_are(&info, 4, sizeof info, 0xa5));
        memset(&stats, 0xa5, sizeof stats);
        stats.struct_size = sizes_too_small[i];
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_get_stats(h->server, &stats));
        CHECK(stats.struct_size == sizes_too_small[i] && all_bytes_are(&stats, 4, sizeof stats, 0xa5));
        memset(&handlers, 0xa5, sizeof handlers);
        handlers.struct_size = sizes_too_small[i];
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_route(config, "/", 0, &handlers, NULL));
    }
    fdx_config_free(config);
    tear_down();
}

/* Every function with an fdx_error fails in its own way with it. */
static void fail_with(uint32_t size, fdx_error *error, void (*check)(const fdx_error *, uint32_t, fdx_status))
{
    fdx_config *config = fdx_config_new();
    fdx_handlers handlers;
    fdx_server *server = NULL;

#define FAIL(status, call)                         \
    do {                                           \
        memset(error, 0xa5, sizeof *error);        \
        error->struct_size = size;                 \
        CHECK_STATUS(status, call);                \
        check(error, size, status);                \
    } while (0)

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    FAIL(FDX_E_CONFIG, fdx_config_set(config, "no.such.key", "1", error));
    FAIL(FDX_E_CONFIG, fdx_config_load(config, "no such line", FDX_NTS, error));
    FAIL(FDX_E_CONFIG, fdx_config_route(config, "no slash", 0, &handlers, error));
    FAIL(FDX_E_CONFIG, fdx_server_new(config, &server, error));
    FAIL(FDX_E_STATE, fdx_server_start(h->server, error));
    FAIL(FDX_E_STATE, fdx_server_set(h->server, "threads", "2", error));
    FAIL(FDX_E_CONFIG, fdx_listen(h->server, "nowhere", NULL, NULL, error));
#undef FAIL
    fdx_config_free(config);
}

static void check_untouched(const fdx_error *error, uint32_t size, fdx_status status)
{
    (void)status;
    CHECK(error->struct_size == size && all_bytes_are(error, 4, sizeof *error, 0xa5));
}

static void check_cut(const fdx_error *error, uint32_t size, fdx_status status)
{
    size_t end = size < sizeof *error ? size : sizeof *error;

    CHECK(error->struct_size == size && error->status == status);
    CHECK(all_bytes_are(error, end, sizeof *error, 0xa5));
    if (end > offsetof(fdx_error, message))
        CHECK(memchr(error->message, '\0', end - offsetof(fdx_error, message)) != NULL);
}

static void error_details_of_any_size_are_filled_as_far_as_they_go(void)
{
    static const uint32_t sizes[] = { 8, 9, 12, 15, 16, 17, 18, 100, 255, sizeof(fdx_error), 257, 1 << 20, UINT32_MAX };
    struct { fdx_error error; unsigned char behind[256]; } guarded;
    size_t i;

    memset(guarded.behind, 0x5a, sizeof guarded.behind);
    set_up();
    for (i = 0; i < TOO_SMALL; i++)
        fail_with(sizes_too_small[i], &guarded.error, check_untouched);
    for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        fail_with(sizes[i], &guarded.error, check_cut);
    CHECK(all_bytes_are(guarded.behind, 0, sizeof guarded.behind, 0x5a));
    tear_down();
}

static void structs_of_any_other_size_are_filled_as_far_as_both_know_them(void)
{
    struct { fdx_conn_info info; unsigned char behind[256]; } info;
    struct { fdx_stats stats; unsigned char behind[256]; } stats;
    uint32_t size;

    set_up();
    for (size = 8; size < sizeof info; size++) {
        memset(&info, 0xa5, sizeof info);
        info.info.struct_size = size;
        CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, opened, &info.info));
        CHECK(info.info.struct_size == size && info.info.route == 7);
        CHECK(all_bytes_are(&info, size < sizeof info.info ? size : sizeof info.info, sizeof info, 0xa5));
    }
    for (size = 8; size < sizeof stats; size++) {
        memset(&stats, 0xa5, sizeof stats);
        stats.stats.struct_size = size;
        CHECK_STATUS(FDX_OK, fdx_get_stats(h->server, &stats.stats));
        CHECK(stats.stats.struct_size == size && stats.stats.threads == 1);
        CHECK(all_bytes_are(&stats, size < sizeof stats.stats ? size : sizeof stats.stats, sizeof stats, 0xa5));
    }
    info.info.struct_size = stats.stats.struct_size = UINT32_MAX;
    CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, opened, &info.info));
    CHECK_STATUS(FDX_OK, fdx_get_stats(h->server, &stats.stats));
    CHECK(all_bytes_are(&info, sizeof info.info, sizeof info, 0xa5));
    CHECK(all_bytes_are(&stats, sizeof stats.stats, sizeof stats, 0xa5));
    tear_down();
}

static void a_handler_that_struct_size_cuts_through_is_not_called(void)
{
    host *cut = host_new(NULL, NULL);
    fdx_config *config = new_config(NULL);
    fdx_handlers handlers = host_handlers(cut, ON_USUAL);
    fdx_server *server = NULL;
    char path[16];
    uint32_t size, past = sizeof handlers + 8;

    for (size = 8; size <= past; size++) {
        struct { fdx_handlers handlers; void *behind[8]; } given;

        memset(&given, 0xa5, sizeof given);
        memcpy(&given.handlers, &handlers, sizeof handlers);
        given.handlers.struct_size = size == past ? UINT32_MAX : size;
        snprintf(path, sizeof path, "/%u", size);
        CHECK_STATUS(FDX_OK, fdx_config_route(config, path, size, &given.handlers, NULL));
    }
    CHECK_STATUS(FDX_OK, fdx_server_new(config, &server, NULL));
    fdx_config_free(config);
    CHECK_STATUS(FDX_OK, fdx_server_start(server, NULL));
    CHECK_STATUS(FDX_OK, fdx_listener_port(server, 0, &cut->port));
    for (size = 8; size <= past; size++) {
        client c = client_dial(cut->port);

        snprintf(path, sizeof path, "/%u", size);
        CHECK(client_upgrade(&c, path, NULL) == 101);
        client_say(&c, "hello");
        client_send(&c, OP_PING, "", 0);
        while (client_read(&c) != OP_PONG)
            CHECK(c.opcode != -1);
        client_leave(&c);
    }
    CHECK_STATUS(FDX_OK, fdx_server_stop(server, 1001, "", 0, 0, 1000));
    CHECK_STATUS(FDX_OK, fdx_server_wait(server, 30000));
    fdx_server_unref(server);
    CHECK(host_count(cut, FDX_EV_OPEN) == past - (offsetof(fdx_handlers, on_message)) + 1);
    CHECK(host_count(cut, FDX_EV_MESSAGE) == past - (offsetof(fdx_handlers, on_close)) + 1);
    CHECK(host_count(cut, FDX_EV_PING) == past - sizeof handlers + 1);
    host_free(cut);
}

/* -- kinds and flags --------------------------------------------------------------------------------- */

static void every_unknown_kind_and_flag_is_refused(void)
{
    fdx_config *config = fdx_config_new();
    fdx_msg *message = fdx_msg_new(FDX_TEXT, "hello", 5);
    fdx_handlers handlers;
    int bit;

    set_up();
    for (bit = 0; bit < 32; bit++) {
        uint32_t flag = (uint32_t)1 << bit;

        if (flag != FDX_F_MORE && flag != FDX_F_COMPRESS && flag != FDX_F_NO_COMPRESS) {
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send(h->server, opened, FDX_TEXT, "hello", 5, flag));
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send(h->server, opened, FDX_TEXT, "hello", 5, flag | FDX_F_MORE));
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send(h->server, opened, FDX_BINARY, "hello", 5, flag));
        }
        if (flag != FDX_F_COMPRESS && flag != FDX_F_NO_COMPRESS) {
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send_msg(h->server, &opened, 1, message, flag, NULL));
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send_msg(h->server, NULL, 0, message, flag, NULL));
        }
        if (flag != FDX_F_COMPRESS && flag != FDX_F_NO_COMPRESS && flag != FDX_F_SKIP_SENDER) {
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_publish(h->server, "news", 4, message, flag, opened, NULL));
        }
        if (flag != FDX_TEXT && flag != FDX_BINARY) {
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send(h->server, opened, flag, "hello", 5, 0));
            CHECK(fdx_msg_new(flag, "hello", 5) == NULL);
        }
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_send(h->server, opened, FDX_TEXT | FDX_BINARY | flag, "hello", 5, 0));
        CHECK(fdx_msg_new(FDX_TEXT | FDX_BINARY | flag, "hello", 5) == NULL);
        if (flag != FDX_ROUTE_HTTP && flag != FDX_ROUTE_STREAM && flag != FDX_ROUTE_UPGRADE && flag != FDX_ROUTE_OTHER
            && flag != FDX_ROUTE_TOPIC) {
            memset(&handlers, 0, sizeof handlers);
            handlers.struct_size = sizeof handlers;
            handlers.flags = flag;
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_route(config, "/", 0, &handlers, NULL));
            handlers.flags = flag | FDX_ROUTE_HTTP | FDX_ROUTE_STREAM;
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_route(config, "/", 0, &handlers, NULL));
        }
        if (flag != FDX_ABI)
            CHECK(fdx_check_abi(flag) == FDX_E_VERSION);
    }
    fdx_msg_unref(message);
    fdx_config_free(config);
    tear_down();
}

static void a_log_level_out_of_range_is_the_nearest_one(void)
{
    static const int32_t levels[] = { INT32_MIN, -1, 0, 6, 100, INT32_MAX };
    size_t i;

    for (i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        unsigned before = counter_get(&lines_logged);
        client c;

        set_up();
        fdx_set_log(levels[i], log_a_line, NULL, NULL);
        c = client_dial(h->port);
        client_write(&c, "nonsense\r\n\r\n", 12);
        CHECK(client_read_head(&c) >= 400);
        client_drop(&c);
        CHECK((counter_get(&lines_logged) > before) == (levels[i] > 0));
        fdx_set_log(0, NULL, NULL, NULL);
        tear_down();
    }
}

/* -- connections that are none -------------------------------------------------------------------------- */

static void each_call_about_a_connection_says_no_conn_of(fdx_server *server, fdx_conn none)
{
    size_t i;

    for (i = 0; i < EVERY_CALLS; i++)
        if (every_call[i].takes & TAKES_CONN)
            check_status(__FILE__, __LINE__, every_call[i].name, FDX_E_NO_CONN, CALL(every_call[i].make(server, none)));
}

static void a_hundred_thousand_ids_are_no_connections_of_any_call(void)
{
    uint64_t random = 88172645463325252u;   /* xorshift64 */
    unsigned i, of_a_kind = 0, count = times(100000, 3000);

    set_up();
    counter_add(&data_dropped);             /* so that a drop would show as a second one */
    for (i = 0; i < count; i++) {
        fdx_conn id;

        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        switch (i % 4) {
        case 0: id = random; break;                                     /* any number */
        case 1: id = random >> (i % 52); break;                         /* of any length */
        case 2: id = opened ^ (random & ((1 << 21) - 1)) << 24; break;   /* the place is right, the generation is not */
        default: id = opened ^ (random & ((1 << 24) - 1));              /* the other way round */
        }
        if (id == opened || id == undecided || id == asking)
            continue;
        do
            of_a_kind = (of_a_kind + 1) % EVERY_CALLS;
        while (!(every_call[of_a_kind].takes & TAKES_CONN));
        check_status(__FILE__, __LINE__, every_call[of_a_kind].name, FDX_E_NO_CONN,
                     CALL(every_call[of_a_kind].make(h->server, id)));
    }
    CHECK(counter_get(&data_dropped) == 1);
    tear_down();
}

static void a_connection_of_another_server_is_no_connection_of_any_call(void)
{
    host *other = host_start(NULL, ON_USUAL, NULL, NULL);

    set_up();
    each_call_about_a_connection_says_no_conn_of(other->server, opened);
    each_call_about_a_connection_says_no_conn_of(other->server, undecided);
    each_call_about_a_connection_says_no_conn_of(other->server, asking);
    tear_down();
    host_end(other);
}

static void every_kind_of_connection_that_has_ended_is_no_connection_of_any_call(void)
{
    host *past = host_start_with(NULL, ON_ALL, FDX_ROUTE_HTTP, NULL, NULL);
    fdx_conn ids[5];
    unsigned i, way;

    for (way = 0; way < 5; way++) {
        client c = client_dial(past->port);

        if (way == 0) {                     /* a page that was delivered */
            client_write(&c, plain_request, strlen(plain_request));
            ids[way] = host_await(past, FDX_EV_HTTP, 1).conn;
            CHECK_STATUS(FDX_OK, fdx_http_reply(past->server, ids[way], 200, NULL, 0, "fine", 4));
            CHECK(client_read_head(&c) == 200);
        } else {
            client_ask(&c, "/", NULL);
            ids[way] = host_await(past, FDX_EV_UPGRADE, way).conn;
            if (way == 1) {                 /* a refusal */
                CHECK_STATUS(FDX_OK, fdx_reject(past->server, ids[way], 403, NULL, 0, NULL, 0));
                CHECK(client_read_head(&c) == 403);
            } else if (way == 2) {          /* the host's end before the decision */
                CHECK_STATUS(FDX_OK, fdx_abort(past->server, ids[way]));
                CHECK(client_read_head(&c) == 0);
            } else {
                CHECK_STATUS(FDX_OK, fdx_accept(past->server, ids[way], NULL, NULL, 0));
                CHECK(client_read_head(&c) == 101);
                if (way == 3)
                    client_leave(&c);
                else
                    client_reset(&c);
                host_await(past, FDX_EV_CLOSE, way - 2);
            }
        }
        client_drop(&c);
        CHECK_SOON(get_info(past->server, ids[way]) == FDX_E_NO_CONN);
        for (i = 0; i <= way; i++)
            each_call_about_a_connection_says_no_conn_of(past->server, ids[i]);
    }
    host_end(past);
}

/* -- strings that reach the wire -------------------------------------------------------------------------- */

static void no_line_end_and_no_nul_passes_in_a_header_of_any_answer(void)
{
    static const char good[] = "X-One: one\r\nX-Two: two\r\n";
    static const char bad[] = { '\r', '\n', '\0', '\x1f', '\x7f' };
    char lines[sizeof good + 1];
    size_t len = sizeof good - 1, at, i;

    set_up();
    for (i = 0; i < sizeof bad; i++) {
        for (at = 0; at <= len; at++) {     /* put in at every place */
            memcpy(lines, good, at);
            lines[at] = bad[i];
            memcpy(lines + at + 1, good + at, len - at);
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_accept(h->server, undecided, NULL, lines, len + 1));
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_reject(h->server, undecided, 403, lines, len + 1, NULL, 0));
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_http_reply(h->server, asking, 200, lines, len + 1, NULL, 0));
        }
        for (at = 0; at < len; at++) {      /* instead of every byte */
            memcpy(lines, good, len);
            if (lines[at] == bad[i])
                continue;
            lines[at] = bad[i];
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_accept(h->server, undecided, NULL, lines, len));
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_reject(h->server, undecided, 403, lines, len, NULL, 0));
            CHECK_STATUS(FDX_E_INVALID_ARG, fdx_http_reply(h->server, asking, 200, lines, len, NULL, 0));
        }
    }
    tear_down();
}

static void headers_that_the_server_sets_are_refused_in_any_case(void)
{
    static const char *const own[] = {
        "Upgrade: h2c\r\n", "connection: keep-alive\r\n", "CONTENT-LENGTH: 5\r\n", "Transfer-Encoding: chunked\r\n",
        "X-One: 1\r\nsec-websocket-accept: x\r\n", "Sec-WebSocket-Protocol: chat\r\n", "Sec-WebSocket-Extensions: x\r\n",
    };
    size_t i;

    set_up();
    for (i = 0; i < sizeof own / sizeof own[0]; i++) {
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_accept(h->server, undecided, NULL, own[i], FDX_NTS));
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_reject(h->server, undecided, 403, own[i], FDX_NTS, NULL, 0));
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_http_reply(h->server, asking, 200, own[i], FDX_NTS, NULL, 0));
    }
    tear_down();
}

static void no_line_end_passes_in_a_subprotocol_or_an_option_that_is_sent(void)
{
    static const char *const bad[] = { "chat\r\nX-One: 1", "ch\nat", "ch\rat", "chat\r\n\r\nHTTP/1.1 200 OK" };
    fdx_config *config = fdx_config_new();
    size_t i;

    set_up();
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_accept(h->server, undecided, bad[i], NULL, 0));
        CHECK_STATUS(FDX_E_CONFIG, fdx_config_set(config, "protocols", bad[i], NULL));
        CHECK_STATUS(FDX_E_CONFIG, fdx_server_set(h->server, "protocols", bad[i], NULL));
        CHECK_STATUS(FDX_E_CONFIG, fdx_config_set(config, "versions", bad[i], NULL));
    }
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_accept(h->server, undecided, "chat\n", NULL, 0));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_accept(h->server, undecided, "\r\nchat", NULL, 0));
    fdx_config_free(config);
    tear_down();
}

static void a_close_reason_may_hold_any_character_for_it_travels_by_its_length(void)
{
    static const char reason[] = "one\r\ntwo\0three";
    unsigned char payload[2 + sizeof reason - 1];

    set_up();
    payload[0] = 0x0f;
    payload[1] = 0xa0;
    memcpy(payload + 2, reason, sizeof reason - 1);
    CHECK_STATUS(FDX_OK, fdx_close(h->server, opened, 4000, reason, sizeof reason - 1));
    CLIENT_EXPECT(&open_client, OP_CLOSE, payload, sizeof payload);
    client_drop(&open_client);
    client_drop(&undecided_client);
    client_drop(&asking_client);
    host_end(h);
}

static void a_reason_that_is_too_long_or_cut_inside_a_character_is_refused(void)
{
    static char reason[10001];
    size_t i;

    memset(reason, 'x', sizeof reason - 1);
    set_up();
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_close(h->server, opened, 1000, reason, 124));
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_close(h->server, opened, 1000, reason, 10000));
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_close(h->server, opened, 1000, reason, FDX_NTS));
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_server_stop(h->server, 1000, reason, 10000, 0, 0));
    memcpy(reason + 119, "\xf0\x9f\x98\x80", 4);   /* bytes 119 to 122: a character of four bytes ends at 123 */
    for (i = 120; i < 123; i++) {
        CHECK_STATUS(FDX_E_UTF8, fdx_close(h->server, opened, 1000, reason, i));
        CHECK_STATUS(FDX_E_UTF8, fdx_server_stop(h->server, 1000, reason, i, 0, 0));
    }
    CHECK_STATUS(FDX_E_TOO_BIG, fdx_close(h->server, opened, 1000, reason, 124));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_close(h->server, opened, 1000, reason, (size_t)-2));
    CHECK_STATUS(FDX_OK, fdx_close(h->server, opened, 1000, reason, 123));
    reason[123] = '\0';
    CLIENT_EXPECT_CLOSE(&open_client, 1000, reason);
    client_drop(&open_client);
    client_drop(&undecided_client);
    client_drop(&asking_client);
    host_end(h);
}

static void of_all_close_codes_exactly_those_of_the_header_are_sent(void)
{
    unsigned code, refused = 0;

    set_up();
    for (code = 1; code < 65536; code++) {
        int is_right = (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);

        if (is_right)
            continue;
        refused++;
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_close(h->server, opened, (uint16_t)code, "", 0));
        CHECK_STATUS(FDX_E_INVALID_ARG, fdx_server_stop(h->server, (uint16_t)code, NULL, 0, 0, 0));
    }
    CHECK(refused == 65535 - 4 - 8 - 2000);
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_close(h->server, opened, 0, "a reason needs a code", FDX_NTS));
    tear_down();
}

int main(void)
{
    PROVE(null_for_each_pointer_of_each_function_gives_its_status_and_harms_nothing);
    PROVE(a_struct_that_says_it_is_too_small_is_refused_and_not_touched);
    PROVE(error_details_of_any_size_are_filled_as_far_as_they_go);
    PROVE(structs_of_any_other_size_are_filled_as_far_as_both_know_them);
    PROVE(a_handler_that_struct_size_cuts_through_is_not_called);
    PROVE(every_unknown_kind_and_flag_is_refused);
    PROVE(a_log_level_out_of_range_is_the_nearest_one);
    PROVE(a_hundred_thousand_ids_are_no_connections_of_any_call);
    PROVE(a_connection_of_another_server_is_no_connection_of_any_call);
    PROVE(every_kind_of_connection_that_has_ended_is_no_connection_of_any_call);
    PROVE(no_line_end_and_no_nul_passes_in_a_header_of_any_answer);
    PROVE(headers_that_the_server_sets_are_refused_in_any_case);
    PROVE(no_line_end_passes_in_a_subprotocol_or_an_option_that_is_sent);
    PROVE(a_close_reason_may_hold_any_character_for_it_travels_by_its_length);
    PROVE(a_reason_that_is_too_long_or_cut_inside_a_character_is_refused);
    PROVE(of_all_close_codes_exactly_those_of_the_header_are_sent);
    return 0;
}
