/* The option table, and what configurations take and refuse. */
#include "check.h"

static void an_option_has_a_name_a_type_a_default_and_a_help(void)
{
    size_t i, j;

    for (i = 0; fdx_option(i) != NULL; i++) {
        const fdx_option_info *option = fdx_option(i);
        CHECK(option->struct_size >= sizeof *option);
        CHECK(strlen(option->name) > 0 && strlen(option->type) > 0 && strlen(option->help) > 0);
        CHECK(option->default_value != NULL);
        for (j = 0; j < i; j++)
            CHECK(strcmp(fdx_option(j)->name, option->name) != 0);
    }
    CHECK(i > 15);
    CHECK(fdx_option(i + 1) == NULL && fdx_option(SIZE_MAX) == NULL);
}

static const char *default_of(const char *name)
{
    size_t i;

    for (i = 0; fdx_option(i) != NULL; i++)
        if (strcmp(fdx_option(i)->name, name) == 0)
            return fdx_option(i)->default_value;
    fprintf(stderr, "no option %s\n", name);
    CHECK(0);
    return NULL;
}

static void the_documented_options_have_their_documented_defaults(void)
{
    CHECK(strcmp(default_of("threads"), "1") == 0);
    CHECK(strcmp(default_of("max.message"), "16m") == 0);
    CHECK(strcmp(default_of("max.handshake"), "16k") == 0);
    CHECK(strcmp(default_of("send.high_water"), "64k") == 0);
    CHECK(strcmp(default_of("send.low_water"), "16k") == 0);
    CHECK(strcmp(default_of("send.limit"), "16m") == 0);
    CHECK(strcmp(default_of("timeout.handshake"), "10s") == 0);
    CHECK(strcmp(default_of("timeout.close"), "5s") == 0);
    CHECK(strcmp(default_of("timeout.write_stall"), "30s") == 0);
    CHECK(strcmp(default_of("ping.interval"), "30s") == 0);
    CHECK(strcmp(default_of("ping.timeout"), "20s") == 0);
    default_of("listen");
    default_of("versions");
    default_of("protocols");
    default_of("origins");
    default_of("send.full");
    default_of("timeout.idle");
}

static void every_default_can_be_set_and_is_what_get_returns(void)
{
    size_t i;

    for (i = 0; fdx_option(i) != NULL; i++) {
        const fdx_option_info *option = fdx_option(i);
        fdx_config *config = fdx_config_new();
        fdx_error error = new_error();
        char value[256];
        size_t needed = 0;

        CHECK_STATUS(FDX_OK, fdx_config_get(config, option->name, value, sizeof value, &needed));
        CHECK(strcmp(value, option->default_value) == 0);
        if (fdx_config_set(config, option->name, option->default_value, &error) != FDX_OK) {
            fprintf(stderr, "%s = %s: %s\n", option->name, option->default_value, error.message);
            CHECK(0);
        }
        CHECK_STATUS(FDX_OK, fdx_config_get(config, option->name, value, sizeof value, &needed));
        CHECK(strcmp(value, option->default_value) == 0);
        CHECK(needed == strlen(value) + 1);
        fdx_config_free(config);
    }
}

static void what_was_set_is_what_get_returns(void)
{
    static const char *const pairs[][2] = {
        { "threads", "4" }, { "max.message", "1m" }, { "send.full", "drop" }, { "send.full", "close" },
        { "timeout.close", "250ms" }, { "ping.interval", "0" }, { "origins", "https://a.example, *.b.example" },
        { "protocols", "chat.v2, chat.v1" }, { "versions", "13,8" }, { "send.high_water", "1234" },
    };
    fdx_config *config = fdx_config_new();
    fdx_error error = new_error();
    size_t i, needed;
    char value[256];

    for (i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        CHECK_STATUS(FDX_OK, fdx_config_set(config, pairs[i][0], pairs[i][1], &error));
        CHECK_STATUS(FDX_OK, fdx_config_get(config, pairs[i][0], value, sizeof value, &needed));
        CHECK(strcmp(value, pairs[i][1]) == 0);
    }
    fdx_config_free(config);
}

