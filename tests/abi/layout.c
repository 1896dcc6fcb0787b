/* What a compiled program depends on and must never change: sizes, offsets, numbers, names. */
#include "check.h"

#define AT(type, field, offset) CHECK(offsetof(type, field) == (offset))

static void the_structs_have_their_frozen_layout_on_64_bit_systems(void)
{
    if (sizeof(void *) != 8)
        return;

    CHECK(sizeof(fdx_event) == 64);
    AT(fdx_event, struct_size, 0);
    AT(fdx_event, type, 2);
    AT(fdx_event, flags, 4);
    AT(fdx_event, conn, 8);
    AT(fdx_event, conn_data, 16);
    AT(fdx_event, data, 24);
    AT(fdx_event, len, 32);
    AT(fdx_event, route, 40);
    AT(fdx_event, code, 44);
    AT(fdx_event, arg, 48);
    AT(fdx_event, time_us, 56);

    CHECK(sizeof(fdx_error) == 256);
    AT(fdx_error, struct_size, 0);
    AT(fdx_error, status, 4);
    AT(fdx_error, os_error, 8);
    AT(fdx_error, reserved, 12);
    AT(fdx_error, message, 16);

    CHECK(sizeof(fdx_option_info) == 40);
    AT(fdx_option_info, struct_size, 0);
    AT(fdx_option_info, flags, 4);
    AT(fdx_option_info, name, 8);
    AT(fdx_option_info, type, 16);
    AT(fdx_option_info, default_value, 24);
    AT(fdx_option_info, help, 32);

    CHECK(sizeof(fdx_handlers) == 72);
    AT(fdx_handlers, struct_size, 0);
    AT(fdx_handlers, flags, 4);
    AT(fdx_handlers, user_data, 8);
    AT(fdx_handlers, drop, 16);
    AT(fdx_handlers, on_upgrade, 24);
    AT(fdx_handlers, on_open, 32);
    AT(fdx_handlers, on_message, 40);
    AT(fdx_handlers, on_close, 48);
    AT(fdx_handlers, on_drain, 56);
    AT(fdx_handlers, on_other, 64);

    CHECK(sizeof(fdx_backplane) == 48);
    AT(fdx_backplane, struct_size, 0);
    AT(fdx_backplane, user_data, 8);
    AT(fdx_backplane, drop, 16);
    AT(fdx_backplane, publish, 24);
    AT(fdx_backplane, subscribe, 32);
    AT(fdx_backplane, unsubscribe, 40);

    CHECK(sizeof(fdx_conn_info) == 272);
    AT(fdx_conn_info, struct_size, 0);
    AT(fdx_conn_info, route, 4);
    AT(fdx_conn_info, opened_us, 8);
    AT(fdx_conn_info, bytes_in, 16);
    AT(fdx_conn_info, bytes_out, 24);
    AT(fdx_conn_info, msgs_in, 32);
    AT(fdx_conn_info, msgs_out, 40);
    AT(fdx_conn_info, queued_bytes, 48);
    AT(fdx_conn_info, dropped, 56);
    AT(fdx_conn_info, rtt_us, 64);
    AT(fdx_conn_info, remote_port, 68);
    AT(fdx_conn_info, local_port, 70);
    AT(fdx_conn_info, version, 72);
    AT(fdx_conn_info, http, 74);
    AT(fdx_conn_info, flags, 76);
    AT(fdx_conn_info, remote_addr, 80);
    AT(fdx_conn_info, peer_addr, 144);
    AT(fdx_conn_info, subprotocol, 208);

    CHECK(sizeof(fdx_stats) == 184);
    AT(fdx_stats, struct_size, 0);
    AT(fdx_stats, threads, 4);
    AT(fdx_stats, connections, 8);
    AT(fdx_stats, peak_connections, 16);
    AT(fdx_stats, accepted, 24);
    AT(fdx_stats, rejected, 32);
    AT(fdx_stats, closed, 40);
    AT(fdx_stats, handshake_errors, 48);
    AT(fdx_stats, msgs_in, 56);
    AT(fdx_stats, msgs_out, 64);
    AT(fdx_stats, bytes_in, 72);
    AT(fdx_stats, bytes_out, 80);
    AT(fdx_stats, dropped_msgs, 88);
    AT(fdx_stats, slow_closed, 96);
    AT(fdx_stats, rate_limited, 104);
    AT(fdx_stats, queued_bytes, 112);
    AT(fdx_stats, event_queue_len, 120);
    AT(fdx_stats, deflate_bytes, 128);
    AT(fdx_stats, topics, 136);
    AT(fdx_stats, subscriptions, 144);
    AT(fdx_stats, backplane_in, 152);
    AT(fdx_stats, backplane_out, 160);
    AT(fdx_stats, backplane_lost, 168);
    AT(fdx_stats, faults, 176);
}

