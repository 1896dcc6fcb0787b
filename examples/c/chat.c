/* A chat: one port serves the page and relays what one person says to all in the same room.
 *
 *   chat --listen 127.0.0.1:9990 --page examples/web/chat.html
 *
 * The room is in the path: "/room/any-name", and the lobby is at "/" and "/chat". Each is a topic of
 * the library's, so with --set backplane=redis://127.0.0.1:6379 several chats are one.
 */
#include "options.h"

enum { ROUTE_LOBBY = 1, ROUTE_ROOM = 2, TOPIC_BYTES_MAX = 255 };

static char lobby[] = "/chat";

struct page {
    char *bytes;
    size_t len;
};

static void on_open(void *user_data, fdx_server *server, const fdx_event *event)
{
    char path[TOPIC_BYTES_MAX + 1], *room = lobby;
    size_t size;

    (void)user_data;
    if (event->route == ROUTE_ROOM) {
        if (fdx_request_get(server, event->conn, ":path", path, sizeof path, &size) != FDX_OK) {
            fdx_close(server, event->conn, 1008, "the name of this room is too long", FDX_NTS);
            return;
        }
        room = malloc(size);
        if (!room) {
            fdx_abort(server, event->conn);
            return;
        }
        memcpy(room, path, size);
    }
    fdx_subscribe(server, event->conn, room, FDX_NTS);
    /* It comes with every message; who has just gone leaves it to us. */
    if (fdx_conn_set_data(server, event->conn, room, room == lobby ? NULL : free) != FDX_OK && room != lobby)
        free(room);
}

static void on_message(void *user_data, fdx_server *server, const fdx_event *event)
{
    fdx_msg *message;

    (void)user_data;
    if (event->flags & FDX_EVF_BINARY) {
        fdx_close(server, event->conn, 1003, "this room takes text only", FDX_NTS);
        return;
    }
    /* Who is too slow to follow is skipped, or closed: `send.full` says which. */
    message = fdx_msg_new(FDX_TEXT, event->data, event->len);
    fdx_publish(server, event->conn_data, FDX_NTS, message, 0, 0, NULL);
    fdx_msg_unref(message);
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
        .about = "a chat with its page", .page = "examples/web/chat.html", .listen = { "127.0.0.1:9990" },
    };
    struct page page;
    fdx_handlers room = { .struct_size = sizeof room, .on_open = on_open, .on_message = on_message };
    fdx_handlers room_with_page = {
        .struct_size = sizeof room_with_page, .flags = FDX_ROUTE_HTTP, .user_data = &page,
        .on_open = on_open, .on_message = on_message, .on_other = on_http,
    };
    fdx_error error = { .struct_size = sizeof error };
    fdx_config *config = fdx_config_new();
    fdx_server *server = NULL;
    sigset_t stop_signals;

    block_stop_signals(&stop_signals);
    read_options(&options, config, argc, argv);
    page = read_page(options.page);
    if (fdx_config_route(config, lobby, ROUTE_LOBBY, &room, &error) < 0 ||
        fdx_config_route(config, "/", ROUTE_LOBBY, &room_with_page, &error) < 0 ||
        fdx_config_route(config, "/index.html", ROUTE_LOBBY, &room_with_page, &error) < 0 ||
        fdx_config_route(config, "/room/:name", ROUTE_ROOM, &room_with_page, &error) < 0 ||
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
