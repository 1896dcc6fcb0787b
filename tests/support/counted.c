/* The server whose instructions are counted, under callgrind: it echoes at /, publishes what comes at /topic to all
 * who are there, and at /count obeys whoever counts:
 *
 *   from           what was executed so far is not counted
 *   to NAME        callgrind writes down what was executed since, under this name
 *   hold FD FD     writes a byte to the one descriptor and waits for a byte from the other: what peers say meanwhile
 *                  comes with one turn, the next
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

#include "options.h"

static const char ROOM[] = "room";
enum { ECHO, TOPIC, COUNT };

static void on_open(void *user_data, fdx_server *server, const fdx_event *event)
{
    (void)user_data;
    if (event->route == TOPIC && fdx_subscribe(server, event->conn, ROOM, FDX_NTS) != FDX_OK)
        give_up("fdx_subscribe");
}

static void echo(void *user_data, fdx_server *server, const fdx_event *event)
{
    uint32_t kind = event->flags & FDX_EVF_BINARY ? FDX_BINARY : FDX_TEXT;

    (void)user_data;
    fdx_send(server, event->conn, kind, event->data, event->len, 0);
}

static void publish(void *user_data, fdx_server *server, const fdx_event *event)
{
    fdx_msg *message = fdx_msg_new(FDX_TEXT, event->data, event->len);

    (void)user_data;
    fdx_publish(server, ROOM, FDX_NTS, message, 0, 0, NULL);
    fdx_msg_unref(message);
}

static void obey(void *user_data, fdx_server *server, const fdx_event *event)
{
    char words[64] = "", byte;

    memcpy(words, event->data, event->len < sizeof words ? event->len : sizeof words - 1);
    echo(user_data, server, event);
    if (strncmp(words, "hold ", 5) == 0) {
        char *rest;
        int told = (int)strtol(words + 5, &rest, 10), awaited = atoi(rest);

        if (write(told, "!", 1) != 1 || read(awaited, &byte, 1) != 1)
            give_up("hold");
    } else {
        /* What was dumped is not counted again. */
        CALLGRIND_DUMP_STATS_AT(words);
    }
}

int main(int argc, char **argv)
{
    struct options options = { .about = "counts what it does", .listen = { "127.0.0.1:0" } };
    fdx_handlers echoes = { .struct_size = sizeof echoes, .on_message = echo };
    fdx_handlers publishes = { .struct_size = sizeof publishes, .on_open = on_open, .on_message = publish };
    fdx_handlers obeys = { .struct_size = sizeof obeys, .on_message = obey };
    fdx_error error = { .struct_size = sizeof error };
    fdx_config *config = fdx_config_new();
    fdx_server *server = NULL;
    sigset_t stop_signals;

    block_stop_signals(&stop_signals);
    read_options(&options, config, argc, argv);
    if (fdx_config_route(config, "/", ECHO, &echoes, &error) < 0 ||
        fdx_config_route(config, "/topic", TOPIC, &publishes, &error) < 0 ||
        fdx_config_route(config, "/count", COUNT, &obeys, &error) < 0 ||
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
