/* Who a client is, behind proxies: remote_addr, remote_port and peer_addr of fdx_conn_info. */
#include "check.h"

#define TRUSTING "proxy.trusted = 127.0.0.1, 10.0.0.0/8\n"

/* A connection that begins with these bytes and header lines is told as this client's. */
static void told(host *h, const void *before, size_t before_len, const char *headers, const char *address, uint16_t port)
{
    size_t opened = host_count(h, FDX_EV_OPEN);
    fdx_conn_info info = new_conn_info();
    client c = client_dial(h->port);

    client_write(&c, before, before_len);
    CHECK(client_upgrade(&c, "/", headers) == 101);
    CHECK_STATUS(FDX_OK, fdx_conn_get_info(h->server, host_await(h, FDX_EV_OPEN, opened + 1).conn, &info));
    if (strcmp(info.remote_addr, address) != 0 || strcmp(info.peer_addr, "127.0.0.1") != 0)
        fprintf(stderr, "remote_addr is \"%s\", peer_addr \"%s\", \"%s\" was expected\n", info.remote_addr, info.peer_addr,
                address);
    CHECK(strcmp(info.remote_addr, address) == 0);
    CHECK(strcmp(info.peer_addr, "127.0.0.1") == 0);    /* that one never lies */
    CHECK(info.local_port == h->port);
    if (strcmp(address, "127.0.0.1") == 0)
        CHECK(info.remote_port != 0);
    else
        CHECK(info.remote_port == port);
    client_leave(&c);
}

static void told_line(host *h, const char *line, const char *address, uint16_t port)
{
    told(h, line, strlen(line), NULL, address, port);
}

static void the_proxy_protocol_names_the_client_and_its_port(void)
{
    static const char v4[] = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xcb\0\x71\x01\x12\x67\0\x50";
    static const char v4_with_tlv[] = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\xc0\0\x02\x07\xcb\0\x71\x01\x12\x67\0\x50\x04\0\x04skip";
    static const char v6[] = "\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24 \x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07"
                             " \x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x12\x67\0\x50";
    static const char local[] = "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    host *h = host_start(TRUSTING "proxy.protocol = any\n", ON_USUAL, NULL, NULL);

    told_line(h, "PROXY TCP4 192.0.2.7 203.0.113.1 4711 80\r\n", "192.0.2.7", 4711);
    told_line(h, "PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n", "2001:db8::7", 4711);
    told_line(h, "PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 80\r\n", "192.0.2.7", 4711);
    told_line(h, "PROXY UNKNOWN\r\n", "127.0.0.1", 0);
    told(h, v4, sizeof v4 - 1, NULL, "192.0.2.7", 4711);
    told(h, v4_with_tlv, sizeof v4_with_tlv - 1, NULL, "192.0.2.7", 4711);
    told(h, v6, sizeof v6 - 1, NULL, "2001:db8::7", 4711);
    told(h, local, sizeof local - 1, NULL, "127.0.0.1", 0);
    host_end(h);
}

static void the_last_address_that_no_proxy_has_is_the_clients(void)
{
    host *h = host_start(TRUSTING "forwarded.headers = x-forwarded-for\n", ON_USUAL, NULL, NULL);

    told(h, "", 0, NULL, "127.0.0.1", 0);
    told(h, "", 0, "X-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7", 0);
    told(h, "", 0, "X-Forwarded-For: 6.6.6.6, 192.0.2.7:4711, 10.1.2.3\r\n", "192.0.2.7", 4711);
    told(h, "", 0, "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: [2001:db8::7]:4711\r\n", "2001:db8::7", 4711);
    told(h, "", 0, "X-Forwarded-For: 192.0.2.7, what?\r\n", "127.0.0.1", 0);
    told(h, "", 0, "Forwarded: for=6.6.6.6\r\n", "127.0.0.1", 0);
    host_end(h);

    h = host_start(TRUSTING "forwarded.headers = forwarded\n", ON_USUAL, NULL, NULL);
    told(h, "", 0, "Forwarded: for=6.6.6.6, for=192.0.2.7;proto=https\r\n", "192.0.2.7", 0);
    told(h, "", 0, "Forwarded: for=\"[2001:db8::7]:4711\", for=10.1.2.3\r\n", "2001:db8::7", 4711);
    told(h, "", 0, "Forwarded: for=_hidden\r\nX-Forwarded-For: 6.6.6.6\r\n", "127.0.0.1", 0);
    host_end(h);
}

static void a_proxy_before_the_proxy_is_looked_through(void)
{
    host *h = host_start(TRUSTING "proxy.protocol = v1\nforwarded.headers = x-forwarded-for\n", ON_USUAL, NULL, NULL);
    const char *trusted = "PROXY TCP4 10.1.2.3 203.0.113.1 4711 80\r\n";
    const char *stranger = "PROXY TCP4 192.0.2.7 203.0.113.1 4711 80\r\n";

    told(h, trusted, strlen(trusted), "X-Forwarded-For: 192.0.2.8\r\n", "192.0.2.8", 0);
    told(h, stranger, strlen(stranger), "X-Forwarded-For: 192.0.2.8\r\n", "192.0.2.7", 4711);
    host_end(h);
}

static void whom_to_trust_can_change_while_the_server_runs(void)
{
    host *h = host_start("forwarded.headers = x-forwarded-for\n", ON_USUAL, NULL, NULL);
    fdx_error error = new_error();

    told(h, "", 0, "X-Forwarded-For: 192.0.2.7\r\n", "127.0.0.1", 0);
    CHECK_STATUS(FDX_OK, fdx_server_set(h->server, "proxy.trusted", "127.0.0.0/8", &error));
    told(h, "", 0, "X-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7", 0);
    CHECK_STATUS(FDX_OK, fdx_server_set(h->server, "proxy.trusted", "", &error));
    told(h, "", 0, "X-Forwarded-For: 192.0.2.7\r\n", "127.0.0.1", 0);
    host_end(h);
}

int main(void)
{
    PROVE(the_proxy_protocol_names_the_client_and_its_port);
    PROVE(the_last_address_that_no_proxy_has_is_the_clients);
    PROVE(a_proxy_before_the_proxy_is_looked_through);
    PROVE(whom_to_trust_can_change_while_the_server_runs);
    return 0;
}