static void the_plain_types_have_their_widths(void)
{
    CHECK(sizeof(fdx_status) == 4 && (fdx_status)-1 < 0);
    CHECK(sizeof(fdx_conn) == 8 && (fdx_conn)-1 > 0);
    CHECK(FDX_NTS == (size_t)-1);
}

static void the_numbers_are_frozen(void)
{
    CHECK(FDX_TEXT == 1 && FDX_BINARY == 2);
    CHECK(FDX_EV_UPGRADE == 1 && FDX_EV_OPEN == 2 && FDX_EV_MESSAGE == 3);
    CHECK(FDX_EV_DRAIN == 5 && FDX_EV_CLOSE == 6 && FDX_EV_PING == 7 && FDX_EV_PONG == 8 && FDX_EV_HTTP == 9);
    CHECK(FDX_EV_LISTENER == 12 && FDX_EV_FAULT == 13 && FDX_EV_STOPPED == 14);
    CHECK(FDX_EV_THREAD_START == 15 && FDX_EV_THREAD_STOP == 16);
    CHECK(FDX_EVF_FIN == 1 && FDX_EVF_BINARY == 2);
    CHECK(FDX_CLOSED_BY_PEER == 1 && FDX_CLOSED_BY_HOST == 2 && FDX_CLOSED_BY_TIMEOUT == 3);
    CHECK(FDX_CLOSED_BY_LIMIT == 4 && FDX_CLOSED_BY_PROTOCOL == 5 && FDX_CLOSED_BY_NETWORK == 6);
    CHECK(FDX_CLOSED_BY_SHUTDOWN == 7);
    CHECK(FDX_ROUTE_HTTP == 2);
}

static const struct { fdx_status status; int number; const char *name; } statuses[] = {
#define STATUS(name, number) { name, number, #name }
    STATUS(FDX_OK, 0), STATUS(FDX_HIGH_WATER, 1), STATUS(FDX_ALREADY, 2),
    STATUS(FDX_E_INVALID_ARG, -1), STATUS(FDX_E_NO_CONN, -2), STATUS(FDX_E_CLOSING, -3), STATUS(FDX_E_FULL, -4),
    STATUS(FDX_E_TOO_BIG, -5), STATUS(FDX_E_UTF8, -6), STATUS(FDX_E_STATE, -7), STATUS(FDX_E_STOPPED, -8),
    STATUS(FDX_E_NOMEM, -9), STATUS(FDX_E_IO, -10), STATUS(FDX_E_TLS, -11), STATUS(FDX_E_ADDR_IN_USE, -12),
    STATUS(FDX_E_DENIED, -13), STATUS(FDX_E_UNSUPPORTED, -14), STATUS(FDX_E_TIMEOUT, -15), STATUS(FDX_E_VERSION, -16),
    STATUS(FDX_E_PANIC, -17), STATUS(FDX_E_NOT_FOUND, -18), STATUS(FDX_E_BUFFER, -19), STATUS(FDX_E_CONFIG, -20),
    STATUS(FDX_E_BACKPLANE, -21), STATUS(FDX_E_DEADLOCK, -22), STATUS(FDX_E_FORKED, -23),
    STATUS(FDX_E_INTERRUPTED, -24), STATUS(FDX_E_LIMIT, -25),
#undef STATUS
};

static void each_status_has_its_number_and_its_name(void)
{
    size_t i;

    for (i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        CHECK(statuses[i].status == statuses[i].number);
        CHECK(strcmp(fdx_status_name(statuses[i].status), statuses[i].name) == 0);
    }
}

static void each_status_has_its_own_text(void)
{
    size_t i, j;

    for (i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        CHECK(strlen(fdx_status_text(statuses[i].status)) > 0);
        for (j = 0; j < i; j++)
            CHECK(strcmp(fdx_status_text(statuses[i].status), fdx_status_text(statuses[j].status)) != 0);
    }
}

static void an_unknown_status_has_a_name_and_a_text_too(void)
{
    static const fdx_status unknown[] = { 3, 4, 99, -26, -27, -1000, INT32_MAX, INT32_MIN };
    size_t i;

    for (i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        CHECK(fdx_status_name(unknown[i]) != NULL && strlen(fdx_status_name(unknown[i])) > 0);
        CHECK(fdx_status_text(unknown[i]) != NULL && strlen(fdx_status_text(unknown[i])) > 0);
    }
}

