/* A loop of your own: it waits for the server's queue, for a timer and for Ctrl-C, and nothing is
 * ever called. Every message goes back to its sender; every second all are told the time.
 *
 *   ownloop --listen 127.0.0.1:9002
 */
#include <errno.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>
#include "options.h"

static int stop_pipe[2];

/* Little else than write is allowed in a signal handler. */
static void on_stop_signal(int signal_number)
{
    int error = errno;

    (void)signal_number;
    if (write(stop_pipe[1], "", 1) < 0)
        _exit(1);
    errno = error;
}

static void catch_stop_signals(void)
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = on_stop_signal;
    if (pipe(stop_pipe) < 0 || sigaction(SIGINT, &action, NULL) < 0 || sigaction(SIGTERM, &action, NULL) < 0) {
        perror("signals");
        exit(1);
    }
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void say_to_all(fdx_server *server, unsigned tick)
{
    static fdx_conn *conns;
    static size_t room;
    size_t count = 0;
    char text[32];
    fdx_msg *message;

    while (fdx_conns(server, UINT32_MAX, conns, room, &count) == FDX_E_BUFFER) {
        room = count + 16;   /* somebody may come in meanwhile */
        conns = realloc(conns, room * sizeof *conns);
        if (!conns)
            give_up("not enough memory for the list of connections");
    }
    snprintf(text, sizeof text, "tick %u", tick);
    message = fdx_msg_new(FDX_TEXT, text, FDX_NTS);
    fdx_send_msg(server, conns, count, message, 0, NULL);
    fdx_msg_unref(message);
}

/* Everything that is in the queue, a batch at a time. The status says why there is no more. */
static fdx_status take_events(fdx_server *server)
{
    fdx_batch_view view = { .struct_size = sizeof view };
    fdx_status status;

    while ((status = fdx_poll(server, 0, 0, 0, &view)) == FDX_OK) {
        for (size_t i = 0; i < view.count; i++) {
            /* A later version may have longer events. */
            const fdx_event *event = (const fdx_event *)((const char *)view.events + i * view.stride);
            uint32_t kind = event->flags & FDX_EVF_BINARY ? FDX_BINARY : FDX_TEXT;

            if (event->type == FDX_EV_MESSAGE)
                fdx_send(server, event->conn, kind, event->data, event->len, 0);
        }
        /* What is not freed counts as unread, and its peers are read no further. */
        fdx_batch_free(view.batch);
    }
    return status;
}

static void run(fdx_server *server)
{
    enum { QUEUE, STOP, COUNT };
    struct pollfd waits[COUNT] = { { .events = POLLIN }, { .fd = stop_pipe[0], .events = POLLIN } };
    int64_t next_tick = now_ms() + 1000;
    unsigned tick = 0;
    ptrdiff_t queue_fd;

    if (fdx_queue_fd(server, 0, &queue_fd) < 0)
        give_up("this system has no descriptor to wait for");
    waits[QUEUE].fd = (int)queue_fd;
    for (;;) {
        int64_t left = next_tick - now_ms();

        if (poll(waits, COUNT, left > 0 ? (int)left : 0) < 0)
            continue;   /* a signal: it is in the pipe now */
        if (waits[QUEUE].revents && take_events(server) == FDX_E_STOPPED)
            return;
        if (waits[STOP].revents) {
            fdx_server_stop(server, 1001, "the server is stopping", FDX_NTS, 0, 2000);
            waits[STOP].fd = -1;   /* once; the queue says when all have left */
        }
        if (now_ms() >= next_tick) {
            say_to_all(server, ++tick);
            next_tick += 1000;
        }
    }
}

int main(int argc, char **argv)
{
    struct options options = { .about = "events in a loop of one's own", .listen = { "127.0.0.1:9002" } };
    fdx_handlers handlers = { .struct_size = sizeof handlers };
    fdx_error error = { .struct_size = sizeof error };
    fdx_config *config = fdx_config_new();
    fdx_server *server = NULL;

    catch_stop_signals();
    set_option(&options, config, "dispatch", "queue");
    read_options(&options, config, argc, argv);
    if (fdx_config_route(config, "/*", 0, &handlers, &error) < 0 ||
        fdx_server_new(config, &server, &error) < 0 ||
        fdx_server_start(server, &error) < 0)
        give_up(error.message);
    fdx_config_free(config);

    announce(&options, server);
    run(server);

    fdx_server_wait(server, -1);
    fdx_server_unref(server);
    return 0;
}
