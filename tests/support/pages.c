/* A server for tests: sends every message of a WebSocket back, and the body of every request to
 * /body; who asks for /never waits in vain. Other paths have no page of its own.
 */
#include "options.h"

static void on_message(void *user_data, fdx_server *server, const fdx_event *event)
{
    (void)user_data;
    fdx_send(server, event->conn, event->flags & FDX_EVF_BINARY ? FDX_BINARY : FDX_TEXT, event->data, event->len, 0);
}

static void on_body(void *user_data, fdx_server *server, const fdx_event *event)
{
    (void)user_data;
    if (event->type == FDX_EV_HTTP)
        fdx_http_reply(server, event->conn, 200, "Content-Type: application/octet-stream\r\n", FDX_NTS, event->data, event->len);
}

static void on_nothing(void *user_data, fdx_server *server, const fdx_event *event)
{
    (void)user_data, (void)server, (void)event;
}

int main(int argc, char **argv)
{
    struct options options = { .about = "a server for tests", .listen = { "127.0.0.1:9002" } };
    fdx_handlers echo = { .struct_size = sizeof echo, .on_message = on_message };
    fdx_handlers body = { .struct_size = sizeof body, .flags = FDX_ROUTE_HTTP, .on_other = on_body };
    fdx_handlers never = { .struct_size = sizeof never, .flags = FDX_ROUTE_HTTP, .on_other = on_nothing };
    fdx_error error = { .struct_size = sizeof error };
    fdx_config *config = fdx_config_new();
    fdx_server *server = NULL;
    sigset_t stop_signals;

    block_stop_signals(&stop_signals);
    read_options(&options, config, argc, argv);
    if (fdx_config_route(config, "/*", 0, &echo, &error) < 0 || fdx_config_route(config, "/body", 0, &body, &error) < 0 ||
        fdx_config_route(config, "/never", 0, &never, &error) < 0 || fdx_server_new(config, &server, &error) < 0 ||
        fdx_server_start(server, &error) < 0)
        give_up(error.message);
    fdx_config_free(config);
    announce(&options, server);
    wait_for_stop_signal(&stop_signals);
    fdx_server_stop(server, 1001, "the server is stopping", FDX_NTS, 0, 2000);
    fdx_server_wait(server, -1);
    fdx_server_unref(server);
    return 0;
}