static void an_unknown_key_is_refused_and_the_nearest_one_is_named(void)
{
    static const char *const mistakes[][2] = {
        { "max.mesage", "max.message" }, { "timeot.close", "timeout.close" }, { "send.highwater", "send.high_water" },
        { "thread", "threads" }, { "Max.Message", "max.message" }, { "lisen", "listen" },
    };
    fdx_config *config = fdx_config_new();
    size_t i, needed = 99;
    char value[16];

    for (i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
        fdx_error error = new_error();
        CHECK_STATUS(FDX_E_CONFIG, fdx_config_set(config, mistakes[i][0], "1", &error));
        CHECK(error.status == FDX_E_CONFIG);
        CHECK(strstr(error.message, mistakes[i][0]) && strstr(error.message, mistakes[i][1]));
        CHECK(!strchr(error.message, '\n'));
    }
    CHECK_ANY2(FDX_E_CONFIG, FDX_E_NOT_FOUND, fdx_config_get(config, "max.mesage", value, sizeof value, &needed));
    fdx_config_free(config);
}

static void a_bad_value_is_refused_and_the_old_one_stays(void)
{
    static const char *const bad[][2] = {
        { "max.message", "much" }, { "max.message", "-1" }, { "max.message", "" }, { "max.message", "1x" },
        { "max.message", "99999999999999999999999" }, { "threads", "many" }, { "threads", "-1" },
        { "threads", "1000000" }, { "send.full", "maybe" }, { "timeout.close", "5 parsecs" }, { "timeout.close", "-1s" },
        { "versions", "14" }, { "send.limit", "1k1" }, { "ping.interval", "s" },
    };
    fdx_config *config = fdx_config_new();
    size_t i, needed;
    char before[256], after[256];

    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fdx_error error = new_error();
        CHECK_STATUS(FDX_OK, fdx_config_get(config, bad[i][0], before, sizeof before, &needed));
        if (fdx_config_set(config, bad[i][0], bad[i][1], &error) != FDX_E_CONFIG) {
            fprintf(stderr, "%s = \"%s\" should be refused\n", bad[i][0], bad[i][1]);
            CHECK(0);
        }
        CHECK(error.status == FDX_E_CONFIG && strstr(error.message, bad[i][0]));
        CHECK_STATUS(FDX_OK, fdx_config_get(config, bad[i][0], after, sizeof after, &needed));
        CHECK(strcmp(before, after) == 0);
    }
    fdx_config_free(config);
}

static void a_key_or_value_that_is_no_utf8_is_refused(void)
{
    fdx_config *config = fdx_config_new();
    fdx_error error = new_error();

    CHECK(fdx_config_set(config, "max\xff", "1", &error) < 0);
    CHECK(fdx_config_set(config, "protocols", "\xff\xfe", &error) < 0);
    CHECK(fdx_config_load(config, "# \xff\nthreads = 1\n", FDX_NTS, &error) <= 0);
    fdx_config_free(config);
}

static void a_bad_address_never_starts(void)
{
    static const char *const bad[] = { "127.0.0.1:99999", "127.0.0.1", "nonsense", "[::1:80", "127.0.0.1:80x", ":" };
    size_t i;

    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fdx_config *config = fdx_config_new();
        fdx_server *server = NULL;
        fdx_error error = new_error();
        fdx_status status = fdx_config_set(config, "listen", bad[i], &error);

        if (status == FDX_OK) {
            server = new_server(config);
            status = fdx_server_start(server, &error);
        }
        if (status >= 0)
            fprintf(stderr, "listen = %s should be refused\n", bad[i]);
        CHECK(status < 0 && error.status == status && error.message[0] != '\0');
        fdx_server_unref(server);
        fdx_config_free(config);
    }
}

