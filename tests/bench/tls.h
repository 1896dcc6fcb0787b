/* TLS 1.3 for the load generators, by OpenSSL; nothing is verified.
 *
 * Everyone is offered the same and no choice: AES-128-GCM with X25519 or P-256, so that servers are compared and not
 * their preferences. Without WITH_TLS (no libssl to build with) `tls_prepare` ends the program. */
#ifndef FULLDUPLEX_BENCH_TLS_H
#define FULLDUPLEX_BENCH_TLS_H

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/types.h>

struct tls_session;                 /* over a socket */
struct tls_ticket;                  /* with which a session is resumed: OpenSSL's SSL_SESSION */

#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>

enum { TLS_RECEIVE_BYTES = 64 * 1024 };

struct tls_session {
    SSL *ssl;
    int fd;
    BIO *received;                  /* what `tls_set_nonblocking` puts between socket and SSL; NULL before it */
    bool drained;                   /* the last recv came back short: another one would only say EAGAIN */
};

static SSL_CTX *tls_context;

/* A server's tickets arrive some time after the handshake; `SSL_set_app_data` says where the last one waits. */
static inline int tls_keep_ticket(SSL *ssl, SSL_SESSION *ticket)
{
    SSL_SESSION **kept = SSL_get_app_data(ssl);
    if (kept == NULL)
        return 0;
    SSL_SESSION_free(*kept);
    *kept = ticket;
    return 1;
}

static inline void tls_prepare(void)
{
    tls_context = SSL_CTX_new(TLS_client_method());
    if (tls_context == NULL || !SSL_CTX_set_min_proto_version(tls_context, TLS1_3_VERSION)
        || !SSL_CTX_set_ciphersuites(tls_context, "TLS_AES_128_GCM_SHA256")
        || !SSL_CTX_set1_groups_list(tls_context, "X25519:P-256")) {
        ERR_print_errors_fp(stderr);
        exit(1);
    }
    signal(SIGPIPE, SIG_IGN);       /* OpenSSL sends by write() */
    SSL_CTX_set_verify(tls_context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_mode(tls_context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(tls_context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(tls_context, tls_keep_ticket);
    /* Some servers end without close_notify; whether they may end at all is the caller's to judge. */
    SSL_CTX_set_options(tls_context, SSL_OP_IGNORE_UNEXPECTED_EOF);
    /* Otherwise each record takes two reads, one for its head. */
    SSL_CTX_set_read_ahead(tls_context, 1);
    SSL_CTX_set_default_read_buffer_len(tls_context, TLS_RECEIVE_BYTES);
}

/* NULL if the handshake fails, after saying why. */
static inline struct tls_session *tls_connect(int fd, const struct tls_ticket *resumed)
{
    /* OpenSSL wants a ticket of TLS 1.3 to serve once, but not every server sends a new one when it has resumed. */
    SSL_SESSION *copy = resumed == NULL ? NULL : SSL_SESSION_dup((SSL_SESSION *)resumed);
    struct tls_session *session = calloc(1, sizeof *session);
    SSL *ssl = SSL_new(tls_context);
    if (session == NULL || ssl == NULL || !SSL_set_fd(ssl, fd) || !SSL_set_tlsext_host_name(ssl, "localhost")
        || (copy != NULL && !SSL_set_session(ssl, copy)) || SSL_connect(ssl) != 1) {
        ERR_print_errors_fp(stderr);
        return NULL;
    }
    SSL_SESSION_free(copy);
    *session = (struct tls_session){.ssl = ssl, .fd = fd};
    return session;
}

/* For a socket that is now non-blocking and read when epoll has said so. */
static inline void tls_set_nonblocking(struct tls_session *session)
{
    session->received = BIO_new(BIO_s_mem());
    if (session->received == NULL) {
        ERR_print_errors_fp(stderr);
        exit(1);
    }
    SSL_set0_rbio(session->ssl, session->received);
}

static inline bool tls_was_resumed(struct tls_session *session)
{
    return SSL_session_reused(session->ssl) == 1;
}

/* From now on the session's last ticket is kept in `ticket`, whose old one is freed. */
static inline void tls_keep_tickets_in(struct tls_session *session, struct tls_ticket **ticket)
{
    SSL_set_app_data(session->ssl, ticket);
}

static inline ssize_t tls_count(struct tls_session *session, int result)
{
    if (result > 0)
        return result;
    switch (SSL_get_error(session->ssl, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        errno = EAGAIN;
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    case SSL_ERROR_SYSCALL:
        return -1;
    default:
        ERR_print_errors_fp(stderr);
        errno = EPROTO;
        return -1;
    }
}

static inline ssize_t tls_receive(struct tls_session *session, void *bytes, size_t len)
{
    static uint8_t received[TLS_RECEIVE_BYTES];
    for (;;) {
        ERR_clear_error();
        ssize_t count = tls_count(session, SSL_read(session->ssl, bytes, (int)len));
        if (session->received == NULL || count >= 0 || errno != EAGAIN)
            return count;
        if (session->drained) {
            session->drained = false;
            return -1;
        }
        count = recv(session->fd, received, sizeof received, 0);
        if (count <= 0)
            return count;
        session->drained = (size_t)count < sizeof received;
        if (BIO_write(session->received, received, (int)count) != count) {
            errno = ENOMEM;
            return -1;
        }
    }
}

static inline ssize_t tls_send(struct tls_session *session, const void *bytes, size_t len)
{
    ERR_clear_error();
    return tls_count(session, SSL_write(session->ssl, bytes, (int)len));
}

/* Sends close_notify, too. */
static inline void tls_free(struct tls_session *session)
{
    SSL_shutdown(session->ssl);
    ERR_clear_error();
    SSL_free(session->ssl);
    free(session);
}

static inline const char *tls_version(struct tls_session *session) { return SSL_get_version(session->ssl); }
static inline const char *tls_cipher(struct tls_session *session) { return SSL_get_cipher_name(session->ssl); }

#else

static inline void tls_prepare(void)
{
    fprintf(stderr, "this load generator was built without TLS: install libssl-dev and build it again\n");
    exit(1);
}

/* For the linker; nothing gets here without `tls_prepare`. */
static inline struct tls_session *tls_connect(int fd, const struct tls_ticket *resumed)
{
    (void)fd, (void)resumed;
    errno = ENOSYS;
    return NULL;
}

static inline ssize_t tls_receive(struct tls_session *session, void *bytes, size_t len)
{
    (void)session, (void)bytes, (void)len;
    errno = ENOSYS;
    return -1;
}

static inline ssize_t tls_send(struct tls_session *session, const void *bytes, size_t len)
{
    return tls_receive(session, (void *)bytes, len);
}

static inline bool tls_was_resumed(struct tls_session *session) { return session != NULL; }
static inline void tls_keep_tickets_in(struct tls_session *session, struct tls_ticket **to) { (void)session, (void)to; }
static inline void tls_set_nonblocking(struct tls_session *session) { (void)session; }
static inline void tls_free(struct tls_session *session) { (void)session; }
static inline const char *tls_version(struct tls_session *session) { (void)session; return ""; }
static inline const char *tls_cipher(struct tls_session *session) { (void)session; return ""; }
#endif

#endif
