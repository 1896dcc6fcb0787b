/* Everybody is in one topic, and what anybody says goes to all: what `fanout` measures. */
#include "options.h"

static const char ROOM[] = "room";

static void on_open(void *user_data, fdx_server *server, const fdx_event *event)
{
    (void)user_data;
    if (fdx_subscribe(server, event->conn, ROOM, FDX_NTS) != FDX_OK)
        give_up("fdx_subscribe");
}

static void on_message(void *user_data, fdx_server *server, const fdx_event *event)
{
    uint32_t kind = event->flags & FDX_EVF_BINARY ? FDX_BINARY : FDX_TEXT;
    fdx_msg *message = fdx_msg_new(kind, event->data, event->len);

    (void)user_data;
    fdx_publish(server, ROOM, FDX_NTS, message, 0, 0, NULL);
    fdx_msg_unref(message);
}

int main(int argc, char **argv)
{
    struct options options = { .about = "one topic for all", .listen = { "127.0.0.1:9001" } };
    fdx_handlers handlers = { .struct_size = sizeof handlers, .on_open = on_open, .on_message = on_message };
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