static void a_small_buffer_gets_nothing_past_its_end_and_the_needed_size_is_told(void)
{
    fdx_config *config = fdx_config_new();
    fdx_error error = new_error();
    const char *value = "chat.v2, chat.v1";
    char buf[32];
    size_t cap, needed, i;

    CHECK_STATUS(FDX_OK, fdx_config_set(config, "protocols", value, &error));
    for (cap = 0; cap < strlen(value) + 1; cap++) {
        memset(buf, 0x5a, sizeof buf);
        needed = 0;
        CHECK_STATUS(FDX_E_BUFFER, fdx_config_get(config, "protocols", cap ? buf : NULL, cap, &needed));
        CHECK(needed == strlen(value) + 1);
        for (i = cap; i < sizeof buf; i++)
            CHECK(buf[i] == 0x5a);
    }
    memset(buf, 0x5a, sizeof buf);
    CHECK_STATUS(FDX_OK, fdx_config_get(config, "protocols", buf, needed, &needed));
    CHECK(strcmp(buf, value) == 0 && buf[needed] == 0x5a);
    fdx_config_free(config);
}

static void a_text_of_lines_is_loaded_with_comments_blank_lines_and_any_line_end(void)
{
    static const char text[] =
        "# how we run it\n"
        "\n"
        "threads = 2\r\n"
        "  max.message=1m  \n"
        "\t# indented comment\n"
        "protocols   =   chat.v2, chat.v1\n"
        "timeout.close = 2s";
    fdx_config *config = fdx_config_new();
    fdx_error error = new_error();
    char value[64];
    size_t needed;

    if (fdx_config_load(config, text, FDX_NTS, &error) != FDX_OK)
        check_failed(__FILE__, __LINE__, error.message);
    CHECK_STATUS(FDX_OK, fdx_config_get(config, "threads", value, sizeof value, &needed));
    CHECK(strcmp(value, "2") == 0);
    CHECK_STATUS(FDX_OK, fdx_config_get(config, "max.message", value, sizeof value, &needed));
    CHECK(strcmp(value, "1m") == 0);
    CHECK_STATUS(FDX_OK, fdx_config_get(config, "protocols", value, sizeof value, &needed));
    CHECK(strcmp(value, "chat.v2, chat.v1") == 0);
    CHECK_STATUS(FDX_OK, fdx_config_get(config, "timeout.close", value, sizeof value, &needed));
    CHECK(strcmp(value, "2s") == 0);
    CHECK_STATUS(FDX_OK, fdx_config_load(config, "", 0, &error));
    CHECK_STATUS(FDX_OK, fdx_config_load(config, "threads = 3\nthreads = 4 and what lies behind", 11, &error));
    CHECK_STATUS(FDX_OK, fdx_config_get(config, "threads", value, sizeof value, &needed));
    CHECK(strcmp(value, "3") == 0);
    fdx_config_free(config);
}

static void an_error_in_a_text_names_its_line(void)
{
    static const char *const bad[] = {
        "threads = 1\n# fine\nmax.mesage = 1m\n",
        "threads = 1\n\nno equals sign\n",
        "threads = 1\n\r\nthreads = lots",
        "\n\n= 1",
    };
    size_t i;

    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fdx_config *config = fdx_config_new();
        fdx_error error = new_error();

        CHECK_STATUS(FDX_E_CONFIG, fdx_config_load(config, bad[i], FDX_NTS, &error));
        if (!strstr(error.message, "line 3"))
            fprintf(stderr, "the message was: %s\n", error.message);
        CHECK(error.status == FDX_E_CONFIG && strstr(error.message, "line 3") && !strchr(error.message, '\n'));
        fdx_config_free(config);
    }
}

