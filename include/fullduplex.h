/* fullduplex.h -- a WebSocket server in one library.
 *
 * Generated from src/ffi by cbindgen; don't edit.
 *
 * RULES
 *  R1 A connection is a number, never a pointer. A stale one is an error code.
 *  R2 Any function, any thread, any callback, unless its comment says otherwise.
 *     A call that would wait for its own thread returns FDX_E_DEADLOCK.
 *  R3 No callback ever runs on the stack of a call you make. (Destructors,
 *     fdx_drop_fn, are no callbacks: one may run when you give up the last use.)
 *  R4 One event record for everything that is told, by callbacks or by polling.
 *  R5 Only fixed-width integers, size_t, pointers and function pointers cross.
 *     No enum, bool, bit-field, union, long, varargs, struct by value, and no
 *     macro or inline function that is needed to use the library.
 *  R6 A struct that crosses begins with struct_size; fields are only appended;
 *     features never change a layout.
 *  R7 The library never ends or poisons its host. Every entry point stops
 *     panics (FDX_E_PANIC); a panic on a shard costs one connection (1011).
 *     The one exception: without memory for a piece of less than a page, or for
 *     a list of its own to grow, the process ends, as it does in most hosts.
 *     What a peer or you choose the size of (a message, a request, a reply) is
 *     never allocated that way.
 *  Callbacks must return: an exception or a longjmp through the library ends
 *  the process.
 *  Input pointers need to live only until the call returns. NULL where it is
 *  not allowed gives FDX_E_INVALID_ARG. *_free and *_unref accept NULL.
 *  Strings are UTF-8 with a length; FDX_NTS as length means "ends with NUL".
 *  Strings out: (buf, cap, *needed): at most cap bytes including the NUL,
 *  *needed always set, FDX_E_BUFFER if it did not fit.
 *  In a child after fork() every call on a server made before returns
 *  FDX_E_FORKED; a server made in the child works.
 *  Each comment says: what; [any] thread, [setup] before start, or [wait] may
 *  block; how long each pointer lives; every status; what must follow.
 *
 * THE SMALLEST PROGRAM
 *
 *   static void on_message(void *u, fdx_server *s, const fdx_event *e) {
 *       (void)u;
 *       fdx_send(s, e->conn, e->flags & FDX_EVF_BINARY ? FDX_BINARY : FDX_TEXT, e->data, e->len, 0);
 *   }
 *   int main(void) {
 *       fdx_error err = { sizeof err };
 *       fdx_handlers h = { sizeof h };
 *       fdx_config *cfg = fdx_config_new();
 *       fdx_server *s = NULL;
 *       h.on_message = on_message;
 *       if (fdx_config_set(cfg, "listen", ":9990", &err) || fdx_config_route(cfg, "/" "*", 0, &h, &err) ||
 *           fdx_server_new(cfg, &s, &err) || fdx_server_start(s, &err))
 *           return fprintf(stderr, "%s\n", err.message), 1;
 *       fdx_config_free(cfg);
 *       getchar();
 *       fdx_server_stop(s, 1001, "bye", FDX_NTS, 0, 2000);
 *       fdx_server_wait(s, -1);
 *       fdx_server_unref(s);
 *   }
 */


#ifndef FULLDUPLEX_H
#define FULLDUPLEX_H

#include <stddef.h>
#include <stdint.h>

/* As the length of a string: it ends with NUL. */
#define FDX_NTS ((size_t)-1)


#define FDX_VERSION_MAJOR 0u

#define FDX_VERSION_MINOR 1u

#define FDX_VERSION_PATCH 0u

// 0xMMmmpp
#define FDX_VERSION 0x000100u

// Grows only when a symbol, layout or promise changes.
#define FDX_ABI 0u

// A text message.
#define FDX_TEXT 1u

// A binary message. A Hixie connection has none: `FDX_E_UNSUPPORTED`.
#define FDX_BINARY 2u

// Compress the message however short it is, where compression was agreed on; see `fdx_send`.
#define FDX_F_COMPRESS 1u

// Don't compress it: for secrets beside text that somebody else has chosen (CRIME, BREACH).
#define FDX_F_NO_COMPRESS 2u

// A fragment of the message follows; see `fdx_send`.
#define FDX_F_MORE 4u

// With `fdx_publish`: not back to `sender`.
#define FDX_F_SKIP_SENDER 32u

// A handshake waits for `fdx_accept` or `fdx_reject`. Only with `on_upgrade`, or `FDX_ROUTE_UPGRADE`.
#define FDX_EV_UPGRADE 1u

// A connection is open. `data` is the negotiated subprotocol.
#define FDX_EV_OPEN 2u

// A whole message. `FDX_EVF_BINARY` tells binary from text; text is valid UTF-8.
#define FDX_EV_MESSAGE 3u

// A piece of a message, as it came, instead of `FDX_EV_MESSAGE` on routes with `FDX_ROUTE_STREAM`.
// `FDX_EVF_FIN` is on the last, which may be empty. Text is valid UTF-8 as a whole; a piece may
// end inside a character, and what was wrong with it closes the connection before the last.
#define FDX_EV_FRAGMENT 4u

// No more than `send.low_water` is queued again. `arg` is what is.
#define FDX_EV_DRAIN 5u

// The connection has ended; nothing follows. `code` is the peer's close code (1005 if its close
// had none, 1006 if no close came) or, when we closed for a violation, ours; `data` is the
// reason, `arg` one of `FDX_CLOSED_BY_*`.
#define FDX_EV_CLOSE 6u

// The peer's ping, answered already. `data` is its payload.
#define FDX_EV_PING 7u

// A pong. `arg` is the round trip in microseconds if it answers a ping of the library's own.
#define FDX_EV_PONG 8u

// A plain HTTP request waits for `fdx_http_reply`; `conn` is the reply token, a number for this
// request alone, and `data` its body, of at most `max.body` bytes. Only on routes with
// `FDX_ROUTE_HTTP`.
#define FDX_EV_HTTP 9u

// A connection has joined or left a topic; only on routes with `FDX_ROUTE_TOPIC`. `data` is the
// topic, `code` is `FDX_TOPIC_JOINED` or `FDX_TOPIC_LEFT`, and `arg` how many of this process are in
// it then. What a connection is still in at its end it leaves just before FDX_EV_CLOSE.
#define FDX_EV_TOPIC 10u

// How it stands between this server and others, with a backplane. `code` is `FDX_BP_UP`,
// `FDX_BP_DOWN` or `FDX_BP_GAP`, `data` says why, for people.
#define FDX_EV_BACKPLANE 11u

// A listener has trouble, for example no file descriptors. `data` says what. It goes on by
// itself.
#define FDX_EV_LISTENER 12u

// A bug of ours was contained. `data` says what it cost.
#define FDX_EV_FAULT 13u

// The last event of the server, and of each queue; only THREAD_STOP comes after it.
#define FDX_EV_STOPPED 14u

// The first event on a thread of the library that will call you: a place to attach. Not polled.
#define FDX_EV_THREAD_START 15u

// Its last. Not polled.
#define FDX_EV_THREAD_STOP 16u

