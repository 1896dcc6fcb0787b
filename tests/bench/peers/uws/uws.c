/* An echo server of uWebSockets, to measure ours against: the library of PyPI's socketify, called from C.
 *
 *     uws [--listen 127.0.0.1:0] [--topic]
 *
 * With --topic everybody is in one topic, and what anybody says goes to all.
 *
 * Nothing is on that could cost: no compression, no pings, no idle timeout, no limit to what waits for a slow reader, and no
 * handlers but those that work. uWebSockets corks by itself while it hands over what one recv brought, so that several
 * messages in flight share a send; topics it drains once per turn of its loop. */
#define _GNU_SOURCE
#include "uwebsockets.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PLAIN = 0, MESSAGE_BYTES_MAX = 16 << 20 };

static const char ROOM[] = "room";
enum { ROOM_BYTES = sizeof ROOM - 1 };

static uws_app_t *app;

static void stop(int signal_number)
{
    (void)signal_number;
    _exit(0);
}

static void echo(uws_websocket_t *ws, const char *message, size_t length, uws_opcode_t opcode, void *user_data)
{
    (void)user_data;
    uws_ws_send(PLAIN, ws, message, length, opcode);
}

static void join(uws_websocket_t *ws, void *user_data)
{
    (void)user_data;
    uws_ws_subscribe(PLAIN, ws, ROOM, ROOM_BYTES);
}

static void publish(uws_websocket_t *ws, const char *message, size_t length, uws_opcode_t opcode, void *user_data)
{
    (void)ws;
    (void)user_data;
    uws_publish(PLAIN, app, ROOM, ROOM_BYTES, message, length, opcode, false);
}

static void announce(struct us_listen_socket_t *listener, uws_app_listen_config_t config, void *user_data)
{
    (void)user_data;
    if (listener == NULL) {
        fprintf(stderr, "uws: can't listen on %s:%d\n", config.host, config.port);
        exit(1);
    }
    printf("listening on %s:%d\n", config.host, us_socket_local_port(PLAIN, listener));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char host[64] = "127.0.0.1";
    int port = 0;
    bool with_topic = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--topic") == 0) {
            with_topic = true;
        } else if (strcmp(argv[i], "--listen") != 0 || ++i == argc || sscanf(argv[i], "%63[^:]:%d", host, &port) != 2) {
            fprintf(stderr, "usage: uws [--listen 127.0.0.1:0] [--topic]\n");
            return 1;
        }
    }
    signal(SIGTERM, stop);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    uws_socket_behavior_t behavior = {.compression = DISABLED, .maxPayloadLength = MESSAGE_BYTES_MAX};
    behavior.open = with_topic ? join : NULL;
    behavior.message = with_topic ? publish : echo;
    app = uws_create_app(PLAIN, (struct us_socket_context_options_t){0});
    uws_ws(PLAIN, app, "/*", behavior, NULL);
    uws_app_listen_with_config(PLAIN, app, (uws_app_listen_config_t){.port = port, .host = host}, announce, NULL);
    uws_app_run(PLAIN, app);
    return 1;
}