static void several_listeners_have_their_ports_in_the_order_they_were_given(void)
{
    host *h = host_start("listen = 127.0.0.1:0\nlisten = 127.0.0.1:0\n", ON_USUAL, NULL, NULL);
    uint16_t first = 0, second = 0, third = 0;
    client a, b;

    CHECK_STATUS(FDX_OK, fdx_listener_port(h->server, 0, &first));
    CHECK_STATUS(FDX_OK, fdx_listener_port(h->server, 1, &second));
    CHECK(fdx_listener_port(h->server, 2, &third) < 0);
    CHECK(first && second && first != second);
    a = client_open(first);
    b = client_open(second);
    host_await(h, FDX_EV_OPEN, 2);
    client_leave(&a);
    client_leave(&b);
    host_end(h);
}

static void a_server_keeps_its_own_copy_of_the_configuration(void)
{
    fdx_config *config = new_config("max.message = 10\n");
    fdx_error error = new_error();
    fdx_server *first = NULL, *second = NULL;
    uint16_t port = 0, other_port = 0;
    client c;

    first = new_server(config);
    CHECK_STATUS(FDX_OK, fdx_config_set(config, "max.message", "1m", &error));
    CHECK_STATUS(FDX_OK, fdx_server_new(config, &second, &error));
    fdx_config_free(config);
    CHECK_STATUS(FDX_OK, fdx_server_start(first, &error));
    CHECK_STATUS(FDX_OK, fdx_server_start(second, &error));
    CHECK_STATUS(FDX_OK, fdx_listener_port(first, 0, &port));
    CHECK_STATUS(FDX_OK, fdx_listener_port(second, 0, &other_port));
    CHECK(port != other_port);
    c = client_open(port);
    client_say(&c, "12345678901");
    CHECK(client_read(&c) == OP_CLOSE && client_close_code(&c) == 1009);
    client_drop(&c);
    c = client_open(other_port);
    client_say(&c, "12345678901");
    client_leave(&c);
    CHECK_STATUS(FDX_OK, fdx_server_stop(first, 1001, "", 0, 0, 1000));
    CHECK_STATUS(FDX_OK, fdx_server_stop(second, 1001, "", 0, 0, 1000));
    CHECK_STATUS(FDX_OK, fdx_server_wait(first, 10000));
    CHECK_STATUS(FDX_OK, fdx_server_wait(second, 10000));
    fdx_server_unref(first);
    fdx_server_unref(second);
}

static void echo(host *h, const fdx_event *event)
{
    if (event->type == FDX_EV_MESSAGE)
        fdx_send(h->server, event->conn, FDX_TEXT, event->data, event->len, 0);
}

static void options_change_while_the_server_runs_for_those_who_are_there_and_those_who_come(void)
{
    host *h = host_start("threads = 2\n", ON_USUAL, echo, NULL);
    fdx_error error = new_error();
    client old[4], c;
    int i;

    for (i = 0; i < 4; i++) {
        old[i] = client_open(h->port);
        client_say(&old[i], "12345678901");
        CHECK(client_read(&old[i]) == OP_TEXT);
    }
    CHECK_STATUS(FDX_OK, fdx_server_set(h->server, "max.message", "10", &error));
    CHECK_STATUS(FDX_OK, fdx_server_set(h->server, "ping.interval", "100ms", &error));
    for (i = 0; i < 4; i++) {
        CHECK(client_read(&old[i]) == OP_PING);   /* so the change has come everywhere */
        client_say(&old[i], "12345678901");
        while (client_read(&old[i]) == OP_PING)
            continue;
        CHECK(old[i].opcode == OP_CLOSE && client_close_code(&old[i]) == 1009);
        client_drop(&old[i]);
    }
    CHECK_STATUS(FDX_OK, fdx_server_set(h->server, "ping.interval", "0", &error));
    CHECK_STATUS(FDX_OK, fdx_server_set(h->server, "max.message", "1m", &error));
    c = client_open(h->port);
    client_say(&c, "12345678901");
    CHECK(client_read(&c) == OP_TEXT);
    client_leave(&c);

    CHECK_STATUS(FDX_E_STATE, fdx_server_set(h->server, "threads", "1", &error));
    CHECK(strstr(error.message, "threads") != NULL);
    CHECK_STATUS(FDX_E_STATE, fdx_server_set(h->server, "listen", ":0", &error));
    CHECK_STATUS(FDX_E_CONFIG, fdx_server_set(h->server, "max.mesage", "1", &error));
    CHECK(strstr(error.message, "max.message") != NULL);
    CHECK_STATUS(FDX_E_CONFIG, fdx_server_set(h->server, "max.message", "lots", &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_server_set(h->server, NULL, "1", &error));
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_server_set(h->server, "max.message", NULL, &error));
    host_end(h);
}