// The message ends here.
#define FDX_EVF_FIN 1u

// The message is binary, not text.
#define FDX_EVF_BINARY 2u

// The peer closed.
#define FDX_CLOSED_BY_PEER 1u

// You closed or aborted.
#define FDX_CLOSED_BY_HOST 2u

// The peer stalled, did not answer a ping, or was idle for too long.
#define FDX_CLOSED_BY_TIMEOUT 3u

// A limit: `max.message`, `send.limit`.
#define FDX_CLOSED_BY_LIMIT 4u

// The peer broke the protocol.
#define FDX_CLOSED_BY_PROTOCOL 5u

// The TCP connection ended without a close.
#define FDX_CLOSED_BY_NETWORK 6u

// The server is stopping.
#define FDX_CLOSED_BY_SHUTDOWN 7u

// `code` of FDX_EV_BACKPLANE: what is published on one server reaches the others.
#define FDX_BP_UP 1

// It does not, until the next UP: publishes reach this server's subscribers, and wait for the
// others (up to "backplane.limit").
#define FDX_BP_DOWN 2

// Between other servers and this one messages may have been lost until now: what your clients
// know of the others' doings may have to be asked for anew. From here on nothing is missing until
// the next GAP or DOWN.
#define FDX_BP_GAP 3

// `fdx_server_set` can change this option while the server runs.
#define FDX_OPTION_LIVE 1u

// Messages come in pieces, as `FDX_EV_FRAGMENT`, to `on_message`: nothing is assembled, and
// neither `max.message` nor `max.fragments` counts. (A Hixie message is assembled all the same
// and comes as one piece.)
#define FDX_ROUTE_STREAM 1u

// Plain HTTP requests of any method under the path come as `FDX_EV_HTTP` to `on_other`. With no
// other callback the route takes no WebSockets; a polled one takes both.
#define FDX_ROUTE_HTTP 2u

// With "dispatch" = "queue": `FDX_EV_UPGRADE` comes, and waits for a decision. (Callbacks say that by
// `on_upgrade`.)
#define FDX_ROUTE_UPGRADE 4u

// With "dispatch" = "queue": `FDX_EV_PING` and `FDX_EV_PONG` come. (Callbacks say that by `on_other`.)
#define FDX_ROUTE_OTHER 8u

// `FDX_EV_TOPIC` comes for the connections of the route, to `on_other` or to be polled.
#define FDX_ROUTE_TOPIC 16u

// The connection is encrypted.
#define FDX_CI_TLS 1u

// The connection is compressed.
#define FDX_CI_DEFLATE 2u

// A connection has joined a topic (the `code` of FDX_EV_TOPIC).
#define FDX_TOPIC_JOINED 1

// It has left it.
#define FDX_TOPIC_LEFT 2

// Events that were polled, and the memory they lie in.
typedef struct fdx_batch fdx_batch;

// Options and routes of a server to be. [setup] Used by one thread at a time.
typedef struct fdx_config fdx_config;

// A message for many connections: immutable, reference-counted, copied, checked and compressed
// once.
typedef struct fdx_msg fdx_msg;

// A server. Reference-counted; every function may be called from any thread.
typedef struct fdx_server fdx_server;

// 0: done; > 0: done with a remark; < 0: not done. The numbers are frozen.
typedef int32_t fdx_status;

// What went wrong, for people. The caller's own, always optional: set `struct_size` to
// `sizeof(fdx_error)` and pass it, or pass NULL. Filled only when the call fails. There is no
// "last error" kept anywhere.
typedef struct fdx_error {
    uint32_t struct_size;
    fdx_status status;
    // `errno` of the system call that failed, or 0.
    int32_t os_error;
    uint32_t reserved;
    // One line, ended by NUL, that says what to do.
    char message[240];
} fdx_error;

// One row of the option table.
typedef struct fdx_option_info {
    uint32_t struct_size;
    // `FDX_OPTION_*`
    uint32_t flags;
    const char *name;
    const char *type;
    const char *default_value;
    const char *help;
} fdx_option_info;

// Called exactly once, after the last use of `user_data`, under no lock.
typedef void (*fdx_drop_fn)(void *user_data);

// A connection. 0 is never one; below 2^53; a stale one is an error code and never a crash.
// Don't take it apart.
typedef uint64_t fdx_conn;

// One event; 64 bytes on 64-bit systems. Per connection they come as
// `UPGRADE? OPEN (MESSAGE | FRAGMENT | PING | PONG | DRAIN | TOPIC)* CLOSE`: each OPEN has exactly
// one CLOSE, nothing comes after it, and two events of one connection never run at once. Ignore
// types you don't know.
typedef struct fdx_event {
    // The stride of arrays of these.
    uint16_t struct_size;
    // `FDX_EV_*`
    uint16_t type;
    // `FDX_EVF_*`
    uint32_t flags;
    // 0 for the server's own events.
    fdx_conn conn;
    // What `fdx_conn_set_data` stored.
    void *conn_data;
    // Not ended by NUL; valid until the callback returns or the batch is freed.
    const uint8_t *data;
    size_t len;
    // The number given to `fdx_config_route`.
    uint32_t route;
    int32_t code;
    uint64_t arg;
    // Microseconds on a monotonic clock: when the bytes arrived.
    uint64_t time_us;
} fdx_event;

// Receives an event, on a thread of the library. It may call any function of the library. While
// it runs the other connections of its thread wait; over 100 ms it is a warning in the log. It
// must return: a C++ exception, a .NET exception or a longjmp out of it ends the process.
typedef void (*fdx_event_fn)(void *user_data,
                             fdx_server *server,
                             const fdx_event *event);

// What is called for the connections of a route. A slot left NULL is not delivered and costs
// nothing; without `on_upgrade` every handshake is accepted that the options allow. Set
// `struct_size` to `sizeof(fdx_handlers)`.
//
// With "dispatch" = "queue" every callback must be NULL, and what comes is said by `flags`: OPEN,
// MESSAGE (or FRAGMENT), DRAIN and CLOSE always.
typedef struct fdx_handlers {
    uint32_t struct_size;
    // `FDX_ROUTE_*`
    uint32_t flags;
    // Given to every callback.
    void *user_data;
    // Called once with `user_data` when no config and no server uses the handlers any more.
    fdx_drop_fn drop;
    fdx_event_fn on_upgrade;
    fdx_event_fn on_open;
    fdx_event_fn on_message;
    fdx_event_fn on_close;
    fdx_event_fn on_drain;
    // Everything else: `FDX_EV_PING`, `FDX_EV_PONG`, `FDX_EV_HTTP`, `FDX_EV_TOPIC`, and, on the
    // first route that has it, the server's own events.
    fdx_event_fn on_other;
} fdx_handlers;

// What is in a batch. Set `struct_size` to `sizeof(fdx_batch_view)`. All pointers are valid until
// `fdx_batch_free`.
typedef struct fdx_batch_view {
    uint32_t struct_size;
    uint32_t reserved;
    // The first event; the next is `stride` bytes further on.
    const fdx_event *events;
    size_t count;
    // The size of an event, which a later version may make larger.
    size_t stride;
    // The `data` of every event lies in this block.
    const uint8_t *block;
    size_t block_len;
    // To be given to `fdx_batch_free`.
    fdx_batch *batch;
} fdx_batch_view;