static void the_library_is_of_the_version_of_its_header(void)
{
    char version[32];

    snprintf(version, sizeof version, "%d.%d.%d", FDX_VERSION_MAJOR, FDX_VERSION_MINOR, FDX_VERSION_PATCH);
    CHECK(fdx_version() == FDX_VERSION);
    CHECK(FDX_VERSION == (FDX_VERSION_MAJOR << 16 | FDX_VERSION_MINOR << 8 | FDX_VERSION_PATCH));
    CHECK(strncmp(fdx_version_string(), version, strlen(version)) == 0);
    CHECK(strstr(fdx_version_string(), "abi ") != NULL);
    CHECK_STATUS(FDX_OK, fdx_check_abi(FDX_ABI));
    CHECK_STATUS(FDX_E_VERSION, fdx_check_abi(FDX_ABI + 1));
    CHECK_STATUS(FDX_E_VERSION, fdx_check_abi(UINT32_MAX));
}

static void an_unknown_feature_is_not_there(void)
{
    CHECK(fdx_has("no such feature") == 0);
    CHECK(fdx_has("") == 0);
    CHECK(fdx_has(NULL) == 0);
    CHECK(fdx_has("deflate") == 1 && strstr(fdx_version_string(), "deflate") != NULL);
    CHECK(fdx_has("tls") == 0 || fdx_has("tls") == 1);
}

/* -- struct_size ---------------------------------------------------------------------- */

static void a_smaller_stats_struct_of_an_older_program_gets_its_fields_and_not_one_byte_more(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    struct { uint32_t struct_size, threads; uint64_t connections; unsigned char guard[64]; } old;
    size_t i;

    host_await(h, FDX_EV_OPEN, 1);
    memset(&old, 0xa5, sizeof old);
    old.struct_size = 16;
    CHECK_STATUS(FDX_OK, fdx_get_stats(h->server, (fdx_stats *)(void *)&old));
    CHECK(old.struct_size == 16 && old.threads == 1 && old.connections == 1);
    for (i = 0; i < sizeof old.guard; i++)
        CHECK(old.guard[i] == 0xa5);
    client_leave(&c);
    host_end(h);
}

static void a_larger_stats_struct_of_a_newer_program_gets_what_is_known(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    struct { fdx_stats stats; uint64_t unknown[4]; } newer;

    host_await(h, FDX_EV_OPEN, 1);
    memset(&newer, 0, sizeof newer);
    newer.stats.struct_size = sizeof newer;
    CHECK_STATUS(FDX_OK, fdx_get_stats(h->server, &newer.stats));
    CHECK(newer.stats.connections == 1 && newer.stats.faults == 0);
    CHECK(newer.unknown[0] == 0 && newer.unknown[3] == 0);
    client_leave(&c);
    host_end(h);
}

static void a_smaller_and_a_larger_conn_info_get_what_both_sides_know(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    seen open = host_await(h, FDX_EV_OPEN, 1);
    struct { fdx_conn_info info; uint64_t unknown[4]; } newer;
    fdx_conn_info older;
    const unsigned char *bytes = (const unsigned char *)&older;
    size_t i;

    memset(&newer, 0, sizeof newer);
    newer.info.struct_size = sizeof newer;
    CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, open.conn, &newer.info));
    CHECK(newer.info.route == 7 && newer.info.version == 13 && newer.unknown[0] == 0);
    CHECK(strcmp(newer.info.peer_addr, "127.0.0.1") == 0);

    memset(&older, 0xa5, sizeof older);
    older.struct_size = offsetof(fdx_conn_info, remote_addr);
    CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, open.conn, &older));
    CHECK(older.route == 7 && older.version == 13 && older.local_port == h->port);
    for (i = offsetof(fdx_conn_info, remote_addr); i < sizeof older; i++)
        CHECK(bytes[i] == 0xa5);
    client_leave(&c);
    host_end(h);
}

