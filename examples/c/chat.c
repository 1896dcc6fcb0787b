/* A chat room: one port serves the page and relays what one person says to all.
 *
 *   chat --listen 127.0.0.1:9990 --page examples/web/chat.html
 */
#include "options.h"

enum { ROUTE_ROOM = 1, ROUTE_PAGE = 2 };

struct page {
    char *bytes;
    size_t len;
};

/* All connections of a route, to be freed by the caller. */
static fdx_conn *everyone(fdx_server *server, uint32_t route, size_t *count)
{
    fdx_conn *conns = NULL;
    fdx_status status;
    size_t room = 0;

    while ((status = fdx_conns(server, route, conns, room, count)) == FDX_E_BUFFER) {
        free(conns);
        room = *count + 16;   /* somebody may come in meanwhile */
        conns = malloc(room * sizeof *conns);
        if (!conns)
            break;
    }
    if (status != FDX_OK)
        *count = 0;
    return conns;
}

static void on_message(void *user_data, fdx_server *server, const fdx_event *event)
{
    fdx_conn *conns;
    fdx_msg *message;
    size_t count = 0;

    (void)user_data;
    if (event->flags & FDX_EVF_BINARY) {
        fdx_close(server, event->conn, 1003, "this room takes text only", FDX_NTS);
        return;
    }
    /* Who is gone, or too slow to follow, is skipped: the result for each could be asked for. */
    conns = everyone(server, event->route, &count);
    message = fdx_msg_new(FDX_TEXT, event->data, event->len);
    fdx_send_msg(server, conns, count, message, 0, NULL);
    fdx_msg_unref(message);
    free(conns);
}

static void on_http(void *user_data, fdx_server *server, const fdx_event *event)
{
    const struct page *page = user_data;

    if (event->type == FDX_EV_HTTP)
        fdx_http_reply(server, event->conn, 200,
                       "Content-Type: text/html; charset=utf-8\r\nCache-Control: no-cache\r\n", FDX_NTS,
                       page->bytes, page->len);
}

static struct page read_page(const char *path)
{
    struct page page = { NULL, 0 };
    FILE *file = fopen(path, "rb");
    size_t room = 0, got;

    if (!file) {
        perror(path);
        exit(1);
    }
    do {
        if (page.len == room) {
            room = room ? 2 * room : 16384;
            page.bytes = realloc(page.bytes, room);
            if (!page.bytes)
                give_up("not enough memory for the page");
        }
        got = fread(page.bytes + page.len, 1, room - page.len, file);
        page.len += got;
    } while (got > 0);
    if (ferror(file)) {
        perror(path);
        exit(1);
    }
    fclose(file);
    return page;
}

/* ":9990" and "0.0.0.0:9990" are every address of this machine; the browser is told one of them. */
static void print_link(const char *address, fdx_server *server)
{
    const char *colon = strrchr(address, ':');
    int host_length = colon ? (int)(colon - address) : 0;
    uint16_t port = 0;

    if (fdx_listener_port(server, 0, &port) != FDX_OK || port == 0)
        return;   /* a socket that no browser can open */
    if (host_length == 0 || strncmp(address, "0.0.0.0:", 8) == 0 || strncmp(address, "[::]:", 5) == 0) {
        address = "127.0.0.1";
        host_length = (int)strlen(address);
    }
    printf("open http://%.*s:%u/\n", host_length, address, port);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct options options = {
        .about = "a chat room with its page", .page = "examples/web/chat.html", .listen = { "127.0.0.1:9990" },
    };
    struct page page;
    fdx_handlers room = { .struct_size = sizeof room, .on_message = on_message };
    fdx_handlers site = { .struct_size = sizeof site, .flags = FDX_ROUTE_HTTP, .user_data = &page, .on_other = on_http };
    fdx_error error = { .struct_size = sizeof error };
    fdx_config *config = fdx_config_new();
    fdx_server *server = NULL;
    sigset_t stop_signals;

    block_stop_signals(&stop_signals);
    read_options(&options, config, argc, argv);
    page = read_page(options.page);
    if (fdx_config_route(config, "/chat", ROUTE_ROOM, &room, &error) < 0 ||
        fdx_config_route(config, "/", ROUTE_PAGE, &site, &error) < 0 ||
        fdx_config_route(config, "/index.html", ROUTE_PAGE, &site, &error) < 0 ||
        fdx_server_new(config, &server, &error) < 0 ||
        fdx_server_start(server, &error) < 0)
        give_up(error.message);
    fdx_config_free(config);

    announce(&options, server);
    print_link(options.listen[0], server);
    wait_for_stop_signal(&stop_signals);

    fdx_server_stop(server, 1001, "the chat is closing", FDX_NTS, 0, 2000);
    fdx_server_wait(server, -1);
    fdx_server_unref(server);
    free(page.bytes);
    return 0;
}