// What is known of a connection. Set `struct_size` to `sizeof(fdx_conn_info)`.
typedef struct fdx_conn_info {
    uint32_t struct_size;
    // The number given to `fdx_config_route`.
    uint32_t route;
    // When it opened, on the clock of `fdx_event.time_us`.
    uint64_t opened_us;
    // On the wire, heads and handshake included.
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t msgs_in;
    uint64_t msgs_out;
    // Not yet taken by the kernel.
    uint64_t queued_bytes;
    // Messages refused with `FDX_E_FULL`.
    uint64_t dropped;
    // The last round trip of a ping, 0 if none was measured yet.
    uint32_t rtt_us;
    uint16_t remote_port;
    uint16_t local_port;
    // The dialect: 13, 8, 7, 76 (Hixie-76) or 75 (Hixie-75).
    uint16_t version;
    // 11
    uint16_t http;
    // `FDX_CI_*`
    uint32_t flags;
    // The client's address, ended by NUL: what a trusted proxy says (`proxy.trusted`), or
    // else `peer_addr`.
    char remote_addr[64];
    // The address of the socket's other end; "unix" for a Unix socket.
    char peer_addr[64];
    char subprotocol[64];
} fdx_conn_info;

// What became of a published message. Each subscriber in this process counts once, by what
// `fdx_send` would have returned for it.
typedef struct fdx_publish_result {
    uint32_t struct_size;
    uint32_t reserved;
    // `FDX_OK`
    uint64_t queued;
    // `FDX_HIGH_WATER`: queued, too, and FDX_EV_DRAIN will say when it has read enough.
    uint64_t high_water;
    // It does not get it: `FDX_E_FULL` (and `send.full` decides whether it is closed),
    // `FDX_E_UNSUPPORTED` for binary on a Hixie connection, `FDX_E_STATE` while a message in
    // fragments is under way to it, or its shard is more than `send.limit` behind with the topic.
    uint64_t dropped;
} fdx_publish_result;

// Hands an envelope to whoever carries it to the other servers. Called on a thread of the library's
// own, one call at a time, as the two below: they may take their time, and may call any
// function. `channel` is the option "backplane.prefix" with the topic, any bytes; it and `envelope`
// are valid until the function returns.
typedef void (*fdx_backplane_publish_fn)(void *user_data,
                                         fdx_server *server,
                                         const char *channel,
                                         size_t len,
                                         const void *envelope,
                                         size_t envelope_len);

// From now on, or no longer, this server wants what is published on a channel.
typedef void (*fdx_backplane_channel_fn)(void *user_data,
                                         fdx_server *server,
                                         const char *channel,
                                         size_t len);

// What carries published messages to other servers and theirs to this one, instead of the option
// "backplane": NATS, a database, anything with channels. Set `struct_size` to
// `sizeof(fdx_backplane)`. None of the three functions may be NULL.
//
// An envelope must arrive at every server that wants its channel, in the order in which one server
// published on it. It may come twice, and back to the server that published it: those are dropped.
typedef struct fdx_backplane {
    uint32_t struct_size;
    uint32_t reserved;
    // Given to every function.
    void *user_data;
    // Called once with `user_data` when no config and no server uses the backplane any more.
    fdx_drop_fn drop;
    fdx_backplane_publish_fn publish;
    fdx_backplane_channel_fn subscribe;
    fdx_backplane_channel_fn unsubscribe;
} fdx_backplane;

// Counted since the start. Set `struct_size` to `sizeof(fdx_stats)`. Fields of features that are
// not in this build are 0.
typedef struct fdx_stats {
    uint32_t struct_size;
    uint32_t threads;
    // Open now.
    uint64_t connections;
    // Most open at once, summed over the threads.
    uint64_t peak_connections;
    // TCP connections.
    uint64_t accepted;
    // Requests answered with a refusal, by the server or by you.
    uint64_t rejected;
    uint64_t closed;
    // Requests that were malformed or no handshake of any dialect.
    uint64_t handshake_errors;
    uint64_t msgs_in;
    uint64_t msgs_out;
    uint64_t bytes_in;
    uint64_t bytes_out;
    // Messages refused with `FDX_E_FULL`.
    uint64_t dropped_msgs;
    // Connections closed at `send.limit`.
    uint64_t slow_closed;
    // Connections refused or closed by `max.connections`, `max.connections_per_ip` or a rate.
    uint64_t rate_limited;
    // Not yet taken by the kernel, of all connections.
    uint64_t queued_bytes;
    // Events that wait to be polled.
    uint64_t event_queue_len;
    // Set aside for the windows of connections with `deflate = dedicated`; see `deflate.budget`.
    uint64_t deflate_bytes;
    // With at least one subscriber in this process.
    uint64_t topics;
    // Of all topics together.
    uint64_t subscriptions;
    // Messages published on other servers that came here.
    uint64_t backplane_in;
    // Publishes of this server that were handed over to the backplane.
    uint64_t backplane_out;
    // Publishes of this server that other servers never get: they found no room (`backplane.limit`)
    // or were refused, or waited when the server stopped.
    uint64_t backplane_lost;
    // Bugs of ours that were contained.
    uint64_t faults;
} fdx_stats;

// Receives one line. `level` is 1 error, 2 warning, 3 info, 4 debug, 5 trace; `conn` is 0 for
// lines about no connection; `target` names the part ("fullduplex::handshake") and ends with
// NUL, `text` has `len` bytes and no NUL. Called on any thread of the library, on several at
// once. It must return, and must not be slow: a shard waits for it.
typedef void (*fdx_log_fn)(void *user_data,
                           int32_t level,
                           fdx_conn conn,
                           const char *target,
                           const char *text,
                           size_t len);

// Done.
#define FDX_OK 0

// Queued; please wait for FDX_EV_DRAIN before sending more.
#define FDX_HIGH_WATER 1

// It was so already; nothing changed.
#define FDX_ALREADY 2

// A NULL where none is allowed, an unknown kind or flag, a bad code or header.
#define FDX_E_INVALID_ARG (-1)

// Unknown, closed, or another server's connection.
#define FDX_E_NO_CONN (-2)

// The connection's close has begun.
#define FDX_E_CLOSING (-3)

// Over send.limit: NOT queued.
#define FDX_E_FULL (-4)

// Too big ever to be queued or sent.
#define FDX_E_TOO_BIG (-5)

// A text that is not UTF-8.
#define FDX_E_UTF8 (-6)

// Not possible now: not open yet, decided already, started already …
#define FDX_E_STATE (-7)

// The server has stopped.
#define FDX_E_STOPPED (-8)

// No memory for it.
#define FDX_E_NOMEM (-9)

// The system said no; see fdx_error.os_error.
#define FDX_E_IO (-10)

// A certificate or key is unusable.
#define FDX_E_TLS (-11)

// Someone listens at this address already.
#define FDX_E_ADDR_IN_USE (-12)

// The system forbids it, for example a port below 1024.
#define FDX_E_DENIED (-13)

