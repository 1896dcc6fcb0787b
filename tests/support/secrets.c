/* A server for tests: says a secret as it is asked to, compressed or not, and what it knows of its own
 * compression.
 */
#include <stdio.h>
#include <string.h>

#include "options.h"

static void say_status(fdx_server *server, fdx_conn conn, const char *format, long long a, long long b)
{
    char text[100];
    int len = snprintf(text, sizeof text, format, a, b);

    fdx_send(server, conn, FDX_TEXT, text, (size_t)len, 0);
}

static int is_word(const fdx_event *event, const char *word)
{
    return event->len == strlen(word) && memcmp(event->data, word, event->len) == 0;
}

static void on_message(void *user_data, fdx_server *server, const fdx_event *event)
{
    const uint32_t both = FDX_F_COMPRESS | FDX_F_NO_COMPRESS;
    fdx_stats stats = { .struct_size = sizeof stats };
    fdx_conn_info info = { .struct_size = sizeof info };
    fdx_conn conn = event->conn;
    char secret[281] = "";
    fdx_msg *message;
    int i;

    (void)user_data;
    for (i = 0; i < 40; i++)
        memcpy(secret + 7 * i, "secret ", 7);
    message = fdx_msg_new(FDX_TEXT, secret, 280);
    if (is_word(event, "plain"))
        fdx_send(server, conn, FDX_TEXT, secret, 280, FDX_F_NO_COMPRESS);
    else if (is_word(event, "compressed"))
        fdx_send(server, conn, FDX_TEXT, secret, 280, FDX_F_COMPRESS);
    else if (is_word(event, "short"))
        fdx_send(server, conn, FDX_TEXT, secret, 100, FDX_F_COMPRESS);
    else if (is_word(event, "both"))
        say_status(server, conn, "%lld %lld", fdx_send(server, conn, FDX_TEXT, secret, 280, both),
                   fdx_send_msg(server, &conn, 1, message, both, NULL));
    else if (is_word(event, "message plain"))
        fdx_send_msg(server, &conn, 1, message, FDX_F_NO_COMPRESS, NULL);
    else if (is_word(event, "message"))
        fdx_send_msg(server, &conn, 1, message, 0, NULL);
    else if (fdx_get_stats(server, &stats) == FDX_OK && fdx_conn_get_info(server, conn, &info) == FDX_OK)
        say_status(server, conn, "%lld %lld", (long long)info.flags, (long long)stats.deflate_bytes);
    fdx_msg_unref(message);
}

int main(int argc, char **argv)
{
    struct options options = { .about = "a server for tests", .listen = { "127.0.0.1:9002" } };
    fdx_handlers handlers = { .struct_size = sizeof handlers, .on_message = on_message };
    fdx_error error = { .struct_size = sizeof error };
    fdx_config *config = fdx_config_new();
    fdx_server *server = NULL;
    sigset_t stop_signals;

    block_stop_signals(&stop_signals);
    read_options(&options, config, argc, argv);
    if (fdx_config_route(config, "/*", 0, &handlers, &error) < 0 || fdx_server_new(config, &server, &error) < 0 ||
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