static void without_a_route_or_an_address_the_error_says_what_to_do(void)
{
    fdx_config *config = fdx_config_new();
    fdx_error error = new_error();
    fdx_server *server = NULL;

    CHECK_STATUS(FDX_E_CONFIG, fdx_server_new(config, &server, &error));
    CHECK(server == NULL && strstr(error.message, "fdx_config_route"));
    server = new_server(config);
    CHECK_STATUS(FDX_E_CONFIG, fdx_server_start(server, &error));
    CHECK(strstr(error.message, "listen"));
    fdx_server_unref(server);
    fdx_config_free(config);
}

static void a_pattern_that_is_none_is_refused(void)
{
    static const char *const bad[] = { "", "chat", "/a" "*" "b", "/:", "/\xff" };
    fdx_config *config = fdx_config_new();
    fdx_handlers handlers;
    size_t i;

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fdx_error error = new_error();
        fdx_status status = fdx_config_route(config, bad[i], 0, &handlers, &error);
        if (status >= 0)
            fprintf(stderr, "the pattern \"%s\" should be refused\n", bad[i]);
        CHECK(status < 0 && error.status == status && error.message[0] != '\0');
    }
    fdx_config_free(config);
}

static void a_pattern_that_is_taken_is_refused_and_leaves_nothing_behind(void)
{
    fdx_config *config = fdx_config_new();
    fdx_handlers handlers;
    fdx_error error = new_error();

    memset(&handlers, 0, sizeof handlers);
    handlers.struct_size = sizeof handlers;
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/chat", 1, &handlers, &error));
    CHECK(fdx_config_route(config, "/chat", 2, &handlers, &error) < 0);
    CHECK(strstr(error.message, "/chat") != NULL);
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/room/:id", 3, &handlers, &error));
    CHECK(fdx_config_route(config, "/room/:name", 4, &handlers, &error) < 0);
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/other", 5, &handlers, &error));
    fdx_config_free(config);
}

int main(void)
{
    PROVE(an_option_has_a_name_a_type_a_default_and_a_help);
    PROVE(the_documented_options_have_their_documented_defaults);
    PROVE(every_default_can_be_set_and_is_what_get_returns);
    PROVE(what_was_set_is_what_get_returns);
    PROVE(an_unknown_key_is_refused_and_the_nearest_one_is_named);
    PROVE(a_bad_value_is_refused_and_the_old_one_stays);
    PROVE(a_key_or_value_that_is_no_utf8_is_refused);
    PROVE(a_bad_address_never_starts);
    PROVE(a_small_buffer_gets_nothing_past_its_end_and_the_needed_size_is_told);
    PROVE(a_text_of_lines_is_loaded_with_comments_blank_lines_and_any_line_end);
    PROVE(an_error_in_a_text_names_its_line);
    PROVE(several_listeners_have_their_ports_in_the_order_they_were_given);
    PROVE(a_server_keeps_its_own_copy_of_the_configuration);
    PROVE(options_change_while_the_server_runs_for_those_who_are_there_and_those_who_come);
    PROVE(without_a_route_or_an_address_the_error_says_what_to_do);
    PROVE(a_pattern_that_is_none_is_refused);
    PROVE(a_pattern_that_is_taken_is_refused_and_leaves_nothing_behind);
    return 0;
}