// Not in this build, on this platform, or in the connection's dialect.
#define FDX_E_UNSUPPORTED (-14)

// The time passed first.
#define FDX_E_TIMEOUT (-15)

// The library has another ABI than the header.
#define FDX_E_VERSION (-16)

// A bug of ours, contained; details in the log.
#define FDX_E_PANIC (-17)

// No such header, parameter, listener …
#define FDX_E_NOT_FOUND (-18)

// The buffer is too small; *needed says what would do.
#define FDX_E_BUFFER (-19)

// An unknown option or a bad value; the message says which and what would be good.
#define FDX_E_CONFIG (-20)

// The engine between machines is unusable.
#define FDX_E_BACKPLANE (-21)

// The call would wait for its own thread.
#define FDX_E_DEADLOCK (-22)

// The server belongs to the process that this one was forked from.
#define FDX_E_FORKED (-23)

// Woken by fdx_wake.
#define FDX_E_INTERRUPTED (-24)

// A configured limit is reached.
#define FDX_E_LIMIT (-25)

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the loaded library, as `FDX_VERSION`. [any]
uint32_t fdx_version(void);

// The version and what is built in, for people: "0.1.0 (abi 0; deflate hixie redis tls)". [any] The string is
// static.
const char *fdx_version_string(void);

// Is the loaded library the one the caller was made for? [any] Pass the header's `FDX_ABI`;
// bindings do so when they load the library. `FDX_OK`; `FDX_E_VERSION`.
int32_t fdx_check_abi(uint32_t abi);

// Is a feature in this build? "tls", "deflate", "hixie", "redis" … 1 or 0. [any] NULL is no
// feature. "io_uring": in this build, and allowed by the kernel and to this process.
//
// Required:
// `feature` is null or ends with NUL.
int32_t fdx_has(const char *feature);

// A status' name, "FDX_E_NO_CONN". [any] Any value is accepted: "FDX_E_?" for an unknown one.
// The string is static.
const char *fdx_status_name(fdx_status status);

// What a status means, "no such connection". [any] Any value is accepted. The string is
// static.
const char *fdx_status_text(fdx_status status);

// A new config with every option at its default and no route. [any] NULL if there is no memory.
fdx_config *fdx_config_new(void);

// Frees a config. Servers made of it go on. NULL is accepted.
//
// Required:
// `config` is null or live, and not used any more.
void fdx_config_free(fdx_config *config);

// Sets an option from text. [setup] Sizes take k, m, g; times us, ms, s, m, h. "listen" adds an
// address each time. See `fdx_option` for all of them.
//
// `FDX_OK`; `FDX_E_CONFIG` for an unknown key (the message names the nearest) or a bad value;
// `FDX_E_INVALID_ARG` for NULL; `FDX_E_UTF8`.
//
// Required:
// `config` is live; `key` and `value` end with NUL; `error` is null or has its `struct_size`.
fdx_status fdx_config_set(fdx_config *config,
                          const char *key,
                          const char *value,
                          fdx_error *error);

// An option's value, as it was set, or its default. [setup] Several "listen" are joined with a
// comma. At most `cap` bytes with the NUL go to `buf`; `*needed` is set always.
//
// `FDX_OK`; `FDX_E_BUFFER`; `FDX_E_CONFIG` for an unknown key; `FDX_E_INVALID_ARG`.
//
// Required:
// `config` is live; `key` ends with NUL; `buf` has room for `cap`; `needed` is null or writable.
fdx_status fdx_config_get(const fdx_config *config,
                          const char *key,
                          char *buf,
                          size_t cap,
                          size_t *needed);

// Sets options from lines of "key = value"; a line that begins with # is a comment. [setup]
// `len` may be `FDX_NTS`. Lines before a bad one stay set; the message names the bad one.
//
// `FDX_OK`; `FDX_E_CONFIG`; `FDX_E_INVALID_ARG`; `FDX_E_UTF8`.
//
// Required:
// `config` is live; `data` has `len` bytes; `error` is null or has its `struct_size`.
fdx_status fdx_config_load(fdx_config *config,
                           const char *data,
                           size_t len,
                           fdx_error *error);

// Row `index` of the option table, NULL past its end. [any] Static.
const fdx_option_info *fdx_option(size_t index);

// Adds a route. [setup] Patterns are "/chat", "/room/:id" and "/files/" followed by "*"; the
// most specific wins. `route` is a number of yours that its events carry. The handlers are
// copied. A path without a route gets 404.
//
// `FDX_OK`; `FDX_E_CONFIG` for a bad pattern, one that is taken, and beyond 65,536 routes;
// `FDX_E_INVALID_ARG` for NULL or unknown flags. On an error `drop` is not called.
//
// Required:
// `config` is live; `pattern` ends with NUL; `handlers` has its `struct_size` set, and its
// functions can be called from any thread until its `drop` was; `error` is null or has its
// `struct_size`.
fdx_status fdx_config_route(fdx_config *config,
                            const char *pattern,
                            uint32_t route,
                            const fdx_handlers *handlers,
                            fdx_error *error);

// Makes a server of a config, which is copied. [any] Nothing runs yet. On success `*out` is a
// handle with one reference: give it back with `fdx_server_unref`.
//
// `FDX_OK`; `FDX_E_INVALID_ARG`; `FDX_E_CONFIG` when there is no route, or one with callbacks although
// "dispatch" is "queue", or two backplanes.
//
// Required:
// `config` is live; `out` is writable; `error` is null or has its `struct_size`.
fdx_status fdx_server_new(const fdx_config *config,
                          fdx_server **out,
                          fdx_error *error);

// One reference more. [any] Returns `server`; NULL is accepted.
//
// Required:
// `server` is null or live.
fdx_server *fdx_server_ref(fdx_server *server);

// One reference less. [any] With the last one a running server is stopped in the background with
// code 1001 and `timeout.close` as deadline: its last callbacks may still come. NULL is accepted.
//
// Required:
// `server` is null or live, and the caller has a reference to give back.
void fdx_server_unref(fdx_server *server);

// Opens all listeners and starts the threads, or nothing. [any] A server starts once.
//
// `FDX_OK`; `FDX_E_STATE` if it was started; `FDX_E_CONFIG` without an address to listen at;
// `FDX_E_ADDR_IN_USE`; `FDX_E_DENIED`; `FDX_E_IO` (see `os_error`); `FDX_E_TLS` when a file that
// "tls.cert", "tls.key", "tls.client_ca" or "backplane.ca" names can't be used, or an address with "tls=1" has no
// certificate.
//
// Required:
// `server` is live; `error` is null or has its `struct_size`.
fdx_status fdx_server_start(fdx_server *server,
                            fdx_error *error);