static void a_struct_without_its_size_is_an_error_and_is_not_written(void)
{
    host *h = host_start(NULL, ON_USUAL, NULL, NULL);
    client c = client_open(h->port);
    seen open = host_await(h, FDX_EV_OPEN, 1);
    fdx_config *config = fdx_config_new();
    fdx_handlers handlers = host_handlers(h, ON_USUAL);
    fdx_conn_info info = new_conn_info();
    fdx_stats stats = new_stats();
    fdx_error error = new_error();

    info.struct_size = 0;
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_conn_get_info(h->server, open.conn, &info));
    CHECK(info.version == 0);
    stats.struct_size = 0;
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_get_stats(h->server, &stats));
    CHECK(stats.connections == 0);
    handlers.struct_size = 0;
    CHECK_STATUS(FDX_E_INVALID_ARG, fdx_config_route(config, "/", 1, &handlers, &error));
    error = new_error();
    error.struct_size = 0;
    CHECK(fdx_config_set(config, "no.such.key", "1", &error) < 0);
    CHECK(error.status == 0 && error.message[0] == '\0');
    fdx_config_free(config);
    client_leave(&c);
    host_end(h);
}

static void a_handlers_struct_that_ends_before_its_later_slots_leaves_them_out(void)
{
    host *h = host_new(NULL, NULL);
    fdx_config *config = new_config(NULL);
    fdx_handlers handlers = host_handlers(h, ON_USUAL);
    fdx_error error = new_error();
    fdx_server *server = NULL;
    client c;

    /* An older program's struct ends after on_open: what lies behind it is not ours to read. */
    handlers.struct_size = offsetof(fdx_handlers, on_message);
    handlers.drop = host_dropped;
    CHECK_STATUS(FDX_OK, fdx_config_route(config, "/" "*", 7, &handlers, &error));
    CHECK_STATUS(FDX_OK, fdx_server_new(config, &server, &error));
    fdx_config_free(config);
    host_set_server(h, server);
    CHECK_STATUS(FDX_OK, fdx_server_start(server, &error));
    CHECK_STATUS(FDX_OK, fdx_listener_port(server, 0, &h->port));
    c = client_open(h->port);
    client_say(&c, "nobody listens");
    client_leave(&c);
    host_await(h, FDX_EV_OPEN, 1);
    CHECK(host_count(h, FDX_EV_MESSAGE) == 0 && host_count(h, FDX_EV_CLOSE) == 0);
    host_end_with(h, 0);
}

static void an_error_message_fits_the_struct_it_is_given(void)
{
    fdx_config *config = fdx_config_new();
    fdx_error error = new_error();
    size_t i;

    memset(error.message, 0x5a, sizeof error.message);
    error.struct_size = offsetof(fdx_error, message) + 20;
    CHECK_STATUS(FDX_E_CONFIG, fdx_config_set(config, "no.such.key.by.far", "1", &error));
    CHECK(error.status == FDX_E_CONFIG);
    CHECK(memchr(error.message, '\0', 20) != NULL);
    for (i = 20; i < sizeof error.message; i++)
        CHECK(error.message[i] == 0x5a);
    fdx_config_free(config);
}

static void a_long_error_message_is_one_line_of_whole_characters(void)
{
    fdx_config *config = fdx_config_new();
    fdx_error error = new_error();
    char key[1200];
    size_t i, len;

    for (i = 0; i + 2 < sizeof key; i += 2)
        memcpy(key + i, "\xc3\xa4", 2);   /* two bytes each: a cut in the middle would show */
    key[i] = '\0';
    CHECK(fdx_config_set(config, key, "1", &error) < 0);
    CHECK(memchr(error.message, '\0', sizeof error.message) != NULL);
    CHECK(strchr(error.message, '\n') == NULL);
    len = strlen(error.message);
    CHECK(len > 0 && (unsigned char)error.message[len - 1] != 0xc3);
    fdx_config_free(config);
}

int main(void)
{
    PROVE(the_structs_have_their_frozen_layout_on_64_bit_systems);
    PROVE(the_plain_types_have_their_widths);
    PROVE(the_numbers_are_frozen);
    PROVE(each_status_has_its_number_and_its_name);
    PROVE(each_status_has_its_own_text);
    PROVE(an_unknown_status_has_a_name_and_a_text_too);
    PROVE(the_library_is_of_the_version_of_its_header);
    PROVE(an_unknown_feature_is_not_there);
    PROVE(a_smaller_stats_struct_of_an_older_program_gets_its_fields_and_not_one_byte_more);
    PROVE(a_larger_stats_struct_of_a_newer_program_gets_what_is_known);
    PROVE(a_smaller_and_a_larger_conn_info_get_what_both_sides_know);
    PROVE(a_struct_without_its_size_is_an_error_and_is_not_written);
    PROVE(a_handlers_struct_that_ends_before_its_later_slots_leaves_them_out);
    PROVE(an_error_message_fits_the_struct_it_is_given);
    PROVE(a_long_error_message_is_one_line_of_whole_characters);
    return 0;
}
