/* Sends every message back to the one who sent it.
 *
 *   echo --listen 127.0.0.1:9001
 */
#include "options.h"

static void on_message(void *user_data, fdx_server *server, const fdx_event *event)
{
    uint32_t kind = event->flags & FDX_EVF_BINARY ? FDX_BINARY : FDX_TEXT;

    (void)user_data;
    /* A peer that does not read fills its queue up to send.limit; then send.full decides. */
    fdx_send(server, event->conn, kind, event->data, event->len, 0);
}

int main(int argc, char **argv)
{
    struct options options = { .about = "sends every message back", .listen = { "127.0.0.1:9001" } };
    fdx_handlers handlers = { .struct_size = sizeof handlers, .on_message = on_message };
    fdx_error error = { .struct_size = sizeof error };
    fdx_config *config = fdx_config_new();
    fdx_server *server = NULL;
    sigset_t stop_signals;

    block_stop_signals(&stop_signals);
    read_options(&options, config, argc, argv);
    if (fdx_config_route(config, "/*", 0, &handlers, &error) < 0 ||
        fdx_server_new(config, &server, &error) < 0 ||
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