// Begins to stop and returns at once. [any] Listeners close; every connection is closed with
// `code` (0: without one) and `reason`, spread over `spread_ms`; what is left after `deadline_ms`
// is cut. Each open connection still gets its CLOSE (`FDX_CLOSED_BY_SHUTDOWN`); the last event
// is `FDX_EV_STOPPED`. Who connected before is still let in, and told good-bye as the others;
// plain requests are answered. `len` may be `FDX_NTS`.
//
// `FDX_OK`; `FDX_ALREADY`; `FDX_E_STATE` if it was not started; `FDX_E_INVALID_ARG` for a code
// that can't be sent; `FDX_E_TOO_BIG` for a reason over 123 bytes; `FDX_E_UTF8`.
//
// Required:
// `server` is live; `reason` has `len` bytes.
fdx_status fdx_server_stop(fdx_server *server,
                           uint16_t code,
                           const char *reason,
                           size_t len,
                           uint32_t spread_ms,
                           uint32_t deadline_ms);

// [wait] Waits until the server has stopped and its threads are gone; forever with a negative
// `timeout_ms`.
//
// `FDX_OK`; `FDX_E_TIMEOUT`; `FDX_E_STATE` if it was not started; `FDX_E_DEADLOCK` on a thread of
// the same server.
//
// Required:
// `server` is live, and stays so until this returns.
fdx_status fdx_server_wait(fdx_server *server, int32_t timeout_ms);

// Changes an option of a server, also while it runs. [any] Those that can change have
// `FDX_OPTION_LIVE` in their row of the option table. Connections that are open follow within a
// turn; what is counted per address or time counts from then on.
//
// `FDX_OK`; `FDX_E_CONFIG` for an unknown key (the message names the nearest) or a bad value;
// `FDX_E_STATE` for one that is fixed when a server is made; `FDX_E_INVALID_ARG` for NULL;
// `FDX_E_UTF8`.
//
// Required:
// `server` is live; `key` and `value` end with NUL; `error` is null or has its `struct_size`.
fdx_status fdx_server_set(fdx_server *server,
                          const char *key,
                          const char *value,
                          fdx_error *error);

// Listens at one address more while the server runs. [any] `*out_id` is its number for
// `fdx_unlisten` and `fdx_listener_fd`, `*out_port` its port; both may be NULL. The configured
// ones have the numbers from 0 on, in the order they were set. Of "fd:N" a duplicate is taken:
// the descriptor itself stays yours to close. The forms of an address are those of the option
// "listen".
//
// `FDX_OK`; `FDX_E_CONFIG` for an address that is none; `FDX_E_STATE` before the start;
// `FDX_E_STOPPED`; `FDX_E_ADDR_IN_USE`; `FDX_E_DENIED`; `FDX_E_IO`; `FDX_E_TLS` for "tls=1" without
// a certificate; `FDX_E_INVALID_ARG`.
//
// Required:
// `server` is live; `address` ends with NUL; `out_id` and `out_port` are null or writable; `error`
// is null or has its `struct_size`.
fdx_status fdx_listen(fdx_server *server,
                      const char *address,
                      uint32_t *out_id,
                      uint16_t *out_port,
                      fdx_error *error);

// Shows another certificate from now on, to who connects to a listener with "tls=1". [any] `cert`
// is the certificate with those that link it to its authority behind it, `key` its private key,
// both in PEM and copied; the lengths may be `FDX_NTS`. `sni` is the name that it is shown for,
// "a.example" or "*.a.example"; NULL: the names in it, and every client that asks for none or for
// an unknown one. It is looked at first: when this fails the old one stays. Open connections keep
// the one they have seen. Before the start it counts, too.
//
// `FDX_OK`; `FDX_E_TLS` when it can't be used (not PEM, expired, not this key's …), as the message
// says; `FDX_E_INVALID_ARG`; `FDX_E_UTF8`.
//
// Required:
// `server` is live; `sni` is null or ends with NUL; `cert` has `cert_len` readable bytes and `key`
// `key_len`; `error` is null or has its `struct_size`.
fdx_status fdx_set_certificate(fdx_server *server,
                               const char *sni,
                               const void *cert,
                               size_t cert_len,
                               const void *key,
                               size_t key_len,
                               fdx_error *error);

// Ends listening at an address, by its number. [any] Its connections go on; those that nobody
// has accepted yet are reset.
//
// `FDX_OK`; `FDX_E_NOT_FOUND`; `FDX_E_INVALID_ARG`.
//
// Required:
// `server` is live.
fdx_status fdx_unlisten(fdx_server *server, uint32_t id);

// The descriptor of a listening socket, by its number (the configured ones count from 0): to be
// duplicated or passed on to the process that takes over, which listens at "fd:N". [any] It
// stays the server's, and is closed by `fdx_unlisten` and when the server stops; the file of a
// Unix socket stays from then on.
//
// A restart that refuses nobody: start the new process with the descriptor; when it listens,
// `fdx_unlisten` in the old one, then `fdx_server_stop` with some seconds of `spread_ms`. What
// waits to be accepted is the new one's.
//
// `FDX_OK`; `FDX_E_NOT_FOUND`; `FDX_E_INVALID_ARG`; `FDX_E_UNSUPPORTED` where sockets are no
// descriptors.
//
// Required:
// `server` is live; `out_fd` is writable.
fdx_status fdx_listener_fd(fdx_server *server, uint32_t id, ptrdiff_t *out_fd);

// The port of the configured listener `index`, in the order they were set: where port 0 was
// asked for, the one it got; 0 for a Unix socket. [any] Each socket that systemd passed counts.
//
// `FDX_OK`; `FDX_E_NOT_FOUND` past the last, or before the start; `FDX_E_INVALID_ARG`.
//
// Required:
// `server` is live; `out_port` is writable.
fdx_status fdx_listener_port(fdx_server *server, uint32_t index, uint16_t *out_port);

// Takes events out of a queue, in their order. [wait] With "dispatch" = "queue" this is how all
// events come; no callback is called. At most `max_events` come (0: as many as lie together); waits up
// to `timeout_ms` for the first (0: not at all; negative: for ever). One thread at a time polls a
// queue, or events of one connection are handled by two at once.
//
// Every batch must be given back with `fdx_batch_free`: what is in it counts as unread, so that an
// embedder that does not keep up stops its peers (option "recv.high_water"), and requests are
// kept for it.
//
// A queue has the events of the connections that belong to it, and FDX_EV_STOPPED as its last;
// the server's other own events come in queue 0. FDX_EV_THREAD_START and FDX_EV_THREAD_STOP don't
// come.
//
// `FDX_OK`: there is at least one event; `FDX_E_TIMEOUT`: there is none; `FDX_E_INTERRUPTED` after
// `fdx_wake`; `FDX_E_STOPPED` after FDX_EV_STOPPED was taken; `FDX_E_STATE` if "dispatch" is not
// "queue"; `FDX_E_NOT_FOUND` for a queue that is not there; `FDX_E_DEADLOCK` for waiting on a
// thread of the same server (in a log function); `FDX_E_INVALID_ARG`.
//
// Required:
// `server` is live, and stays so until this returns; `view` has its `struct_size` set.
fdx_status fdx_poll(fdx_server *server,
                    uint32_t queue,
                    size_t max_events,
                    int32_t timeout_ms,
                    fdx_batch_view *view);

// Gives a batch back, with all that its events point to. [any] In any order, and also when the
// server is gone. NULL is accepted. Connections that were not read because of it are read on.
//
// Required:
// `batch` is null or comes from `fdx_poll`, and is not used any more.
void fdx_batch_free(fdx_batch *batch);

// Makes a poll that waits, or else the next, return `FDX_E_INTERRUPTED`. [any] `fdx_queue_fd`
// becomes readable.
//
// `FDX_OK`; `FDX_E_STATE` if "dispatch" is not "queue"; `FDX_E_NOT_FOUND`; `FDX_E_INVALID_ARG`.
//
// Required:
// `server` is live.
fdx_status fdx_wake(fdx_server *server, uint32_t queue);

// A descriptor that is readable while the queue is not empty, for poll, epoll, kqueue or the event
// loop of your language. [any] Only wait for it: don't read or close it. It is the server's, up to the
// last `fdx_server_unref`; call `fdx_poll` with a timeout of 0 when it is readable. It may be readable
// once more than there is something: then that is `FDX_E_TIMEOUT`.
//
// `FDX_OK`; `FDX_E_STATE` if "dispatch" is not "queue"; `FDX_E_NOT_FOUND`; `FDX_E_IO` without
// descriptors; `FDX_E_UNSUPPORTED` elsewhere than on Linux (see `fdx_queue_notify_fd`);
// `FDX_E_INVALID_ARG`.
//
// Required:
// `server` is live; `out_fd` is writable.
fdx_status fdx_queue_fd(fdx_server *server,
                        uint32_t queue,
                        ptrdiff_t *out_fd);

// Writes `len` bytes (1 to 16) of yours to a descriptor of yours whenever the queue changes from
// empty to not empty, and at once if it is not empty: for loops that are woken by a pipe, a
// socket or an eventfd. [any] Poll until `FDX_E_TIMEOUT` after each. The descriptor must not block
// (O_NONBLOCK); it is duplicated. A later call replaces it, one with -1 takes it back.
//
// `FDX_OK`; `FDX_E_INVALID_ARG`, also for a descriptor that may block; `FDX_E_STATE` if "dispatch"
// is not "queue"; `FDX_E_NOT_FOUND`; `FDX_E_UNSUPPORTED` where there are no descriptors.
//
// Required:
// `server` is live; `payload` has `len` bytes.
fdx_status fdx_queue_notify_fd(fdx_server *server,
                               uint32_t queue,
                               ptrdiff_t fd,
                               const void *payload,
                               size_t len);

// Agrees to a handshake that FDX_EV_UPGRADE announced. [any] Now or later, on any thread, until
// `timeout.handshake`. `subprotocol` must be one that the client offers; "" is none, NULL lets
// the option "protocols" choose. `headers` are lines "Name: value" each ended by CR LF, added to
// the answer; `len` may be `FDX_NTS`. FDX_EV_OPEN follows.
//
// `FDX_OK`; `FDX_E_NO_CONN` if the client has gone or the time is over; `FDX_E_STATE` if it was
// decided already; `FDX_E_INVALID_ARG` for a subprotocol that was not offered, or headers that
// are not whole lines or are the server's own; `FDX_E_TOO_BIG` for headers over 64 KiB;
// `FDX_E_UTF8`; `FDX_E_NOMEM`.
//
// Required:
// `server` is live; `subprotocol` is null or ends with NUL; `headers` has `len` bytes.
fdx_status fdx_accept(fdx_server *server,
                      fdx_conn conn,
                      const char *subprotocol,
                      const char *headers,
                      size_t len);

// Refuses a handshake with an HTTP status (300 to 599), headers and a body. [any] As
// `fdx_accept`; no event follows. Both lengths may be `FDX_NTS`.
//
// `FDX_OK`; `FDX_E_NO_CONN`; `FDX_E_STATE`; `FDX_E_INVALID_ARG`; `FDX_E_TOO_BIG`; `FDX_E_UTF8`;
// `FDX_E_NOMEM` for the body: nothing is decided then.
//
// Required:
// `server` is live; `headers` has `hlen` bytes and `body` `blen`.
fdx_status fdx_reject(fdx_server *server,
                      fdx_conn conn,
                      uint16_t status,
                      const char *headers,
                      size_t hlen,
                      const void *body,
                      size_t blen);

// Replies to a plain request that FDX_EV_HTTP announced (`conn` is its reply token) with a
// status (200 to 599), headers and a body. [any] Content-Length and Connection are set by the
// server; a HEAD request gets no body. The client may ask again on the same connection, which
// is another request under another number. Both lengths may be `FDX_NTS`.
//
// `FDX_OK`; `FDX_E_NO_CONN` if the client has gone or the time is over; `FDX_E_STATE`;
// `FDX_E_INVALID_ARG`; `FDX_E_TOO_BIG`; `FDX_E_UTF8`; `FDX_E_NOMEM`: as `fdx_reject`.
//
// Required:
// `server` is live; `headers` has `hlen` bytes and `body` `blen`.
fdx_status fdx_http_reply(fdx_server *server,
                          fdx_conn conn,
                          uint16_t status,
                          const char *headers,
                          size_t hlen,
                          const void *body,
                          size_t blen);

// A part of a connection's request, from FDX_EV_UPGRADE (or FDX_EV_HTTP) until the callback of
// FDX_EV_OPEN has returned, or the batches with these events are freed. [any] `name` is ":method", ":path", ":query", ":version", "?key" of
// the query (decoded), ";name" of a cookie, "/param" of the route's pattern (decoded; "/" and
// "*" for what a star took), with TLS ":tls_version" ("1.2" or "1.3") and ":tls_subject" (of the
// client's certificate, if it has shown one, like "CN=ann, O=Example"), or a header's name in any case (several lines are joined with a
// comma). At most `cap` bytes with the NUL go to `buf`; `*needed` is set always.
//
// `FDX_OK`; `FDX_E_NOT_FOUND`; `FDX_E_BUFFER`; `FDX_E_NO_CONN`; `FDX_E_STATE` after OPEN;
// `FDX_E_INVALID_ARG`; `FDX_E_UTF8`.
//
// Required:
// `server` is live; `name` ends with NUL; `buf` has room for `cap`; `needed` is null or writable.
fdx_status fdx_request_get(fdx_server *server,
                           fdx_conn conn,
                           const char *name,
                           char *buf,
                           size_t cap,
                           size_t *needed);

// All header lines of a connection's request as "Name: value" each ended by CR LF; when and how
// as `fdx_request_get`. [any]
//
// Required:
// `server` is live; `buf` has room for `cap`; `needed` is null or writable.
fdx_status fdx_request_headers(fdx_server *server,
                               fdx_conn conn,
                               char *buf,
                               size_t cap,
                               size_t *needed);

// Sends one message, or a fragment of one. [any] The bytes are copied before this returns, and
// it never blocks. Order per calling thread and connection is kept. `kind` is `FDX_TEXT` or
// `FDX_BINARY`, `flags` a sum of `FDX_F_*`.
//
// With `FDX_F_MORE` the message goes on: the next send to this connection continues it, with the
// same kind, and the first without the flag ends it (it may be empty). So a message of any
// length passes through little memory. A fragment of text may end inside a character.
//
// On a compressed connection (option `deflate`) a message from `deflate.min_size` on is compressed;
// `FDX_F_COMPRESS` compresses a shorter one, too, and `FDX_F_NO_COMPRESS` none. What would not
// become smaller goes out as it is. In fragments the first decides for all. Elsewhere both flags
// mean nothing.
//
// `FDX_OK`; `FDX_HIGH_WATER`: queued, and more than `send.high_water` waits for this peer, so
// please wait for FDX_EV_DRAIN; `FDX_E_FULL`: `send.limit` is reached, NOT queued, and
// `send.full` decides whether the connection closes; `FDX_E_NO_CONN` if it is gone;
// `FDX_E_CLOSING` after its close has begun; `FDX_E_STATE` before it is open, or for another kind
// than the message has that was begun; `FDX_E_UTF8` for a text that is none; `FDX_E_TOO_BIG` for more than `send.limit` at once; `FDX_E_UNSUPPORTED` for
// binary on a Hixie connection; `FDX_E_NOMEM`; `FDX_E_STOPPED`; `FDX_E_INVALID_ARG`, also for both
// flags about compression.
//
// Required:
// `server` is live; `data` points to `len` readable bytes, or is null with `len` 0.
fdx_status fdx_send(fdx_server *server,
                    fdx_conn conn,
                    uint32_t kind,
                    const void *data,
                    size_t len,
                    uint32_t flags);

// Makes a message. [any] The bytes are copied. It has one reference: give it back with
// `fdx_msg_unref`. NULL for an unknown kind, a text that is not UTF-8, a NULL with a length, or
// when there is no memory.
//
// Required:
// `data` points to `len` readable bytes, or is null with `len` 0.
fdx_msg *fdx_msg_new(uint32_t kind, const void *data, size_t len);

// One reference more. [any] Returns `msg`; NULL is accepted.
//
// Required:
// `msg` is null or live.
fdx_msg *fdx_msg_ref(fdx_msg *msg);

// One reference less. [any] Sends under way keep what they need. NULL is accepted.
//
// Required:
// `msg` is null or live, and the caller has a reference to give back.
void fdx_msg_unref(fdx_msg *msg);

// Sends one message to `count` connections, sharing its bytes. [any] `results`, if not NULL, gets
// each one's status, as of `fdx_send`; `FDX_E_STATE` while a message in fragments is under way to
// it. `flags` is 0, `FDX_F_COMPRESS` or `FDX_F_NO_COMPRESS`. The message is compressed at most once for
// each size of window that was agreed on, however many connections get it.
//
// Returns the worst of them: the lowest if any is negative, else the highest; `FDX_OK` for no
// connection; `FDX_E_INVALID_ARG`.
//
// Required:
// `server` and `msg` are live; `conns` has `count` elements; `results` is null or has room for
// `count`.
fdx_status fdx_send_msg(fdx_server *server,
                        const fdx_conn *conns,
                        size_t count,
                        fdx_msg *msg,
                        uint32_t flags,
                        fdx_status *results);

// Sends many messages in one call, with one copy and one wake for all: what a loop that polls has
// gathered. [any] `records` holds `len` bytes of records one after the other, each at a multiple of
// 8 from the beginning:
//
// `{ uint64_t conn; uint32_t kind | flags << 8; uint32_t len; uint8_t payload[len]; padding }`
//
// in the byte order of the machine; the last needs no padding. Each counts as an `fdx_send`, in their
// order. The first `results_cap` of them write their status to `results`, which may be NULL.
//
// Returns the worst of them, as `fdx_send_msg` does; `FDX_E_INVALID_ARG` for bytes that are no
// records: then nothing was sent and no result was written.
//
// Required:
// `server` is live; `records` points to `len` readable bytes, or is null with `len` 0; `results` is
// null or has room for `results_cap`.
fdx_status fdx_submit(fdx_server *server,
                      const void *records,
                      size_t len,
                      fdx_status *results,
                      size_t results_cap);

// Begins the close handshake (RFC 6455, 7.1.2). [any] Messages queued before go first. No more
// messages of the peer are delivered; FDX_EV_CLOSE comes when it has answered, or after
// `timeout.close` with code 1006. `code` is 1000 to 1003, 1007 to 1014 or 3000 to 4999, or 0
// for a close without one; `reason` has at most 123 bytes and `len` may be `FDX_NTS`. Hixie
// has neither: the peer sees the connection end.
//
// `FDX_OK`; `FDX_ALREADY`; `FDX_E_NO_CONN`; `FDX_E_STATE` before it is open; `FDX_E_INVALID_ARG`
// for another code; `FDX_E_TOO_BIG`; `FDX_E_UTF8`; `FDX_E_STOPPED`.
//
// Required:
// `server` is live; `reason` has `len` bytes.
fdx_status fdx_close(fdx_server *server,
                     fdx_conn conn,
                     uint16_t code,
                     const char *reason,
                     size_t len);

// Ends a connection at once, without a close, dropping what is queued. [any] FDX_EV_CLOSE follows
// with code 1006 and `FDX_CLOSED_BY_HOST`. On a connection that is not open yet it ends the
// handshake.
//
// `FDX_OK`; `FDX_E_NO_CONN`; `FDX_E_STOPPED`.
//
// Required:
// `server` is live.
fdx_status fdx_abort(fdx_server *server, fdx_conn conn);

// Stops reading from a peer, so that TCP slows it down. [any] Messages read already may still
// come. Meanwhile its pongs and its leaving go unnoticed; `ping.timeout` does not count.
//
// `FDX_OK`; `FDX_E_NO_CONN`; `FDX_E_CLOSING`; `FDX_E_STATE` before it is open; `FDX_E_STOPPED`.
//
// Required:
// `server` is live.
fdx_status fdx_pause(fdx_server *server, fdx_conn conn);

// Reads again after `fdx_pause`. [any] Statuses as there.
//
// Required:
// `server` is live.
fdx_status fdx_resume(fdx_server *server, fdx_conn conn);

// Sends a ping of your own with at most 125 bytes. [any] Its pong comes as FDX_EV_PONG with the
// same bytes. The library pings by itself, too (`ping.interval`).
//
// `FDX_OK`; `FDX_E_TOO_BIG`; `FDX_E_UNSUPPORTED` on a Hixie connection; `FDX_E_FULL`;
// `FDX_E_NO_CONN`; `FDX_E_CLOSING`; `FDX_E_STATE`; `FDX_E_STOPPED`.
//
// Required:
// `server` is live; `data` has `len` bytes.
fdx_status fdx_ping(fdx_server *server, fdx_conn conn, const void *data, size_t len);

// Keeps a pointer of yours with a connection: later events carry it as `conn_data`. [any] From
// FDX_EV_UPGRADE on. `drop`, if not NULL, is called with it exactly once, on a thread of the
// library and never inside a call of yours: when it is replaced, or after CLOSE. With "dispatch" =
// "queue" it may be called by `fdx_batch_free`, when no event carries the pointer any more.
//
// `FDX_OK`; `FDX_E_NO_CONN` and `FDX_E_STOPPED`: the pointer stays yours, `drop` is not called.
//
// Required:
// `server` is live; `drop` can be called with `data` from any thread.
fdx_status fdx_conn_set_data(fdx_server *server,
                             fdx_conn conn,
                             void *data,
                             fdx_drop_fn drop);

// What is known of a connection, from FDX_EV_UPGRADE until the callback of FDX_EV_CLOSE has
// returned. [any]
//
// `FDX_OK`; `FDX_E_NO_CONN`; `FDX_E_INVALID_ARG` for NULL or a `struct_size` below 8.
//
// Required:
// `server` is live; `info` has its `struct_size` set.
fdx_status fdx_conn_get_info(fdx_server *server, fdx_conn conn, fdx_conn_info *info);

// Lists the open connections of a route (all with `UINT32_MAX`) into `out`, at most `cap`. [any]
// `*needed` is how many there are. A list is old when it is there: use it for sends, not for
// bookkeeping.
//
// `FDX_OK`; `FDX_E_BUFFER` if not all fitted (the first `cap` are there); `FDX_E_INVALID_ARG`.
//
// Required:
// `server` is live; `out` has room for `cap`; `needed` is null or writable.
fdx_status fdx_conns(fdx_server *server,
                     uint32_t route,
                     fdx_conn *out,
                     size_t cap,
                     size_t *needed);

// From now on a connection gets what is published to a topic. [any] It is in it when this
// returns, and leaves all its topics when its FDX_EV_CLOSE is delivered. The name is 1 to 255
// bytes of any kind; `len` may be `FDX_NTS`. A topic needs no making: it is there while somebody
// is in it. There are no patterns.
//
// `FDX_OK`; `FDX_ALREADY`; `FDX_E_NO_CONN`; `FDX_E_CLOSING`; `FDX_E_STATE` before it is open;
// `FDX_E_LIMIT` when it is in `max.topics`; `FDX_E_INVALID_ARG` for another name.
//
// Required:
// `server` is live; `topic` has `len` bytes.
fdx_status fdx_subscribe(fdx_server *server, fdx_conn conn, const char *topic, size_t len);

// A connection leaves a topic. [any] It still gets what was published before.
//
// `FDX_OK`; `FDX_ALREADY` if it is not in it; `FDX_E_NO_CONN`; `FDX_E_INVALID_ARG` for another
// name.
//
// Required:
// `server` is live; `topic` has `len` bytes.
fdx_status fdx_unsubscribe(fdx_server *server, fdx_conn conn, const char *topic, size_t len);

// Sends a message to everyone who is in a topic now. [any] It is encoded and compressed once, and
// shared. With a backplane it goes to the other machines, too.
//
// What one thread publishes arrives at each connection in that order, also on several topics, and
// what it sends the connection otherwise, closes included, keeps its place among it. However many subscribers there are, other
// connections are served meanwhile: a shard sends to some hundreds of them and then looks around.
//
// `flags` is 0 or a sum of `FDX_F_COMPRESS` or `FDX_F_NO_COMPRESS`, see `fdx_send`, and
// `FDX_F_SKIP_SENDER`: then `sender` does not get it. `result` may be NULL; else set its
// `struct_size`.
//
// `FDX_OK`, whatever became of it and also for nobody; `FDX_E_TOO_BIG` for more than `send.limit`;
// `FDX_E_STATE` before the start; `FDX_E_INVALID_ARG`.
//
// Required:
// `server` and `msg` are live; `topic` has `len` bytes; `result` is null or has its `struct_size`.
fdx_status fdx_publish(fdx_server *server,
                       const char *topic,
                       size_t len,
                       fdx_msg *msg,
                       uint32_t flags,
                       fdx_conn sender,
                       fdx_publish_result *result);

// How many connections of this process are in a topic. [any]
//
// `FDX_OK`; `FDX_E_INVALID_ARG`.
//
// Required:
// `server` is live; `topic` has `len` bytes; `out` is writable.
fdx_status fdx_topic_count(fdx_server *server, const char *topic, size_t len, uint64_t *out);

// Sets a backplane of your own for the servers made of this config. [setup] It is copied; a later
// one takes its place. It begins UP: say with `fdx_backplane_state` when it is not.
//
// `FDX_OK`; `FDX_E_INVALID_ARG` for NULL, also of one of the three functions. On an error `drop` is
// not called.
//
// Required:
// `config` is live; `backplane` has its `struct_size` set, and its functions can be called from any
// thread until its `drop` was; `error` is null or has its `struct_size`.
fdx_status fdx_config_backplane(fdx_config *config,
                                const fdx_backplane *backplane,
                                fdx_error *error);

// Brings an envelope that came on a channel, for the server's subscribers of the topic. [any] What
// this server has published itself, and what came before, is dropped. `len` may be `FDX_NTS`. In
// which order you bring them is the order in which they go out.
//
// `FDX_OK`; `FDX_E_BACKPLANE` for what is no envelope, or one of another version, or on a channel
// without "backplane.prefix"; `FDX_E_STATE` without `fdx_config_backplane`, and before the start;
// `FDX_E_STOPPED`; `FDX_E_INVALID_ARG`.
//
// Required:
// `server` is live; `channel` has `len` bytes and `envelope` `envelope_len`.
fdx_status fdx_backplane_deliver(fdx_server *server,
                                 const char *channel,
                                 size_t len,
                                 const void *envelope,
                                 size_t envelope_len);

// Says how your backplane is: `FDX_BP_UP`, `FDX_BP_DOWN`, or `FDX_BP_GAP` when messages may have been
// lost on it. [any] While it is DOWN publishes wait, up to "backplane.limit". At an UP after a DOWN
// all channels are subscribed anew, then what waits is published; and FDX_EV_BACKPLANE tells of UP and
// GAP.
//
// `FDX_OK`; `FDX_ALREADY`; `FDX_E_STATE` without `fdx_config_backplane`; `FDX_E_STOPPED`;
// `FDX_E_INVALID_ARG`.
//
// Required:
// `server` is live.
fdx_status fdx_backplane_state(fdx_server *server,
                               int32_t code);

// The sums of a server. [any]
//
// `FDX_OK`; `FDX_E_INVALID_ARG` for NULL or a `struct_size` below 8.
//
// Required:
// `server` is live; `stats` has its `struct_size` set.
fdx_status fdx_get_stats(fdx_server *server, fdx_stats *stats);

// The sums of a server as OpenMetrics text, what `http.metrics` serves to who asks for it. [any]
// At most `cap` bytes with the NUL go to `buf`; `*needed` is set always.
//
// `FDX_OK`; `FDX_E_BUFFER`; `FDX_E_INVALID_ARG`.
//
// Required:
// `server` is live; `buf` has room for `cap`; `needed` is null or writable.
fdx_status fdx_metrics_text(fdx_server *server, char *buf, size_t cap, size_t *needed);

// Sets where the library logs to, for all servers of the process, up to `max_level` (0 off, 1
// error … 5 trace). [any] NULL switches it off. `drop` is called with `user_data` when the last
// line was given to it: at once, or when a thread that is inside `log` returns from it.
//
// Required:
// `log` and `drop` can be called with `user_data` from any thread, until `drop` was.
void fdx_set_log(int32_t max_level, fdx_log_fn log, void *user_data, fdx_drop_fn drop);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FULLDUPLEX_H */
